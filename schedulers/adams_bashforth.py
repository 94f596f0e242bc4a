r"""Exponential Adams-Bashforth: several past scores instead of one, for the same number of network calls.

The predictor "exponential_multistep" up to version 0.1; `multistep` is more accurate at few calls and more stable.

Divided by alpha, the probability-flow ODE has one term. With y = x / alpha, the noise ratio r = sigma / alpha
and the noise that the score implies, eps = -sigma score (paper eq. 13 in these variables),

    dy / dr = eps(y, r).

A step interpolates the last k values of eps by a polynomial in log r, in which they are smooth over all scales, and
integrates it exactly (an exponential Adams-Bashforth method; k = 1 is the exponential predictor, DDIM). The last step
ends at r = 0, where log r is minus infinity: there two values are interpolated in r itself. It follows the ODE to its end,
while E[x_0 | x] would be the posterior mean, so that details as fine as the last noise level keep their variance.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .checks import check_integer
from .sde import SDE
from .step_checks import check_scored, check_step


QUADRATURE = np.polynomial.legendre.leggauss(16)


class ExponentialAdamsBashforth:
    """Adams-Bashforth steps of order k in log(sigma / alpha); a predictor with a memory of earlier steps.

    With a corrector between the steps the stored values belong to nearby states, and the order falls to one.

    Args:
        order: how many values of eps a step interpolates (the first steps have fewer); 1 to 6.

    Raises:
        ValueError: for an order out of this range.
    """

    def __init__(self, order: int = 4):
        self.order = check_integer("order", order, 1, 6)
        self.start()

    def start(self) -> None:
        """Begins a sampling run: there are no earlier steps."""
        self._ratios: list[float] = []
        self._noises: list[Tensor] = []

    def __call__(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The next state (B, *D) at the time `s` < `t` and a standard deviation of zero, as every predictor."""
        t, s = check_step(sde, x, score, t, s)
        self._remember(sde, score, t)
        end = float(sde.noise_ratio(s))
        return sde.alpha(s) * self._integrate(x / sde.alpha(t), np.log, end, self.order), torch.zeros_like(t)

    def denoise(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """The clean image (B, *D) at the end of the ODE, from the last state."""
        t = check_scored(sde, x, score, t)
        self._remember(sde, score, t)
        return self._integrate(x / sde.alpha(t), np.asarray, 0.0, 2)

    def _remember(self, sde: SDE, score: Tensor, t: Tensor) -> None:
        self._ratios = [float(sde.noise_ratio(t)), *self._ratios][: self.order]
        self._noises = [-sde.sigma(t) * score, *self._noises][: self.order]

    def _integrate(self, y: Tensor, variable: Callable, end: float, points: int) -> Tensor:
        ratios, noises = self._ratios[:points], self._noises[:points]
        for weight, noise in zip(_weights(ratios, variable, end), noises):
            y = y + weight * noise
        return y


def _weights(ratios: list[float], variable: Callable, end: float) -> list[float]:
    """Integrals over r from ratios[0] to `end` of the Lagrange polynomials in variable(r) through `ratios`."""
    points, masses = QUADRATURE
    nodes = variable(np.array(ratios))
    low, high = variable(np.array([ratios[0], end]))
    positions = 0.5 * (low + high) + 0.5 * (high - low) * points
    # dr in terms of the variable: the interval times r for the logarithm, the interval alone for r itself.
    masses = 0.5 * (high - low) * masses * (np.exp(positions) if variable is np.log else 1.0)
    weights = []
    for i, node in enumerate(nodes):
        others = np.delete(nodes, i)
        weights.append(float((np.prod((positions[:, None] - others) / (node - others), axis=1) * masses).sum()))
    return weights
