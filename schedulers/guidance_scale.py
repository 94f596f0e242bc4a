"""The scale of a guidance, which may act at some noise levels only, and guidance by the difference of two scores."""

import math
from collections.abc import Callable, Collection, Mapping, Set
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from .checks import as_time, check_function, check_number, check_state, check_time, shown
from .score_function import check_score, evaluations_of, part
from .sde import LARGEST_SIGMA
from .transfers import to_device


NoiseRatio = Callable[[Tensor], Tensor]
EVERYWHERE = (0.0, math.inf)


class GuidanceScale:
    """A guidance scale that acts between two noise ratios sigma / alpha (Kynkaanniemi et al. 2024).

    Args:
        scale: the scale within the interval.
        outside: the scale elsewhere.
        interval: (low, high), noise ratios; `None` is everywhere.
        noise_ratio: `t -> sigma / alpha`, for example `sde.noise_ratio`; needed with an interval.

    Raises:
        TypeError, ValueError: for an argument out of its range.
    """

    def __init__(
        self, scale: float, outside: float, interval: tuple[float, float] | None, noise_ratio: NoiseRatio | None
    ) -> None:
        self.scale = check_number("scale", scale, -LARGEST_SIGMA, LARGEST_SIGMA)
        self.outside, self.noise_ratio = outside, noise_ratio
        low, high = self.interval = check_interval("interval", interval)
        check_function("noise_ratio", noise_ratio, 1, optional=True)
        if (low, high) != EVERYWHERE and noise_ratio is None:
            raise ValueError("noise_ratio must be given with an interval, got None")

    @property
    def values(self) -> set[float]:
        """The scales that occur."""
        return {self.scale} if self.interval == EVERYWHERE else {self.scale, self.outside}

    def at(self, x: Tensor, t: Tensor) -> float | Tensor:
        """The scale at the time `t`: a number for t 0-dim, else of shape (B, 1, ...) for `x` (B, *D)."""
        if self.interval == EVERYWHERE or self.noise_ratio is None:
            return self.scale
        ratio = self.noise_ratio(as_time(t))
        if not isinstance(ratio, Tensor) or ratio.is_complex():
            raise TypeError(f"noise_ratio must return a tensor of real numbers, got {type(ratio).__name__}")
        scale = torch.where((ratio >= self.interval[0]) & (ratio <= self.interval[1]), self.scale, self.outside)
        if scale.ndim == 0:
            return float(scale)
        return to_device(scale, x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def check_interval(name: str, interval: Any) -> tuple[float, float]:
    """`interval` as (low, high), if it is two increasing noise ratios; `None` is everywhere, and infinity a good end.

    Raises:
        TypeError: for what is no two numbers.
        ValueError: for numbers that do not increase, or negative ones.
    """
    if interval is None:
        return EVERYWHERE
    try:
        if isinstance(interval, (str, bytes, Mapping, Set)) or not isinstance(interval, Collection):
            raise TypeError("interval has no order or no numbers")
        low, high = (math.inf if end == math.inf else check_number(name, end) for end in interval)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be two noise ratios (low, high), got {shown(interval)}") from error
    if not 0 <= low < high:
        raise ValueError(f"{name} must be two increasing noise ratios (low, high), got {shown(interval)}")
    return low, high


class Extrapolation:
    """The score `weak + scale (strong - weak)`: weak where the scale is 0, strong where it is 1, beyond it above.

    A subclass names its attributes with the two score functions, strong first, in `functions`, and has a `scale`.
    """

    functions: ClassVar[tuple[str, str]]
    scale: GuidanceScale

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, in the shape of `x` (B, *D)."""
        t = check_time("t", t, check_state("x", x, 1))
        scale, (strong, weak) = self.scale.at(x, t), self.functions
        if isinstance(scale, float) and scale in (0.0, 1.0):
            return self._score(strong if scale else weak, x, t)
        below = self._score(weak, x, t)
        return below + scale * (self._score(strong, x, t) - below)

    def _score(self, name: str, x: Tensor, t: Tensor) -> Tensor:
        return check_score(getattr(self, name)(x, t), x, name)

    def evaluations(self, t: Tensor | None = None) -> int:
        """Network evaluations at the time `t` (0-dim), or without it at the time with most."""
        scales = self.scale.values if t is None else [self.scale.at(t, t)]
        strong, weak = (evaluations_of(getattr(self, name), t) for name in self.functions)
        return max((strong if scale != 0 else 0) + (weak if scale != 1 else 0) for scale in scales)

    def rows(self, index: Tensor) -> Self:
        """The same for the samples `index` (b,) alone."""
        return part(self, index, *self.functions)
