"""What an evaluation returns, and `results.json`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..durable_files import write_text
from .estimate import Estimate, difference_error


RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Row:
    """One line of the table: a model, a sampler and a number of steps.

    Attributes:
        folder: name of the folder of its samples; rows that share one have the same images (an adaptive solver takes no
            number of steps).
    """

    model: str
    sampler: str
    steps: int
    folder: str


@dataclass(frozen=True)
class RowResult:
    """What was measured of a row.

    Attributes:
        nfe: network calls an image took, on average.
        num_images: images of all seeds together.
        seconds_per_image: wall time of the sampling, in the batches that were used.
        metrics: name -> estimate.
        samples: folder of its images, relative to the output.
    """

    model: str
    sampler: str
    steps: int
    nfe: float
    num_images: int
    seconds_per_image: float
    metrics: dict[str, Estimate]
    samples: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "metrics": {name: value.as_dict() for name, value in self.metrics.items()}}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(**{**found, "metrics": _estimates(found["metrics"])})


@dataclass(frozen=True)
class EvaluationResult:
    """A table of models, samplers and steps.

    Attributes:
        rows: one per model, sampler and number of steps.
        real: the same figures for other real images against the same reference: what a perfect model would get.
        settings: what decides the figures (data, split, number of images, seeds, features, ...).
        environment: versions, device, date.
    """

    rows: list[RowResult]
    real: dict[str, Estimate]
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> RowResult | None:
        """The row with the smallest KID, where that was measured."""
        measured = [row for row in self.rows if "kid" in row.metrics and math.isfinite(row.metrics["kid"].value)]
        return min(measured, key=lambda row: row.metrics["kid"].value, default=None)

    @property
    def equal_to_best(self) -> list[RowResult]:
        """Other rows whose KID is not larger than the best one's by more than the error of the difference.

        See `difference_error`. Seed k starts from the same noise in every row and is compared with the same real images:
        with few seeds, where the errors count as independent, the error is too large.
        """
        best = self.best
        if best is None:
            return []
        least, others = best.metrics["kid"], [row for row in self.rows if row is not best and "kid" in row.metrics]
        return [
            row
            for row in others
            if row.metrics["kid"].value - least.value <= difference_error(row.metrics["kid"], least)
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        best = self.best
        return {
            "rows": [row.as_dict() for row in self.rows],
            "real": {name: estimate.as_dict() for name, estimate in self.real.items()},
            "best": None if best is None else {"model": best.model, "sampler": best.sampler, "steps": best.steps},
            "settings": self.settings,
            "environment": self.environment,
        }

    def save(self, folder: str | Path) -> None:
        """Writes `results.json`."""
        write_text(Path(folder) / RESULTS_FILE, json.dumps(self.as_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads `results.json`."""
        found = json.loads((Path(folder) / RESULTS_FILE).read_text("utf-8"))
        rows = [RowResult.from_dict(row) for row in found["rows"]]
        return cls(rows, _estimates(found["real"]), found["settings"], found["environment"])


def _estimates(found: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate.from_dict(value) for name, value in found.items()}


def metric_names(result: EvaluationResult) -> Sequence[str]:
    """All figures of the table, in their order."""
    return list(dict.fromkeys([name for row in result.rows for name in row.metrics]))
