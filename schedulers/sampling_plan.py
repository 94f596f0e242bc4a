"""The plan of one sampling run: the time of every network call, and the SDE's coefficients at these times.

A loop calls the network once per entry of the plan. Each noise level has `order` entries in a row: first the corrector's,
then the predictor's, one per evaluation that it needs. At the last level one call is left, which denoises.
"""

import copy
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from .checks import as_real, check_values
from .predictors import Predictor
from .sde import SDE
from .time_grids import TimeGrid


COEFFICIENTS = ("alpha", "sigma", "log_alpha", "drift_rate", "diffusion", "log_snr")


@dataclass
class SamplingPlan:
    """What happens at every entry of `scheduler.timesteps`.

    Args:
        schedule: the SDE.
        grid: the noise levels.
        corrections: network calls of the corrector per level.
        predictor: determines the evaluations per level and their times.
        prologue: whether one more entry comes first, at which unit noise is scaled to the prior.
        per_correction: network calls of one step of the corrector.
    """

    schedule: SDE
    grid: TimeGrid
    corrections: int
    predictor: InitVar[Predictor | None]
    prologue: bool = False
    per_correction: int = 1

    def __post_init__(self, predictor: Predictor | None) -> None:
        levels, targets = self.grid.levels, self.grid.targets
        columns = [levels] * self.corrections
        if predictor is not None:
            columns += getattr(predictor, "times", lambda sde, t, s: [t])(self.schedule, levels, targets)
        self.evaluations, self.order = len(columns) - self.corrections, len(columns)
        times = torch.stack(columns, dim=1).flatten()
        # Of the last step, one call is left.
        times = times[: len(times) - ((self.evaluations or self.per_correction) - 1)]
        #: The SDE's time of every entry, float64 on the CPU.
        self.times = torch.cat([times[:1], times]) if self.prologue else times
        self._single = self.times.float()

    @property
    def denoises(self) -> bool:
        """Whether the last entry denoises; else it takes the mean of the predictor's step."""
        return self.grid.denoise or (self.evaluations or self.per_correction) > 1

    def position(self, index: int) -> tuple[int, int]:
        """Level of the entry `index`, -1 for the prologue, and its number within the level."""
        return divmod(index - int(self.prologue), self.order)

    @cached_property
    def sde(self) -> SDE:
        """The SDE with its coefficients at the times of this plan computed once, together, in float64.

        A step uses the same coefficients a dozen times, each of several small tensor operations; here they are looked up by
        their time. Coefficients at other times are computed. Made at the first step: many plans are never used.
        """
        times = torch.cat([self.times, self.grid.targets]).unique()
        table = copy.copy(self.schedule)
        for name in COEFFICIENTS:
            function = getattr(self.schedule, name)
            values = dict(zip(times.tolist(), function(times).unbind()))
            setattr(table, name, partial(_look_up, values, function))
        return table

    def _within_step(self, index: int) -> bool:
        # Whether the state is between two evaluations of the predictor: its time is that of the next level as well.
        level, phase = self.position(index)
        return level >= 0 and phase > self.corrections

    def index_of(self, timestep: Tensor | float, timesteps: Tensor, expected: int | None) -> int:
        """The entry that `timestep` means.

        Args:
            timestep: an entry of `timesteps` (the network's) or of `times` (the SDE's time).
            timesteps: the network's time arguments of all entries, on any device.
            expected: the entry that comes next, if the run has begun.

        Returns:
            `expected`, if its time is the given one. Otherwise the given entry itself, where the tensor is an element of
            `timesteps` or `times`, or of a copy of their last entries: a loop may begin or go on within a level, whose
            entries are equal. Otherwise the first entry of the level with this time.

        Raises:
            ValueError: for a time that is not in the plan, comes before the expected one, or is of the next level where the
                state is still to be moved to it: a loop over numbers began within a level.
        """
        if (value := check_values("timestep", as_real("timestep", timestep))).numel() == 0:
            raise ValueError("timestep must be one entry of scheduler.timesteps, got an empty tensor")
        place = _element(timestep, timesteps) if isinstance(timestep, Tensor) else None
        place = _element(timestep, self.times) if place is None and isinstance(timestep, Tensor) else place
        if place is None and expected is not None and isinstance(timestep, Tensor) and timestep.device.type != "cpu":
            return expected  # To read the value would wait for the device at every step; the first step alone does.
        if place is None:
            place = self._search(value, timesteps)
            if expected is None and isinstance(timestep, Tensor):
                place = self._in_copy(timestep, place)
        if expected is None:
            return place
        if place < expected and self.times[place] != self.times[expected]:
            raise ValueError(
                f"timestep must be entry {expected} of scheduler.timesteps or a later one, got entry {place}, "
                f"{float(timestep)!r}; call set_timesteps to begin again"
            )
        if self.times[place] == self.times[expected]:
            return expected
        self._check_order(place, expected)
        return place

    def _check_order(self, place: int, expected: int) -> None:
        (level, phase), (next_level, _) = self.position(expected), self.position(place)
        if phase > 0 and next_level == level + 1:
            raise ValueError(
                f"timestep must be entry {expected} of scheduler.timesteps, the next step of its level, got entry {place} "
                "of the next one: begin at a multiple of scheduler.order, or with a slice of scheduler.timesteps"
            )

    def _search(self, timestep: Tensor, timesteps: Tensor) -> int:
        value = timestep.cpu().flatten()[:1]
        # A float64 time is first taken as the SDE's, one of another dtype as the network's, as diffusers' loops pass it.
        candidates = [timesteps.cpu().float(), self._single]
        for entries in reversed(candidates) if value.dtype == torch.float64 else candidates:
            found = (entries == value.float()).nonzero().flatten().tolist()
            if found:
                return min(found, key=lambda index: (self._within_step(index), index))
        raise ValueError(
            f"timestep must be one of scheduler.timesteps or scheduler.times, got {float(value)!r}; "
            "call set_timesteps first"
        )

    def _in_copy(self, entry: Tensor, place: int) -> int:
        # A copy of a slice has as many elements from `entry` on as the plan has from the entry that is meant.
        size = entry.untyped_storage().nbytes() // entry.element_size()
        meant = len(self.times) - int(size - entry.storage_offset())
        copied = size > 1 and 0 <= meant < len(self.times)
        return meant if copied and self.times[meant] == self.times[place] else place


def _look_up(values: dict[float, Tensor], function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    # Times on a GPU are not read: that would wait for it.
    known = values.get(t.item()) if isinstance(t, Tensor) and t.ndim == 0 and t.device.type == "cpu" else None
    return function(t) if known is None else known


def _element(entry: Tensor, entries: Tensor) -> int | None:
    """Index of `entry` in `entries`, if it is a view of one of its elements; the values are not read."""
    if entry.device != entries.device or entry.numel() == 0:
        return None
    if entry.untyped_storage().data_ptr() != entries.untyped_storage().data_ptr():
        return None
    place = int(entry.storage_offset() - entries.storage_offset())
    return place if 0 <= place < len(entries) else None
