"""What an evaluation is to measure, and everything about it that can be checked before the first image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...schedulers.checks import check_integer, shown
from .feature_cache import ImageSelection
from .features import FeatureExtractor, extract
from .measures import METRICS, OTHER_METRICS, Metric
from .neighbours import NEIGHBOURS
from .result import Row
from .shards import Shards


MIN_IMAGES = {"kid": 3, "pr": NEIGHBOURS + 1}  # 2 for all others


@dataclass(frozen=True)
class RealData:
    """The real images of a table.

    Attributes:
        reference: what generated images are compared with.
        other: other real images, compared with the reference for the line "real"; None compares its two halves.
        training: the images the models were trained on, for the metric "nn"; None without it.
    """

    reference: ImageSelection
    other: ImageSelection | None = None
    training: ImageSelection | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        rows: the table.
        seeds: each gives `num_images` images; those of all seeds are measured together.
        metrics: names, of `METRICS` (or `table`), "bpd" or "nn".
        output: folder of everything that is written.
        settings: what decides the figures of the whole table, to be held against the folder's.
        notes: further entries of the result.
        row_settings: what decides a row's images (weights, sampler), by `Row.folder`.
        num_bpd_images: how many reference images "bpd" is measured on.
        table: the known metrics.
    """

    rows: Sequence[Row]
    seeds: Sequence[int]
    num_images: int
    batch_size: int
    metrics: Sequence[str]
    output: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    row_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    num_bpd_images: int = 16
    table: Mapping[str, Metric] = field(default_factory=lambda: METRICS)

    def shards(self, folder: str, seed: int) -> Shards:
        """The files of one row's folder and one seed."""
        return Shards(self.output / "samples" / folder / f"seed-{seed}", self.num_images, self.batch_size)

    def neighbours_path(self, folder: str) -> Path:
        """Indices of the training images nearest to the first images of a row."""
        return self.output / "neighbours" / f"{folder}.safetensors"

    def bpd_path(self, model: str) -> Path:
        """Bits/dim of a model."""
        first = next(row.folder for row in self.rows if row.model == model)
        return self.output / "bits_per_dim" / f"{first}.safetensors"


def check_plan(plan: Plan, real: RealData, extractor: FeatureExtractor, has_bpd: bool) -> None:
    """Everything that can be known before the first image.

    Raises:
        ValueError: naming the argument.
    """
    check_metrics(plan.metrics, plan.table)
    if not plan.metrics or not plan.rows:
        raise ValueError(f"rows and metrics must not be empty, got {plan.rows} and {plan.metrics}")
    if not plan.seeds or len(set(plan.seeds)) < len(plan.seeds) or min(plan.seeds) < 0:
        raise ValueError(f"seeds must be different numbers of at least 0, got {list(plan.seeds)}")
    check_num_images(plan.metrics, plan.num_images, len(real.reference))
    check_integer("batch_size", plan.batch_size)
    if "is" in plan.metrics and not extractor.has_logits:
        raise ValueError(f"features must be those of a classifier for the metric 'is', got {extractor.name}")
    if "bpd" in plan.metrics and not has_bpd:
        raise ValueError("bits_per_dim must be given for the metric 'bpd', got None")
    if "nn" in plan.metrics and real.training is None:
        raise ValueError("training images must be given for the metric 'nn', got None")
    check_extractor(extractor, next(real.reference.batches(2)))


def check_metrics(names: Sequence[str], table: Mapping[str, Metric] = METRICS) -> None:
    """Raises ValueError for a metric that is neither in the table nor one of `OTHER_METRICS`."""
    known = [*table, *OTHER_METRICS]
    for name in names:
        if name not in known:
            raise ValueError(f"metrics must be among {known}, got {shown(name)}")


def check_num_images(metrics: Sequence[str], generated: int, real: int) -> None:
    """Raises ValueError where there are too few images for a metric."""
    needed = min_images(metrics)
    if generated < needed or real < needed:
        raise ValueError(
            f"num_images must be at least {needed} for {list(metrics)}, got {generated} generated and {real} real ones"
        )


def min_images(metrics: Sequence[str]) -> int:
    """How many images these metrics need."""
    return max([2, *(MIN_IMAGES[name] for name in metrics if name in MIN_IMAGES)])


def check_extractor(extractor: FeatureExtractor, images: Tensor) -> None:
    """Features of two images and of one have the shapes (2, D) and (1, D), and are finite.

    Raises:
        ValueError: otherwise.
    """
    two, one = extract(extractor, images), extract(extractor, images[:1])
    if two.shape[1] != one.shape[1]:
        raise ValueError(
            f"features must have one length D for any number of images, got {two.shape[1]} and {one.shape[1]} "
            f"from {extractor.name}"
        )
