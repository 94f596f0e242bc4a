r"""The recommended solver of the probability-flow ODE: a partly linear, damped exponential multistep method.

With y = x / alpha, r = sigma / alpha, the noise eps = -sigma score and the denoised image D = y - r eps, the ODE of every
SDE is dy / dr = eps, and for every number theta

    dy / dr = theta (y - D) / r + (1 - theta) eps.

A step takes eps and D from polynomials through the last k <= 5 network calls and integrates the rest exactly,

    y(r') = (r' / r)^theta y + int_r^r' (r' / q)^theta [(1 - theta) eps(q) - theta D(q) / q] dq.

theta = 0 is the Adams-Bashforth method in eps (`adams_bashforth`), theta = 1 that in the denoised image. In between, errors
of the network in directions in which the data hardly vary are damped at every step, where theta = 0 adds them up.
"""

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import as_time, check_integer, check_number
from .sde import DATA_STD, SDE
from .step_checks import check_scored, check_step
from .time_grids import TimeGrid


# The polynomials are in log(r + SHIFT r_last): in log r over all scales, in r at the last noise level; in the step from
# there to r = 0 in log(r + LAST_SHIFT r_last).
SHIFT, LAST_SHIFT = 1.3, 2.5
# The j-th difference of a polynomial counts 1 / (1 + sqrt(h / STEPS[j]) u^FADING[j]), for steps of mean size h in log r and
# u = h / SMALL between SMALLEST and 1: differences of high order over wide steps are mostly the network's errors. Over
# steps shorter than SMALL, from about 20 calls on, they are mostly the data's, and damping is what bounds the accuracy.
STEPS = (math.inf, math.inf, 6.85, 0.24, 0.041)
FADING, SMALL, SMALLEST = (0.0, 0.0, 1.9, 1.4, 0.5), 0.5, 1 / 3
# theta = THETA[0] + THETA[1] log(n / 20) + THETA[2] log(r / data_std), between 0 and 1, for n calls.
THETA = (0.443, 0.02, 0.083)
# The grid: equal probabilities of a normal law in log r, with this centre (times data_std) and this standard deviation.
CENTRE, WIDTH = 1.375, 4.57
# The first step has no past: it is FIRST_STEP of the others. From less noise than FAR data_std, which is not far above the
# largest contrasts, its error cancels those of the next steps, of size h in log r, if it is longer, by NEAR (h - 0.4) for a
# factor of e (up to a factor of 2) below FAR; at most LONGEST.
FIRST_STEP, FAR, NEAR, LONGEST = 0.383, 200.0, 0.4, 0.495
# Where differences are damped less, less cancels the first step's error, and it is shorter: by u^FIRST_FADING. A descent
# that starts among the contrasts of the data, after a restart, has two shorter steps, by u to these powers.
FIRST_FADING, RESTART_FADING = 1.1, (0.65, 0.45)
LAST_FADING = -1 / 3  # LAST_SHIFT is multiplied by u to this power
LAST_LEVEL = 0.1  # sigma / alpha of the last call, times n / data_std
QUADRATURE = np.polynomial.legendre.leggauss(20)


