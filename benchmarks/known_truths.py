"""Data whose exact solution is known, for `samplers.py` and the tests: spectra, mixtures, and a linear stability test."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from scoresde_pipelines.models import GaussianMixtureScoreModel
from scoresde_pipelines.schedulers import SDE, SDEScheduler, solve_probability_flow
from scoresde_pipelines.schedulers.adaptive_restart import restart_times
from scoresde_pipelines.schedulers.sde import DATA_STD


#: Directions of the stability test: variances of the data, from a constant background to the largest contrasts.
VARIANCES = torch.tensor([0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64)
NETWORK_ERROR = 0.02
MIXTURE = ([0.3, 0.5, 0.2], [-0.7, 0.1, 0.8], [0.1, 0.2, 0.05])


class Truth:
    """A score, starts, what noise does to the law of a sample, and a distance of the result.

    Args:
        score: `(sde, x, t) -> score`.
        start: states (B, *D) on the marginal at alpha, sigma.
        spread: `(x, std) -> x`, the states after noise of this standard deviation.
        distance: of the samples (B, *D).
    """

    def __init__(
        self,
        score: Callable[[SDE, Tensor, Tensor], Tensor],
        start: Callable[[float, float], Tensor],
        spread: Callable[[Tensor, float], Tensor],
        distance: Callable[[Tensor], float],
    ):
        self.score, self.start, self.spread, self.distance = score, start, spread, distance

    def measure(self, scheduler: SDEScheduler, calls: int) -> float:
        """The distance that a scheduler's predictor ends at, from the exact marginal on; without sampling error."""
        scheduler.set_timesteps(calls)
        sde, levels, predictor = scheduler.sde, scheduler.levels, scheduler.predictor
        x = self.start(float(sde.alpha(levels[0])), float(sde.sigma(levels[0])))
        for t, s in pairwise(levels):
            x, std = predictor(sde, x, self.score(sde, x, t), t, s)
            x = self.spread(x, float(std)) if float(std) > 0 else x
        return self.distance(predictor.denoise(sde, x, self.score(sde, x, levels[-1]), levels[-1]))

    def measure_adaptive(self, sde: SDE, tolerance: float, restarts: int, end: float = 1e-3) -> tuple[float, float]:
        """Mean calls and distance of `solve_with_restarts` from the exact marginal at T, without sampling error."""
        low, high = restart_times(sde, DATA_STD)
        t, calls = torch.tensor(sde.T, dtype=torch.float64), 1.0
        x = self.start(float(sde.alpha(t)), float(sde.sigma(t)))
        descents = [(sde.T, low), *[(high, low)] * (restarts - 1), (high, end)] if restarts else [(sde.T, end)]
        for i, times in enumerate(descents):
            if i:
                scale, std = sde.transition(*torch.tensor([high, low], dtype=torch.float64))
                x = self.spread(float(scale) * x, float(std))
            solution = solve_probability_flow(partial(self.score, sde), sde, x, *times, tolerance=tolerance)
            x, calls = solution.x, calls + float(solution.nfe.double().mean())
        t = torch.tensor(end, dtype=torch.float64)
        return calls, self.distance(sde.denoise(x, self.score(sde, x, t), t))


def spectrum(exponent: float = 1.5, size: int = 3072) -> Truth:
    """N(0, diag(lambda_k)), lambda_k ~ k^-exponent with mean 0.25: one state, its numbers the standard deviations.

    A sampler is linear there and maps each direction on its own: the Frechet distance sum (sqrt v - sqrt lambda)^2 is exact.
    """
    variances = torch.arange(1, size + 1, dtype=torch.float64) ** -exponent
    variances *= 0.25 / variances.mean()
    data = GaussianMixtureScoreModel(torch.ones(1), torch.zeros(1, size), variances=variances[None])
    return Truth(
        data.score,
        lambda alpha, sigma: (alpha**2 * variances + sigma**2).sqrt()[None],
        lambda x, std: (x**2 + std**2).sqrt(),
        lambda x: float((x.abs() - variances.sqrt()).square().sum()),
    )


def mixture(weights: list[float], means: list[float], stds: list[float], quantiles: int = 2000) -> Truth:
    """A mixture of normals in one dimension: the states are quantiles, the distance W2 to the exact ones."""
    w, m, s = (torch.tensor(values, dtype=torch.float64) for values in (weights, means, stds))
    data = GaussianMixtureScoreModel(w, m[:, None], variances=s[:, None] ** 2)
    levels = (torch.arange(quantiles, dtype=torch.float64) + 0.5) / quantiles

    def start(alpha: float, sigma: float) -> Tensor:
        return _quantiles(levels, w, alpha * m, (alpha**2 * s**2 + sigma**2).sqrt())

    def spread(x: Tensor, std: float) -> Tensor:
        # The law of quantiles plus noise is a mixture with one normal at each of them.
        return _quantiles(levels, torch.full_like(levels, 1 / quantiles), x[:, 0], torch.full_like(levels, std))

    exact = start(1.0, 0.0)
    return Truth(data.score, start, spread, lambda x: float((x - exact).square().mean().sqrt()))


def network_errors(distance: Callable[[Tensor], float], samples: int = 2000) -> Truth:
    """The linear stability test: what a solver makes of a network's errors in directions of the data variances `VARIANCES`.

    The solver starts from zero and is told the exact linear noise prediction r y / (variance + r^2) plus independent noise
    of `NETWORK_ERROR` at every call. Errors that grow from step to step are visible here and not on exact scores.
    `distance` is told the rms (8,) of the result in each direction.
    """
    generator = torch.Generator().manual_seed(0)

    def score(sde: SDE, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        error = NETWORK_ERROR * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return -x / (alpha**2 * VARIANCES + sigma**2) - error / sigma

    def start(alpha: float, sigma: float) -> Tensor:
        return torch.zeros(samples, len(VARIANCES), dtype=torch.float64)

    return Truth(score, start, lambda x, std: x, lambda x: distance(x.square().mean(0).sqrt()))


def stability(scheduler: SDEScheduler, calls: int) -> Tensor:
    """The rms (8,) of a scheduler's result in the directions of the stability test."""
    found: list[Tensor] = []

    def keep(rms: Tensor) -> float:
        found.append(rms)
        return float(rms.max())

    network_errors(keep).measure(scheduler, calls)
    return found[0]


def _quantiles(levels: Tensor, weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    width = 8 * float(stds.max()) + 1e-3
    low = torch.full_like(levels, float(means.min()) - width)
    high = torch.full_like(levels, float(means.max()) + width)
    for _ in range(math.ceil(math.log2((float(high[0]) - float(low[0])) * 1e12))):
        middle = (low + high) / 2
        below = (weights * torch.special.ndtr((middle[:, None] - means) / stds)).sum(1) < levels
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low[:, None]
