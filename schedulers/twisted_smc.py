r"""Twisted sequential Monte Carlo: posterior samples that are exact in the limit of many particles (Wu et al. 2023).

Experimental: names and behaviour may change without a deprecation.

For a measurement y = A x_0 + noise_std n, populations of particles follow the prior's own chain p(x_s | x_t), guided by a
twist, an approximation of p_t(y | x_t) that need not be accurate:

    twist(x_t) = N(y; A D, v A At + noise_std^2),   v = r^2 w / (r^2 + w),   r = sigma / alpha,

with the denoised image D and the variance w of the data. The twisted score, prior plus grad log twist, proposes
x_s ~ q(x_s | x_t), and weights correct for the difference:

    weight = p(x_s | x_t) twist(x_s) / (q(x_s | x_t) twist(x_t)).

Where few particles carry the weight, a population is resampled (systematic resampling).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_finite, check_integer, check_number
from .operators import LinearOperator, inner
from .predictors import Predictor
from .score_function import ScoreFunction, check_function
from .sde import SDE


class TwistedSMC:
    """The twisted score, `(x, t) -> score`, of one population per measurement; `resample` goes after every step.

    In a loop of your own, and in `sampling_loop` with `constrain=smc.resample`:

    ```python
    x = smc.resample(x, scheduler.times[0])
    x = sampling_loop(scheduler, smc, x, generator, constrain=smc.resample)
    ```

    Args:
        score_fn: `(x, t) -> score` of the prior; differentiable in x.
        sde: the SDE.
        operator: A.
        y: the measurement of each particle, (B, *M), in the units of the state; the same within a population.
        noise_std: standard deviation of the measurement's noise.
        predictor: the prior's chain, with noise: the predictor of the scheduler that does the steps.
        particles: size of a population; B is a multiple of it.
        data_std: standard deviation of the data, roughly.
        uniform: returns a number in [0, 1) for each population, (B / particles,).
        threshold: a population is resampled when its effective size falls below this share.

    Raises:
        TypeError, ValueError: for an argument of the wrong kind or out of its range, naming it.
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        sde: SDE,
        operator: LinearOperator,
        y: Tensor,
        noise_std: float,
        predictor: Predictor,
        particles: int,
        data_std: float,
        uniform: Callable[[], Tensor] | None = None,
        threshold: float = 0.5,
    ):
        check_function("score_fn", score_fn)
        check_function("predictor", predictor)
        self.sde, self.score_fn, self.predictor, self.operator = sde, score_fn, predictor, operator
        self.measurement, self.noise_variance = check_finite("y", y), check_number("noise_std", noise_std, 0) ** 2
        self.data_std = check_number("data_std", data_std, 0, ends="()")
        self.particles = check_integer("particles", particles)
        if len(y) % self.particles:
            raise ValueError(f"y must hold a multiple of {self.particles} particles, got {len(y)}")
        self.threshold = check_number("threshold", threshold, 0, 1)
        self.uniform = uniform or (lambda: torch.rand(len(y) // self.particles))
        #: Network evaluations so far: calls of the score and vector-Jacobian products, each counted as one.
        self.evaluations = 0
        self._log_weights = torch.zeros(len(y), device=y.device)
        self._time: Tensor | None = None
        self._states: tuple[Tensor, ...] = ()  # the states, their prior and twisted scores, their log twists

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The twisted score, in the shape of `x` (B, *D).

        `resample` has just evaluated the network at the states that it returned; states that were changed since, or never
        resampled, are evaluated here, and keep their weights.
        """
        if not self._states or self._time != t or not torch.equal(self._states[0], x):
            self._states, self._time = (x.clone(), *self._evaluate(x, t)), t
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
        self._log_weights = torch.where(poor, 0.0, self._log_weights)
        self._states = tuple(value[ancestors] for value in found)
        return self._states[0].clone()  # the caller may change it in place

    def _evaluate(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prior score, twisted score and log twist (B,), up to a constant."""
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
        assert self._time is not None
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
