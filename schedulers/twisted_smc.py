r"""Twisted sequential Monte Carlo: posterior samples that are exact in the limit of many particles (Wu et al. 2023).

For a measurement y = A x_0 + s n, a population of particles walks down the prior's own chain p(x_s | x_t), led by a twist,
a guess of p_t(y | x_t) that needs not be right:

    twist(x_t) = N(y; A D, v A At + s^2),   v = r^2 w / (r^2 + w),   r = sigma / alpha,

with the denoised image D and the variance w of the data. The twisted score, prior plus grad log twist, proposes
x_s ~ q(x_s | x_t), and the weight repairs what is wrong about it:

    weight = p(x_s | x_t) twist(x_s) / (q(x_s | x_t) twist(x_t)).

Where few particles carry the weight, the population is drawn anew (systematic resampling). In the sampling loop all this
is a constraint on the state; the network sees each state once, in the constraint, and `score` hands on what it found.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .conditioning import ScoreFunction
from .operators import LinearOperator, inner
from .predictors import Predictor
from .sde import SDE


class TwistedSMC:
    """One walk of one population per measurement.

    Args:
        sde: the prior's SDE.
        score_fn: the prior's score, differentiable.
        predictor: the prior's chain, with noise: `(sde, x, score, t, s) -> (mean, std)`.
        operator: A.
        measurement: y of each particle, (B, *M); those of one population are alike.
        noise_std: s, in the units of the state, as `measurement`.
        particles: size of a population; B is a multiple of it.
        data_std: standard deviation of the data, roughly.
        uniform: returns a number in [0, 1) for each population, (B / particles,).
        threshold: a population is drawn anew when its effective size falls below this share.

    Attributes:
        evaluations: calls of the score and vector-Jacobian products so far, each counted as one.
    """

    def __init__(
        self,
        sde: SDE,
        score_fn: ScoreFunction,
        predictor: Predictor,
        operator: LinearOperator,
        measurement: Tensor,
        noise_std: float,
        particles: int,
        data_std: float,
        uniform: Callable[[], Tensor],
        threshold: float = 0.5,
    ):
        self.sde, self.score_fn, self.predictor, self.operator = sde, score_fn, predictor, operator
        self.measurement, self.noise_variance, self.data_std = measurement, float(noise_std) ** 2, float(data_std)
        self.particles, self.uniform, self.threshold = particles, uniform, threshold
        self.evaluations = 0
        self._log_weights = torch.zeros(len(measurement), device=measurement.device)
        self._time: Any = None
        self._states: tuple[Tensor, ...] = ()  # the states, their prior and twisted scores, their log twists

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The twisted score at the states that `__call__` has just returned, whatever the arguments."""
        return self._states[2]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The populations after weighing and, where the weights are uneven, resampling the states `x` (B, *D) at `t`."""
        if float(t) == 0:  # the means of the last states, which have their weights already
            return x[self._ancestors()]
        found = (x, *self._evaluate(x, t))
        gain = found[3] if self._time is None else found[3] + self._step_log_ratio(x, t)
        self._log_weights, self._time = self._log_weights + gain, t
        share = 1 / (self._weights().square().sum(1) * self.particles)
        poor = (share < self.threshold).repeat_interleave(self.particles)
        own = torch.arange(len(x), device=x.device)
        # Drawn in any case: what a population draws must not depend on the others.
        ancestors = torch.where(poor, self._ancestors(), own)
        self._log_weights = torch.where(poor, 0.0, self._log_weights)
        self._states = tuple(value[ancestors] for value in found)
        return self._states[0]

    def _evaluate(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prior score, twisted score and log twist (B,), but for a constant."""
        ratio, data = float(self.sde.noise_ratio(t)) ** 2, self.data_std**2
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            score = self.score_fn(x, t)
            misfit = self.measurement - self.operator.A(self.sde.denoise(x, score, t))
            with torch.no_grad():
                solved = self.operator.solve(misfit, ratio * data / (ratio + data), self.noise_variance)
            # The quadratic form's gradient: its matrix does not depend on x.
            (gradient,) = torch.autograd.grad(-inner(misfit, solved).sum(), x)
        self.evaluations += 2
        score = score.detach()
        return score, score + gradient, -0.5 * inner(misfit.detach(), solved)

    def _step_log_ratio(self, x: Tensor, s: Tensor) -> Tensor:
        """log of p(x_s | x_t) / (q(x_s | x_t) twist(x_t)), shape (B,): Gaussians of one variance and two means."""
        before, score, twisted, log_twist = self._states
        prior_mean, std = self.predictor(self.sde, before, score, self._time, s)
        mean, _ = self.predictor(self.sde, before, twisted, self._time, s)
        shift = mean - prior_mean
        return -(inner(x - mean, shift) + 0.5 * inner(shift, shift)) / float(std) ** 2 - log_twist

    def _weights(self) -> Tensor:
        """Normalised weights, (B / particles, particles)."""
        return torch.softmax(self._log_weights.reshape(-1, self.particles).double(), dim=1)

    def _ancestors(self) -> Tensor:
        """Indices (B,) into the batch: systematic resampling of every population."""
        weights = self._weights()
        n, device = self.particles, weights.device
        positions = (torch.arange(n, device=device) + self.uniform().to(device, torch.float64)[:, None]) / n
        chosen = torch.searchsorted(weights.cumsum(1), positions).clamp_max(n - 1)
        return (chosen + n * torch.arange(len(weights), device=device)[:, None]).flatten()
