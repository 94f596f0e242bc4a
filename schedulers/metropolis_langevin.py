r"""The Metropolis-adjusted Langevin corrector, which leaves p_t unchanged at any step size.

A step proposes x' = x + h score(x) + sqrt(2 h) noise with h = 2 (snr sigma_t)^2, as annealed Langevin does, and accepts it
with the probability min(1, a) (Roberts & Tweedie 1996),

    log a = log p_t(x') - log p_t(x) - (x' - x) (score(x) + score(x')) / 2 - h / 4 (|score(x')|^2 - |score(x)|^2),

where the last two terms are the difference of the two proposals' log-densities; else x stays. A score network has no
density. The difference of log p_t is the integral of the score from x to x', which is (x' - x) (score(x) + score(x')) / 2 by
the trapezoidal rule, so that

    log a = -h / 4 (|score(x')|^2 - |score(x)|^2).

This is exact on Gaussians, whose score is linear; elsewhere the rule has an error of third order in x' - x. With a density
of one's own, `log_prob`, the corrector is exact for every p_t.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_function
from .sde import SDE, expand_to
from .step_checks import check_noisy_step


class MetropolisLangevin:
    """A corrector with two network calls per step: at the state and at the proposal.

    The decision takes its uniform number from the noise of the second call, and so from the generator of its sample. On
    N(0, p I) in d dimensions about 2 Phi(-(h / p)^(3/2) sqrt(d / 8)) of the steps are accepted, for small steps.

    Args:
        log_prob: `(x, t) -> log p_t(x)`, (B, *D) to (B,), up to a constant; by default from the score.
    """

    evaluations = 2

    def __init__(self, log_prob: Callable[[Tensor, Tensor], Tensor] | None = None):
        check_function("log_prob", log_prob, optional=True)
        self.log_prob = log_prob
        self.start()

    def start(self) -> None:
        """Begins a sampling run: no proposal has been made."""
        self._origin: tuple[Tensor, Tensor] | None = None
        self.acceptance = torch.zeros(0)  #: acceptance probabilities (B,) of the last step

    def __call__(
        self, sde: SDE, x: Tensor, score: Tensor, t: Tensor, noise: Tensor, snr: float, evaluation: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The proposal, without and with its noise, from the state `x` (B, *D); at `evaluation` 1 the state after the step.

        Args:
            x: the state; at `evaluation` 1 the proposal.
            score: at `x`.
        """
        snr, t = check_noisy_step(sde, x, score, t, noise, snr)
        size = 2 * (snr * sde.sigma(t)) ** 2
        if evaluation == 0:
            self._origin = x, score
            mean = x + expand_to(size, x) * score
            return mean, mean + expand_to(torch.sqrt(2 * size), x) * noise
        if self._origin is None:  # A loop that begins between the two calls has its state already.
            return x, x
        (origin, first), self._origin = self._origin, None
        growth = _dot(score, score) - _dot(first, first)
        log_ratio = -expand_to(size, growth) / 4 * growth
        if self.log_prob is not None:
            rise = self.log_prob(x, t) - self.log_prob(origin, t)
            log_ratio = log_ratio + rise - _dot(x - origin, score + first) / 2
        self.acceptance = log_ratio.clamp_max(0).exp()
        uniform = torch.special.ndtr(noise.flatten(1)[:, 0])
        accepted = (uniform < self.acceptance).reshape(-1, *(1,) * (x.ndim - 1))
        state = torch.where(accepted, x, origin)
        return state, state


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
