r"""Which times a training batch visits.

Two independent choices:

- *draws* u in [0, 1): independent, or stratified (one in each of B equal cells: the same mean loss, less variance);
- *density* of t in [eps, T]: uniform (Song et al. 2021, eq. 7), or proportional to ``g^2 / sigma^2``, the importance
  sampling of likelihood-weighted training (Song et al. 2021b, "Maximum likelihood training", section 5), where the
  loss under the default weighting lambda = sigma^2 is multiplied by the constant ``Z / (T - eps)``.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..schedulers.sde import SDE


TABLE_SIZE = 10_001


def uniform_draws(batch_size: int, generator: torch.Generator | None, device: torch.device | str) -> torch.Tensor:
    """Independent uniforms in [0, 1), float64, shape (B,)."""
    return torch.rand(batch_size, generator=generator, device=device, dtype=torch.float64)


def stratified_draws(batch_size: int, generator: torch.Generator | None, device: torch.device | str) -> torch.Tensor:
    """Uniforms of which exactly one falls into each [k / B, (k + 1) / B), in order, float64, shape (B,)."""
    jitter = uniform_draws(batch_size, generator, device)
    return (torch.arange(batch_size, device=device, dtype=torch.float64) + jitter) / batch_size


DRAWS = {"uniform": uniform_draws, "stratified": stratified_draws}


class TimeSampler:
    """Draws the times of a batch and the weight that keeps the expected loss unbiased.

    Args:
        sde: the SDE that is trained.
        draws: "stratified" or "uniform".
        importance_sampling: density proportional to g^2 / sigma^2 instead of uniform.
        eps: the smallest time; 0 < eps < T.

    Attributes:
        normalizer: Z = integral of g^2 / sigma^2 over [eps, T] (1 / (T - eps) of it is the weight), or None.
    """

    def __init__(
        self, sde: SDE, draws: str = "stratified", importance_sampling: bool = False, eps: float = 1e-5
    ) -> None:
        if draws not in DRAWS:
            raise ValueError(f"draws is {draws!r}, expected one of {sorted(DRAWS)}")
        if not 0 < eps < sde.T:
            raise ValueError(f"eps is {eps}, expected a time between 0 and T = {sde.T}")
        self.sde, self.eps, self._draw = sde, eps, DRAWS[draws]
        self.normalizer: float | None = None
        if importance_sampling:
            self._tabulate()

    def _tabulate(self) -> None:
        """The cumulative integral of g^2 / sigma^2 on a grid that is even in log t, where the integrand is smooth."""
        log_t = torch.linspace(math.log(self.eps), math.log(self.sde.T), TABLE_SIZE, dtype=torch.float64)
        t = log_t.exp().clamp(max=self.sde.T)
        density = t * (self.sde.diffusion(t) / self.sde.sigma(t)).square()
        cells = 0.5 * (density[1:] + density[:-1]) * log_t.diff()
        cumulative = torch.cat([cells.new_zeros(1), cells.cumsum(0)])
        self.normalizer = float(cumulative[-1])
        self._cdf, self._log_t = (cumulative / cumulative[-1]).numpy(), log_t.numpy()

    def __call__(
        self, batch_size: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns ``(t, weight)``, both float32 of shape (B,).

        ``weight`` multiplies the loss of each sample: 1 for the uniform density, and for importance sampling
        Z / (T - eps), to be used with the *default* weighting of the loss.
        """
        u = self._draw(batch_size, generator, device)
        if self.normalizer is None:
            t = self.eps + (self.sde.T - self.eps) * u
            return t.float(), torch.ones_like(t, dtype=torch.float32)
        log_t = np.interp(u.cpu().numpy(), self._cdf, self._log_t)
        t = torch.from_numpy(np.exp(log_t)).to(device).clamp(self.eps, self.sde.T)
        return t.float(), torch.full_like(t, self.normalizer / (self.sde.T - self.eps), dtype=torch.float32)
