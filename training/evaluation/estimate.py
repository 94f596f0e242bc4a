"""A figure with its standard error, and how one is made from several seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True)
class Estimate:
    """A measured value.

    Attributes:
        value: the figure.
        se: its standard error; NaN where there are too few samples for one.
        per_seed: the same figure for the images of each seed alone, where there are several seeds.
    """

    value: float
    se: float
    per_seed: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, float | list[float] | None]:
        """For JSON, which has no NaN: null instead."""
        found: dict[str, float | list[float] | None] = {"value": _finite(self.value), "se": _finite(self.se)}
        return {**found, "per_seed": list(self.per_seed)} if self.per_seed else found

    @classmethod
    def from_dict(cls, found: dict) -> Self:
        """The inverse of `as_dict`."""
        value, se = (math.nan if found[name] is None else float(found[name]) for name in ("value", "se"))
        return cls(value, se, tuple(found.get("per_seed", ())))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def mean_estimate(values: torch.Tensor) -> Estimate:
    """Mean of independent values (N,), and its standard error `std / sqrt(N)`."""
    values = values.double()
    se = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), se)


def jackknife_variance(left_out: torch.Tensor) -> float:
    """Variance of a statistic from its values (N,) with each of N samples (or N equal groups) left out.

    `(N - 1) / N sum (s_i - mean s)^2` (Efron & Stein 1981); in expectation never below the true variance.
    """
    count = len(left_out)
    return float((count - 1) / count * (left_out - left_out.mean()).square().sum())


def over_seeds(pooled: Estimate, per_seed: Sequence[Estimate]) -> Estimate:
    """The estimate from the images of all seeds together, with the seeds' own scatter taken into account.

    The value is that of all images pooled. Its standard error is the larger of the one over images and
    `std over seeds / sqrt(number of seeds)`.
    """
    if len(per_seed) < 2:
        return pooled
    values = torch.tensor([estimate.value for estimate in per_seed], dtype=torch.float64)
    between = mean_estimate(values).se
    return Estimate(pooled.value, max(pooled.se, between), tuple(values.tolist()))


PAIRED_SEEDS = 5  # of fewer differences the standard deviation is too uncertain


def difference_error(first: Estimate, second: Estimate) -> float:
    """Standard error of the difference of two figures; infinite where an error is not known.

    With the same `PAIRED_SEEDS` or more seeds of both it is `std(first_k - second_k) / sqrt(number of seeds)`: what the two
    share cancels. Otherwise it is that of independent figures, `sqrt(se_1^2 + se_2^2)`.
    """
    if len(first.per_seed) == len(second.per_seed) >= PAIRED_SEEDS:
        pairs = torch.tensor([first.per_seed, second.per_seed], dtype=torch.float64)
        return mean_estimate(pairs[0] - pairs[1]).se
    error = math.hypot(first.se, second.se)
    return error if math.isfinite(error) else math.inf
