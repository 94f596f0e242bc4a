r"""Twisted sequential Monte Carlo (Wu et al. 2023): posterior samples, exact in the limit of many particles. Experimental.

For a measurement y = A x_0 + sigma_y n, a population of particles follows the prior's own chain p(x_s | x_t), guided by a
twist: an approximation of p_t(y | x_t) that need not be exact,

    twist(x_t) = N(y; A D, v A At + sigma_y^2 I),   v = r^2 w / (r^2 + w),   r = sigma / alpha,

with the denoised image D and the variance w of the data. The twisted score, prior plus grad log twist, proposes
x_s ~ q(x_s | x_t), and the importance weight corrects the proposal:

    weight = p(x_s | x_t) twist(x_s) / (q(x_s | x_t) twist(x_t)).

A population whose effective sample size is small is resampled (systematic resampling).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_function, check_integer, check_number
from .inference_mode import differentiates
from .linear_operator import LinearOperator
from .linear_systems import inner
from .operator_checks import check_condition, misfit
from .predictors import Predictor, ancestral
from .score_function import ScoreFunction, check_score
from .sde import DATA_STD, LARGEST_SIGMA, SDE, SMALLEST_SIGMA, finest_dtype
from .step_checks import check_prediction
from .transfers import to_device


class TwistedSMC:
    """The twisted score of populations of particles, and their resampling. Make one for each sampling run.

    The object itself is the score function of the sampling loop, and `resample` its constraint on the state. `resample`
    evaluates the network; the score of the states that it returns costs nothing more. States that were edited since
    (by a callback) are evaluated again.

    Args:
        score_fn: the prior's score, `(x, t) -> (B, *D)`, differentiable in x.
        sde: the prior's SDE.
        operator: A.
        y: the measurement of each particle, (B, *M); those of one population are equal.
        noise_std: sigma_y, in the units of the state, as `y`.
        particles: size of a population; B is a multiple of it.
        predictor: the prior's chain, with noise: `(sde, x, score, t, s) -> (mean, std)`; the one of the sampling loop.
        data_std: rough standard deviation of the data.
        uniform: returns a number in [0, 1) for each population, (B / particles,); by default from torch's global generator.
        threshold: a population is resampled when its effective size falls below this share.

    Attributes:
        evaluations: calls of the score and vector-Jacobian products so far, each counted as one.

    Raises:
        TypeError, ValueError: for an argument out of its range, or a batch that is no multiple of `particles`.
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        sde: SDE,
        operator: LinearOperator,
        y: Tensor,
        noise_std: float,
        particles: int,
        *,
        predictor: Predictor = ancestral,
        data_std: float = DATA_STD,
        uniform: Callable[[], Tensor] | None = None,
        threshold: float = 0.5,
    ) -> None:
        check_condition(score_fn, sde, operator, y)
        check_function("predictor", predictor, 5)
        check_function("uniform", uniform, 0, optional=True)
        self.score_fn, self.sde, self.operator, self.y, self.predictor = score_fn, sde, operator, y, predictor
        self.noise_variance = check_number("noise_std", noise_std, 0, LARGEST_SIGMA) ** 2
        self.data_std = check_number("data_std", data_std, SMALLEST_SIGMA, LARGEST_SIGMA)
        self.threshold = check_number("threshold", threshold, 0, 1)
        self.particles = check_integer("particles", particles)
        if len(y) % self.particles:
            raise ValueError(f"y must hold a multiple of particles = {particles} measurements, got {len(y)}")
        self.uniform = uniform or (lambda: torch.rand(len(y) // self.particles, device="cpu"))
        self.evaluations = 0
        self._log_weights = torch.zeros(len(y), device=y.device)
        self._time: Tensor | None = None
        self._states: tuple[Tensor, ...] = ()  # the states, their prior and twisted scores, their log twists

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The twisted score at the states `x` (B, *D) and the time `t` (0-dim), same shape."""
        if not self._states or not (x is self._states[0] or torch.equal(x, self._states[0])):
            found = (x, *self._evaluate(x, t))
            # The weights of edited states are those of their new twists.
            before = self._states[3] if self._states else torch.zeros_like(found[3])
            self._log_weights = self._log_weights + found[3] - before
            self._states, self._time = found, t
        return self._states[2]

    def resample(self, x: Tensor, t: Tensor) -> Tensor:
        """The populations after weighting and, where the weights are uneven, resampling the states `x` (B, *D) at `t`."""
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
        self._log_weights = self._log_weights.masked_fill(poor, 0.0)
        self._states = tuple(value[ancestors] for value in found)
        return self._states[0]

    @differentiates
    def _evaluate(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prior score, twisted score and log twist (B,), but for a constant."""
        ratio, data = float(self.sde.noise_ratio(t)) ** 2, self.data_std**2
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            score = check_score(self.score_fn(x, t), x)
            error = misfit(self.operator, self.y, self.sde.denoise(x, score, t))
            with torch.no_grad():
                solved = self.operator.solve(error, ratio * data / (ratio + data), self.noise_variance)
            # The quadratic form's gradient: its matrix does not depend on x.
            (gradient,) = torch.autograd.grad(-inner(error, solved).sum(), x)
        self.evaluations += 2
        score = score.detach()
        return score, score + gradient, -0.5 * inner(error.detach(), solved)

    def _step_log_ratio(self, x: Tensor, s: Tensor) -> Tensor:
        """log of p(x_s | x_t) / (q(x_s | x_t) twist(x_t)), shape (B,): Gaussians of one variance and two means."""
        before, score, twisted, log_twist = self._states
        assert self._time is not None
        prior_mean, std = check_prediction(self.predictor(self.sde, before, score, self._time, s), before)
        mean, _ = check_prediction(self.predictor(self.sde, before, twisted, self._time, s), before)
        shift = mean - prior_mean
        return -(inner(x - mean, shift) + 0.5 * inner(shift, shift)) / float(std) ** 2 - log_twist

    def _weights(self) -> Tensor:
        """Normalised weights, (B / particles, particles)."""
        log_weights = self._log_weights.reshape(-1, self.particles)
        return torch.softmax(log_weights.to(finest_dtype(log_weights.device)), dim=1)

    def _ancestors(self) -> Tensor:
        """Indices (B,) into the batch: systematic resampling of every population."""
        weights = self._weights()
        n, device = self.particles, weights.device
        positions = (
            torch.arange(n, device=device) + to_device(self.uniform(), weights.device, weights.dtype)[:, None]
        ) / n
        chosen = torch.searchsorted(weights.cumsum(1), positions).clamp_max(n - 1)
        return (chosen + n * torch.arange(len(weights), device=device)[:, None]).flatten()
