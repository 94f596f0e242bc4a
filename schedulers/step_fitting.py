r"""`fit_steps`: the times and weights of a few sampling steps, fitted to the exact flow of one network.

The teacher is the probability-flow ODE from the same starts, solved by `ExponentialMultistep` with many calls. For given
levels the weights of a step follow in closed form: row i of the table W (see `learned_steps.py`) is the least-squares
solution of y_0 + sum_k W_ik eps_k = y(r_{i+1}), with y the teacher's state and eps_k the calls of the few steps
themselves, so that a step also corrects what those before it did wrong. What is left to choose are the n - 1 levels below
the first: the best of a few grids, then random changes of log r that are kept where they bring the images nearer to the
teacher's (the geometric mean over the images of their rms distance, so that few that end elsewhere do not decide). Each
trial samples anew, without gradients of the network. S4S (Frankel et al. 2025) and AMED (Zhou et al. 2024) fit such steps
by gradients.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import (
    as_time,
    check_finite,
    check_function,
    check_instance,
    check_integer,
    check_state,
    check_values,
)
from .learned_steps import MOST_CALLS, levels_from_noise, multistep_weights
from .multistep import ExponentialMultistep
from .score_function import ScoreFunction, check_score
from .sde import SDE


if TYPE_CHECKING:
    from .scheduling_sde import SDEScheduler

TEACHER_CALLS = 60
MOST_TRIALS = 1000
RIDGE = 1e-6  # towards the weights of `ExponentialMultistep`, times the mean square of a call
LAST_LEVELS = (1.0, 0.7, 0.5, 0.35, 0.2, 0.1)  # of the first grids, even in log r, times data_std
SMALLEST_GAP = 0.1  # in log r, between levels
CHANGE = 0.2  # the size of the first random changes, in log r
GROWTH, DECAY = 1.6, 0.92  # its factors after success and failure


@torch.no_grad()
def fit_steps(
    score_fn: ScoreFunction,
    scheduler: "SDEScheduler",
    noise: Tensor,
    num_inference_steps: int = 5,
    trials: int = 40,
) -> "SDEScheduler":
    """A scheduler whose `set_timesteps(num_inference_steps)` plans steps fitted to `score_fn`.

    It needs about 60 + `num_inference_steps` (`trials` + 7) evaluations of the score at the batch of `noise`.

    Args:
        score_fn: `(x, t) -> score`: `scheduler.score_fn(network)`, `pipe.score_fn()`, or with guidance.
        scheduler: an `SDEScheduler`; what it has learned for other numbers of calls stays.
        noise: unit noise (B, *D); 64 images are enough.
        num_inference_steps: network calls, 2 to 20; below 4 the images stay far off, above 10 little is gained.
        trials: random changes of the levels.

    Returns:
        A copy with `predictor="learned_steps"`; the steps are lists in its configuration, and are saved with it.

    Raises:
        TypeError, ValueError: for an argument out of its range, or images that are not finite.
    """
    from .scheduling_sde import SDEScheduler  # imports this package's mathematics

    check_function("score_fn", score_fn, 2)
    check_instance("scheduler", scheduler, SDEScheduler)
    n = check_integer("num_inference_steps", num_inference_steps, 2, MOST_CALLS)
    check_integer("trials", trials, 0, MOST_TRIALS)
    check_values("noise", check_finite("noise", check_state("noise", noise, 1), torch.float32))
    if not bool(noise.any()):  # or empty
        raise ValueError(f"noise must be unit noise, got zeros of shape {tuple(noise.shape)}")
    start = noise.float() * scheduler.sde.prior_std
    fit = _Fit(score_fn, scheduler.sde, scheduler.data_std, scheduler.solver_end, start)
    ratios, weights = fit.search(n, trials)
    entry = {"noise_ratios": ratios, "weights": weights}
    known = scheduler.config.get("learned_steps") or {}
    return type(scheduler).from_config(
        scheduler.config,
        predictor="learned_steps",
        corrector=None,
        timestep_spacing=None,
        learned_steps={**known, str(n): entry},
    )


class _Fit:
    """The teacher's states at many levels, and the search."""

    def __init__(self, score_fn: ScoreFunction, sde: SDE, data_std: float, smallest_time: float, start: Tensor):
        self.score_fn, self.sde, self.data_std, self.smallest_time = score_fn, sde, data_std, smallest_time
        solver = ExponentialMultistep(data_std=data_std)
        levels = solver.grid(sde, TEACHER_CALLS, smallest_time).levels
        solver.prepare(sde, levels)
        self.logs = torch.log(sde.noise_ratio(levels))
        x, self.states, self.noises = start, [], []
        for i, t in enumerate(levels):
            score = self._score(x, t)
            self.states.append(x / sde.alpha(t).to(x))
            self.noises.append(-sde.sigma(t).to(x) * score)
            last = i == len(levels) - 1
            x = solver.denoise(sde, x, score, t) if last else solver(sde, x, score, t, levels[i + 1])[0]
        if not bool(torch.isfinite(x).all()):
            raise ValueError("score_fn must lead to finite images, got NaN or infinity")
        self.images = x

    def search(self, n: int, trials: int) -> tuple[list[float], list[list[float]]]:
        """The n noise ratios and the table of weights."""
        best = min((self.sample(logs) for logs in self.grids(n)), key=lambda found: found[0])
        size, generator = CHANGE, torch.Generator().manual_seed(0)
        lowest = math.log(float(self.sde.noise_ratio(as_time(self.smallest_time))))
        for _ in range(trials):
            logs = best[1].clone()
            logs[1:] += size * torch.randn(n - 1, generator=generator, dtype=logs.dtype, device="cpu")
            if not bool((logs.diff() < -SMALLEST_GAP).all()) or logs[-1] < lowest:
                continue
            found = self.sample(logs)
            size *= GROWTH if found[0] < best[0] else DECAY
            best = found if found[0] < best[0] else best
        return best[1].exp().tolist(), best[2]

    def grids(self, n: int) -> list[Tensor]:
        """Levels to begin with, as log r: those of `ExponentialMultistep` and even ones."""
        own = ExponentialMultistep(data_std=self.data_std).grid(self.sde, n, self.smallest_time).levels
        parts, first = torch.linspace(0, 1, n, dtype=torch.float64, device="cpu"), self.logs[0]
        even = [first + parts * (math.log(last * self.data_std) - first) for last in LAST_LEVELS]
        return [torch.log(self.sde.noise_ratio(own)), *even]

    def sample(self, logs: Tensor) -> tuple[float, Tensor, list[list[float]]]:
        """The distance to the teacher's images, the levels, and the weights that least squares finds for them."""
        sde, y0 = self.sde, self.states[0]
        levels = levels_from_noise(sde, logs)
        first, rows, y = multistep_weights(sde, levels, self.data_std), [], y0
        calls = torch.empty(0, y0.numel(), dtype=torch.float64, device="cpu")
        for i, t in enumerate(levels):
            noise = -sde.sigma(t).to(y) * self._score(sde.alpha(t).to(y) * y, t)
            calls = torch.cat([calls, noise.reshape(1, -1).cpu().double()])
            target = self.images if i == len(levels) - 1 else self.teacher(float(logs[i + 1]))
            weights = torch.tensor(first[i], dtype=torch.float64, device="cpu")
            left = (target - y0).reshape(-1).cpu().double() - weights @ calls
            products = calls @ calls.T
            ridge = RIDGE * products.diagonal().mean() * torch.eye(i + 1, dtype=torch.float64, device="cpu")
            weights = weights + torch.linalg.solve(products + ridge, calls @ left)
            rows.append(weights.tolist())
            y = y0 + (weights @ calls).reshape(y0.shape).to(y0)
        distances = (y - self.images).flatten(1).double().square().mean(1).sqrt()
        return float(distances.clamp_min(1e-12).log().mean().exp()), logs, rows

    def teacher(self, log: float) -> Tensor:
        """The teacher's state at a level between its own: cubic in log r, by its values and derivatives."""
        i = int((self.logs >= log).sum().clamp(1, len(self.logs) - 1)) - 1
        step = float(self.logs[i + 1] - self.logs[i])
        u = (log - float(self.logs[i])) / step
        ends = [(self.states[j], step * math.exp(self.logs[j]) * self.noises[j]) for j in (i, i + 1)]
        (y, dy), (z, dz) = ends
        return (1 - u) ** 2 * ((1 + 2 * u) * y + u * dy) + u**2 * ((3 - 2 * u) * z - (1 - u) * dz)

    def _score(self, x: Tensor, t: Tensor) -> Tensor:
        return check_score(self.score_fn(x, t), x)
