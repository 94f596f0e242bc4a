r"""Restart sampling: solve the probability-flow ODE down, add exactly the noise that leads up again, and solve on.

From a state with the law of x_t at a small noise level, the forward kernel makes a state with the law of x_s at a larger
one, whatever the data are. So the only error is that of the ODE solver, while the noise between two descents replaces, and
thereby corrects, what the network did wrong above the lower level (Xu et al. 2023, "Restart Sampling for Improving
Generative Processes").
"""

import math

import torch
from torch import Tensor

from .multistep import ExponentialMultistep, levels_between, probability
from .sde import DATA_STD, SDE
from .time_grids import TimeGrid


# Levels of sigma / alpha between which the sampling restarts, in units of data_std; LOW at least.
LOW, HIGH = 0.2, 2.0
# The last descent has this many times the calls of its part of the grid's law: the noise replaces what the others did
# wrong below HIGH.
LAST_DESCENT = 1.4
FEWEST_CALLS = 15  # with fewer there is one descent: each must have enough calls to be accurate


class Restart:
    """A predictor that solves the ODE by `ExponentialMultistep`, from T down and again from the level `HIGH`.

    Its grid is its own: the levels increase where a descent begins, and the step to there ends with the exact noise. It
    cannot be used on other grids.

    Args:
        data_std: standard deviation of the data, in the units of the state; a scheduler sets it by its configuration.
    """

    def __init__(self, data_std: float = DATA_STD):
        self.solver = ExponentialMultistep(data_std=data_std)
        self._grid: TimeGrid | None = None
        self._low = LOW * data_std  # where the descents end
        self._ends: set[float] = set()  # times of the last calls of all descents but the last
        self._steps: list[float] = []  # mean steps of the descents in log(sigma / alpha)
        self._begun = 0  # descents of this run

    @property
    def data_std(self) -> float:
        """Standard deviation of the data, in the units of the state."""
        return self.solver.data_std

    @data_std.setter
    def data_std(self, data_std: float) -> None:
        self.solver.data_std = data_std

    @property
    def order(self) -> int:
        """How many calls a step of the solver interpolates."""
        return self.solver.order

    @order.setter
    def order(self, order: int) -> None:
        self.solver.order = order

    def grid(self, sde: SDE, n: int, smallest_time: float) -> TimeGrid:
        """n levels of all descents together, by their parts of the law of the solver's grid, and more for the last."""
        whole = self.solver.grid(sde, n, smallest_time)
        first, last = (float(sde.noise_ratio(whole.levels[i])) for i in (0, -1))
        # A grid that ends above LOW, where the network's errors begin, restarts from its end.
        low, high = max(LOW * self.data_std, last), HIGH * self.data_std
        self._low = low
        if n < FEWEST_CALLS or not low < high < first:
            self._grid, self._ends, self._steps = whole, set(), []
            return whole
        ends = [(first, low), *[(high, low)] * (restarts(n) - 1), (high, last)]
        masses = [probability(*pair, self.data_std) for pair in ends]
        parts = _shares(n, [*masses[:-1], LAST_DESCENT * masses[-1]])
        descents = [levels_between(sde, *pair, m + 1, self.data_std)[:-1] for pair, m in zip(ends[:-1], parts[:-1])]
        levels = torch.cat([*descents, levels_between(sde, *ends[-1], parts[-1], self.data_std)])
        self._grid, self._ends = TimeGrid.through(levels), {float(descent[-1]) for descent in descents}
        counts = [*parts[:-1], parts[-1] - 1]
        self._steps = [math.log(begin / end) / m for (begin, end), m in zip(ends, counts)]
        return self._grid

    def prepare(self, sde: SDE, levels: Tensor) -> None:
        """Checks that the levels are those of `grid`.

        Raises:
            ValueError: they are not.
        """
        if self._grid is None or not torch.equal(levels, self._grid.levels):
            raise ValueError("timestep_spacing must be None, and timesteps not be given, for the predictor 'restart'")
        self.solver.prepare(sde, levels)

    def start(self) -> None:
        """Begins a sampling run."""
        self._begun = 0
        self._descend()

    def _descend(self) -> None:
        self.solver.start()
        if self._begun < len(self._steps):
            self.solver.step = self._steps[self._begun]
            self._begun += 1

    def __call__(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """A step of the solver from `t` to `s`; the last of a descent goes to the lower level, and by the kernel to `s`."""
        if float(t) not in self._ends:
            return self.solver(sde, x, score, t, s)
        low = sde.t_from_log_snr(-2 * torch.tensor(self._low, dtype=torch.float64, device="cpu").log())
        x, _ = self.solver(sde, x, score, t, low)
        self._descend()
        scale, std = sde.transition(s, low)
        return scale * x, std

    def denoise(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """The clean image (B, *D) at the end of the ODE, from the last state."""
        return self.solver.denoise(sde, x, score, t)


def restarts(n: int) -> int:
    """How often a run of n calls restarts: both the descents and the calls of each grow with n (50: 2, 100: 3, 1000: 9)."""
    return max(1, round(0.3 * n**0.5))


def _shares(n: int, masses: list[float]) -> list[int]:
    """n in whole parts of at least two, in proportion to `masses`."""
    exact = [2 + (n - 2 * len(masses)) * mass / sum(masses) for mass in masses]
    parts = [int(share) for share in exact]
    for i in sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])[: n - sum(parts)]:
        parts[i] += 1
    return parts