class ExponentialMultistep:
    """A predictor with a memory of up to `order` network calls, and a time grid of its own.

    For small steps its order is `order`, but at most 2.5, because differences of high order are damped; with a corrector
    between the steps it is one.

    Args:
        order: how many calls a step interpolates (the first steps have fewer); 1 to 5.
        data_std: standard deviation of the data, in the units of the state; a scheduler sets it by its configuration.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(self, order: int = 5, data_std: float = DATA_STD):
        self.order = check_integer("order", order, 1, len(STEPS))
        self.data_std = check_number("data_std", data_std, 0, ends="()")
        self.calls, self.step, self.last = 20.0, 0.5, 0.0  # of a run that is not planned
        self.start()

    def grid(self, sde: SDE, n: int, smallest_time: float) -> TimeGrid:
        """The recommended n levels from T down to `smallest_time` or somewhat above; more levels end lower."""
        first, known = (float(sde.noise_ratio(as_time(t))) for t in (sde.T, smallest_time))
        last = min(max(LAST_LEVEL * self.data_std / n, known), 0.5 * first)
        return TimeGrid.through(levels_between(sde, first, last, n, self.data_std))

    def prepare(self, sde: SDE, levels: Tensor) -> None:
        """What the steps must know of the whole run: the number of its calls, their distance and the last level."""
        ratios = torch.log(sde.noise_ratio(levels))
        steps = -ratios.diff()
        self.last = float(ratios.min().exp())
        self.step = float(steps[steps > 0].mean()) if len(levels) > 1 else 1.0
        self.calls = 1 + float(ratios.max() - ratios.min()) / self.step

    def start(self) -> None:
        """Begins a sampling run: there are no earlier calls."""
        self._ratios: list[float] = []
        self._noises: list[Tensor] = []
        self._images: list[Tensor] = []

    def __call__(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The next state (B, *D) at the time `s` < `t` and a standard deviation of zero, as every predictor."""
        t, s = check_step(sde, x, score, t, s)
        y, r, end = self._remember(sde, x, score, t), self._ratios[0], float(sde.noise_ratio(s))
        theta = THETA[0] + THETA[1] * math.log(self.calls / 20) + THETA[2] * math.log(r / self.data_std)
        theta = min(max(theta, 0.0), 1.0)
        points, masses = _gauss(math.log(r), math.log(end))
        points = np.exp(points)
        polynomials = _polynomials(np.array(self._ratios), points, SHIFT * self.last, self.step)
        masses = masses * (end / points) ** theta
        y = (end / r) ** theta * y
        for weight, noise in zip((1 - theta) * (masses * points) @ polynomials, self._noises):
            y = y + float(weight) * noise
        for weight, image in zip(theta * masses @ polynomials, self._images):
            y = y - float(weight) * image
        return sde.alpha(s) * y, torch.zeros_like(t)

    def denoise(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """The clean image (B, *D) at the end of the ODE, from the last state: theta = 0, two values, not damped."""
        t = check_scored(sde, x, score, t)
        y, r = self._remember(sde, x, score, t), self._ratios[0]
        points, masses = _gauss(r, 0.0)
        shift = LAST_SHIFT * _smallness(self.step) ** LAST_FADING * r
        for weight, noise in zip(masses @ _polynomials(np.array(self._ratios[:2]), points, shift), self._noises):
            y = y + float(weight) * noise
        return y

    def _remember(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        y, r, noise = x / sde.alpha(t), float(sde.noise_ratio(t)), -sde.sigma(t) * score
        self._ratios = [r, *self._ratios][: self.order]
        self._noises = [noise, *self._noises][: self.order]
        self._images = [y - r * noise, *self._images][: self.order]
        return y


def levels_between(sde: SDE, first: float, last: float, n: int, data_std: float) -> Tensor:
    """n times from r = `first` to `last`, both included, of equal probability but for shorter first steps; float64."""
    from_start = first >= float(sde.noise_ratio(as_time(sde.T)))
    gaps = torch.ones(n, dtype=torch.float64, device="cpu")
    gaps[0] = 0.0
    if n > 2:
        step = math.log(first / last) / (n - 1)
        if from_start:
            gaps[1] = _first_step(first / data_std, step)
        else:
            gaps[1:3] = torch.tensor([FIRST_STEP, 1.0]) * _smallness(step) ** torch.tensor(RESTART_FADING)
    centre, ends = math.log(CENTRE * data_std), _cumulative([first, last], data_std)
    parts = gaps.cumsum(0) / gaps.sum().clamp_min(1.0)
    ratios = centre + WIDTH * torch.special.ndtri(torch.lerp(ends[0], ends[1], parts))
    levels = sde.t_from_log_snr(-2 * ratios)
    if from_start:
        levels[0] = sde.T  # the inverse of log-SNR rounds
    return levels


def _first_step(start: float, step: float) -> float:
    """The size of the first step from r = `start` data_std, in units of the others, which have a mean size of `step`."""
    near = min(max(math.log(FAR / start), 0.0), math.log(2))
    return min(FIRST_STEP + NEAR * near * (step - 0.4), LONGEST) * _smallness(step) ** FIRST_FADING


def _smallness(step: float) -> float:
    return min(max(step / SMALL, SMALLEST), 1.0)


def probability(first: float, last: float, data_std: float) -> float:
    """The part of the grid's law between the ratios `first` and `last`."""
    return float(-_cumulative([first, last], data_std).diff())


def _cumulative(ratios: list[float], data_std: float) -> Tensor:
    centred = torch.tensor(ratios, dtype=torch.float64, device="cpu").log() - math.log(CENTRE * data_std)
    return torch.special.ndtr(centred / WIDTH)


def _gauss(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    points, masses = QUADRATURE
    return 0.5 * (low + high) + 0.5 * (high - low) * points, 0.5 * (high - low) * masses


def _polynomials(ratios: np.ndarray, points: np.ndarray, shift: float, step: float = 0.0) -> np.ndarray:
    """Weights (points, ratios) of the values at `ratios` in the damped Newton polynomial in log(r + shift) at `points`."""
    nodes, at = np.log(ratios + shift), np.log(points + shift)
    weights, product = np.zeros((len(at), len(nodes))), np.ones(len(at))
    for j in range(len(nodes)):
        # The j-th divided difference is the sum of its values over the products of their distances.
        distances = nodes[: j + 1, None] - nodes[None, : j + 1] + np.eye(j + 1)
        damping = 1 / (1 + math.sqrt(step / STEPS[j]) * _smallness(step) ** FADING[j])
        weights[:, : j + 1] += damping * product[:, None] / distances.prod(axis=1)
        product = product * (at - nodes[j])
    return weights


def __getattr__(name: str) -> Any:
    if name == "MULTISTEP_PREDICTORS":
        warnings.warn(
            "MULTISTEP_PREDICTORS is deprecated: PREDICTORS holds all predictors", FutureWarning, stacklevel=2
        )
        return {"exponential_multistep": ExponentialMultistep}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
