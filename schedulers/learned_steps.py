r"""Steps fitted to a network: the times and the weights of samplers with 4 to 10 calls, as lists in a configuration.

With y = x / alpha and r = sigma / alpha, every linear multistep method for the probability-flow ODE, dy / dr = eps, with n
calls is a table W and n levels r_0 > ... > r_{n-1}: from the start y_0 and all calls so far

    y(r_{i+1}) = y_0 + sum_{k <= i} W_ik eps(y(r_k), r_k),    r_n = 0.

`fit_steps` chooses both for one network (`step_fitting.py`). For numbers of calls that were not fitted the predictor is
`ExponentialMultistep`.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .checks import as_time, check_numbers, shown
from .multistep import ExponentialMultistep
from .sde import DATA_STD, SDE
from .step_checks import check_scored, check_step
from .time_grids import TimeGrid


MOST_CALLS = 20  # all calls of a run are kept in memory
KEYS = {"noise_ratios", "weights"}
#: By the number of calls as a text, which JSON has as keys: {"noise_ratios": n levels r, "weights": rows of 1, 2, ... n}.
Steps = Mapping[str, Mapping[str, Any]]


class LearnedSteps(ExponentialMultistep):
    """The predictor of fitted steps; for a number of calls that was not fitted, and on other grids, `ExponentialMultistep`.

    Args:
        data_std: standard deviation of the data, in the units of the state; a scheduler sets it by its configuration.
        learned_steps: what `fit_steps` found, by the number of calls as a text; a scheduler sets it likewise.

    Raises:
        TypeError, ValueError: for `learned_steps` that are none, naming the entry.
    """

    def __init__(self, data_std: float = DATA_STD, learned_steps: Steps | None = None):
        self.learned_steps: Steps = check_steps("learned_steps", learned_steps)
        self._weights: list[list[float]] | None = None
        super().__init__(data_std=data_std)

    def grid(self, sde: SDE, n: int, smallest_time: float) -> TimeGrid:
        """The n fitted levels, or those of `ExponentialMultistep`.

        Raises:
            ValueError: the fitted levels are not those of this SDE.
        """
        steps = self.learned_steps.get(str(n))
        if steps is None:
            return super().grid(sde, n, smallest_time)
        given, first = steps["noise_ratios"][0], float(sde.noise_ratio(as_time(sde.T)))
        if not math.isclose(given, first, rel_tol=1e-4):
            raise ValueError(
                f"learned_steps[{str(n)!r}] must begin at the noise ratio of this SDE, {first:g}, got {given:g}: "
                "they were fitted to another; call fit_steps"
            )
        return TimeGrid.through(_fitted_levels(sde, steps))

    def prepare(self, sde: SDE, levels: Tensor) -> None:
        """Chooses the fitted weights, where the levels are the fitted ones."""
        self._weights, self._levels = None, levels.tolist()
        steps = self.learned_steps.get(str(len(levels)))
        if steps is not None and torch.equal(levels, _fitted_levels(sde, steps)):
            self._weights = steps["weights"]
        super().prepare(sde, levels)

    def start(self) -> None:
        """Begins a sampling run: there are no earlier calls."""
        self._calls: list[Tensor] = []
        super().start()

    def __call__(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The next state (B, *D) at the time `s` < `t` and a standard deviation of zero, as every predictor."""
        if not self._follows(t):
            return super().__call__(sde, x, score, t, s)
        t, s = check_step(sde, x, score, t, s)
        return sde.alpha(s) * self._next(sde, x, score, t), torch.zeros_like(t)

    def denoise(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """The clean image (B, *D) at the end of the ODE, from the last state."""
        if not self._follows(t):
            return super().denoise(sde, x, score, t)
        return self._next(sde, x, score, check_scored(sde, x, score, t))

    def _follows(self, t: Tensor) -> bool:
        # A run that begins in the middle (image to image) has not made the calls that the weights are for.
        if self._weights is None or len(self._calls) == len(self._levels):
            return False
        return float(t) == self._levels[len(self._calls)]

    def _next(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        assert self._weights is not None
        y, i = x / sde.alpha(t), len(self._calls)
        self._calls.append(-sde.sigma(t) * score)
        # From y_i instead of y_0: what a constraint or a callback has changed in between stays.
        before = [*self._weights[i - 1], 0.0] if i else [0.0]
        for weight, old, noise in zip(self._weights[i], before, self._calls):
            y = y + (weight - old) * noise
        return y


def levels_from_noise(sde: SDE, logs: Tensor) -> Tensor:
    """The times of the levels with the logarithms `logs` (n,) of noise ratios, of which the first is that of the prior."""
    levels = sde.t_from_log_snr(-2 * logs)
    levels[0] = sde.T  # the inverse of log-SNR rounds
    return levels


def _fitted_levels(sde: SDE, steps: Mapping[str, Any]) -> Tensor:
    return levels_from_noise(sde, torch.tensor(steps["noise_ratios"], dtype=torch.float64, device="cpu").log())


def check_steps(name: str, steps: Any) -> dict[str, dict[str, Any]]:
    """`steps` as lists of floats, if they are those of a predictor; {} for None.

    Raises:
        TypeError, ValueError: if not, naming the entry.
    """
    if steps is None:
        return {}
    if not isinstance(steps, Mapping):
        raise TypeError(f"{name} must be None or a dictionary by the number of calls, got {type(steps).__name__}")
    return {n: _checked(name, n, entry) for n, entry in steps.items()}


def _checked(name: str, n: Any, entry: Any) -> dict[str, Any]:
    if n not in {str(calls) for calls in range(2, MOST_CALLS + 1)}:
        raise ValueError(f"{name} must have numbers of calls as keys, '2' ... '{MOST_CALLS}', got {shown(n)}")
    name, calls = f"{name}[{shown(n)}]", int(n)
    if not isinstance(entry, Mapping) or set(entry) != KEYS:
        got = sorted(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise ValueError(f"{name} must be a dictionary with {sorted(KEYS)}, got {got}")
    ratios = check_numbers(f"{name}['noise_ratios']", entry["noise_ratios"], 0, ends="()", count=calls)
    if any(later >= earlier for earlier, later in pairwise(ratios)):
        raise ValueError(f"{name}['noise_ratios'] must decrease, got {ratios}")
    rows = entry["weights"]
    if not isinstance(rows, (list, tuple)) or len(rows) != calls:
        raise ValueError(f"{name}['weights'] must be a list of {calls} rows, got {str(rows)[:60]}")
    weights = [check_numbers(f"{name}['weights'][{i}]", row, count=i + 1) for i, row in enumerate(rows)]
    return {"noise_ratios": ratios, "weights": weights}


def multistep_weights(sde: SDE, levels: Tensor, data_std: float) -> list[list[float]]:
    """The table W of `ExponentialMultistep` on n `levels`; its steps are linear in the calls, and it is read off them."""
    solver, n = ExponentialMultistep(data_std=data_std), len(levels)
    solver.prepare(sde, levels)
    # Call k returns the k-th unit vector, so that the state holds the weights of all calls.
    units = torch.eye(n, dtype=torch.float64, device="cpu")
    x, rows = torch.zeros_like(units[:1]), []
    for i, t in enumerate(levels):
        score = -units[i : i + 1] / sde.sigma(t)
        last = i == n - 1
        x = solver.denoise(sde, x, score, t) if last else solver(sde, x, score, t, levels[i + 1])[0]
        rows.append(x[0, : i + 1].tolist() if last else (x / sde.alpha(levels[i + 1]))[0, : i + 1].tolist())
    return rows
