r"""Heun's method for the probability-flow ODE: two evaluations per level, second order.

In y = x / alpha as a function of r = sigma / alpha the ODE is dy / dr = eps(y, r) = -sigma score (see `multistep`), and a
step from r_t to r_s is (Karras et al. 2022, algorithm 1)

    y' = y + (r_s - r_t) eps(y, r_t),        y'' = y' + (r_s - r_t) (eps(y', r_s) - eps(y, r_t)) / 2.
"""

import torch
from torch import Tensor

from .sde import SDE
from .step_checks import check_step


class Heun:
    """A predictor with two evaluations per level, at t and at s; the first is stored for the second."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begins a sampling run: there is no first evaluation yet."""
        self._noise: Tensor | None = None

    def times(self, sde: SDE, t: Tensor, s: Tensor) -> list[Tensor]:
        """Where the two evaluations of a step from `t` to `s` are."""
        return [t, s]

    def __call__(
        self, sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor, evaluation: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The state (B, *D) at `s` and a standard deviation of zero; `score` is that at t first, then that at s."""
        t, s = check_step(sde, x, score, t, s)
        width, none = sde.noise_ratio(s) - sde.noise_ratio(t), torch.zeros_like(t)
        if evaluation == 0:
            self._noise = -sde.sigma(t) * score
            return sde.alpha(s) * (x / sde.alpha(t) + width * self._noise), none
        if self._noise is None:  # A loop that begins between the two evaluations has its state at s already.
            return x, none
        first, self._noise = self._noise, None
        return x + sde.alpha(s) * (0.5 * width) * (-sde.sigma(s) * score - first), none
