"""The table: every row's images generated or found on disk, measured against real ones.

Sampling comes in as a function, so this module does not depend on pipelines:

    generate(row, seed, indices) -> (uint8 images (B, C, H, W), network calls per image)

Image k of a seed must depend on (seed, k) alone, and start from the same noise in every row.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from .estimate import Estimate, mean_estimate, over_seeds
from .feature_cache import ImageSelection, real_features
from .features import FeatureExtractor, extract
from .neighbours import CopyThreshold, nearest
from .plan import Plan, RealData, check_plan, min_images
from .result import EvaluationResult, Row, RowResult
from .shards import is_whole, keep_settings, save_atomically


Generate = Callable[[Row, int, Sequence[int]], tuple[Tensor, float]]
BitsPerDim = Callable[[str, Tensor], Tensor]  # (model, uint8 images (B, C, H, W)) -> bits/dim (B,)
PICTURED = 10  # generated images that are shown with their nearest training images


@dataclass(frozen=True)
class Processes:
    """This process among those of `accelerate launch`.

    Attributes:
        rank, count: its number, and how many there are.
        wait: returns once all processes have called it.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = field(default=lambda: None)

    @classmethod
    def from_accelerate(cls, cpu: bool = False) -> Self:
        """Of this run; one process where it was not launched."""
        from accelerate import PartialState

        # Processes may have unequal amounts of work: an hour of waiting is no failure.
        state = PartialState(cpu=cpu, timeout=timedelta(days=7))
        return cls(state.process_index, state.num_processes, state.wait_for_everyone)


def evaluate_grid(
    plan: Plan,
    generate: Generate,
    extractor: FeatureExtractor,
    real: RealData,
    *,
    bits_per_dim: BitsPerDim | None = None,
    processes: Processes = Processes(),
    cache_dir: str | Path | None = None,
    environment: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Generates what is missing and measures the table; every process returns the whole result.

    The value of a metric is that of the images of all seeds together. Its standard error is that over images, or that over
    seeds where it is larger (see `estimate.over_seeds`).

    Args:
        generate: see the head of this module.
        bits_per_dim: for the metric "bpd".
        cache_dir: where features of real images are kept.
        environment: versions and the like, for the result.

    Raises:
        ValueError: for bad input, before the first image; for generated images that are not uint8 of one shape.
    """
    check_plan(plan, real, extractor, bits_per_dim is not None)
    main, started = processes.rank == 0, time.monotonic()
    if main:
        keep_settings(plan.output / "settings.json", plan.settings)
        for folder in dict.fromkeys(row.folder for row in plan.rows):
            keep_settings(plan.output / "samples" / folder / "row.json", plan.row_settings.get(folder, {}))
    processes.wait()
    generate_missing(plan, generate, extractor, processes)
    if bits_per_dim is not None and "bpd" in plan.metrics:
        _measure_bits(plan, bits_per_dim, real.reference, processes)
    processes.wait()
    if main:
        result = _measure(plan, extractor, real, cache_dir)
        result.environment.update(environment or {}, seconds=round(time.monotonic() - started, 1))
        result.save(plan.output)
    processes.wait()
    return EvaluationResult.load(plan.output)


def generate_missing(plan: Plan, generate: Generate, extractor: FeatureExtractor, processes: Processes) -> None:
    """Every process takes its share of the batches that are not on disk yet."""
    tasks: dict[tuple[str, int, int], tuple[Row, int, range]] = {}
    for row in plan.rows:
        for seed in plan.seeds:
            for indices in plan.shards(row.folder, seed).missing():
                tasks.setdefault((row.folder, seed, indices.start), (row, seed, indices))
    processes.wait()  # nobody writes before all have looked
    mine = list(tasks.values())[processes.rank :: processes.count]
    total = sum(len(indices) for _, _, indices in mine)
    with tqdm(total=total, unit="image", desc="sampling", disable=processes.rank != 0, smoothing=0.05) as bar:
        for row, seed, indices in mine:
            bar.set_postfix_str(f"{row.model} {row.sampler} {row.steps}")
            started = time.monotonic()
            images, nfe = generate(row, seed, indices)
            seconds = (time.monotonic() - started) / len(indices)
            _check_images(images, len(indices), row)
            features = extract(extractor, images)
            plan.shards(row.folder, seed).write(indices, images, features, nfe, seconds)
            bar.update(len(indices))


def _check_images(images: Tensor, count: int, row: Row) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != count or images.shape[1] not in (1, 3):
        raise ValueError(
            f"generate must return uint8 images of shape ({count}, 1 or 3, H, W), got {images.dtype} "
            f"{tuple(images.shape)} for {row.model}, {row.sampler}, {row.steps} steps"
        )


def _measure_bits(plan: Plan, bits_per_dim: BitsPerDim, reference: ImageSelection, processes: Processes) -> None:
    models = list(dict.fromkeys(row.model for row in plan.rows))
    for model in models[processes.rank :: processes.count]:
        if not is_whole(plan.bpd_path(model)):
            images = next(reference.batches(min(plan.num_bpd_images, len(reference))))
            save_atomically(plan.bpd_path(model), {"bits_per_dim": bits_per_dim(model, images).double().cpu()})


def _measure(
    plan: Plan, extractor: FeatureExtractor, real: RealData, cache_dir: str | Path | None
) -> EvaluationResult:
    reference = real_features(extractor, real.reference, cache_dir, plan.batch_size)
    other = real_features(extractor, real.other, cache_dir, plan.batch_size) if real.other is not None else None
    copies = None
    if "nn" in plan.metrics and real.training is not None:
        training = real_features(extractor, real.training, cache_dir, plan.batch_size)
        copies = CopyThreshold.measure(reference, training)
    measured: dict[str, RowResult] = {}  # rows that share a folder share their images, hence their figures
    for row in plan.rows:
        if row.folder not in measured:
            measured[row.folder] = _measure_row(plan, extractor, row, reference, copies)
    rows = [replace(measured[row.folder], model=row.model, sampler=row.sampler, steps=row.steps) for row in plan.rows]
    baseline = _baseline(plan, extractor, other, reference)
    if copies is not None:
        baseline["nn"] = copies.copies(reference)
    settings = {**plan.settings, **plan.notes, "metrics": list(plan.metrics), "seeds": list(plan.seeds)}
    settings["features"] = extractor.name
    settings["real_images"] = {"reference": len(reference), "other": 0 if other is None else len(other)}
    return EvaluationResult(rows, baseline, settings, {})


def _baseline(plan: Plan, extractor: FeatureExtractor, other: Tensor | None, reference: Tensor) -> dict[str, Estimate]:
    """The figures of real images against real ones; without other ones, those of one half against the other."""
    if other is None:
        other, reference = reference.tensor_split(2)
    if min(len(other), len(reference)) < min_images(plan.metrics):
        return {name: Estimate(math.nan, math.nan) for name in plan.metrics if name in plan.table}
    return _figures(plan, extractor, other, reference)


def _measure_row(
    plan: Plan, extractor: FeatureExtractor, row: Row, reference: Tensor, copies: CopyThreshold | None
) -> RowResult:
    shards = [plan.shards(row.folder, seed) for seed in plan.seeds]
    per_seed = [part.features() for part in shards]
    pooled = torch.cat(per_seed)
    by_seed = [_figures(plan, extractor, features, reference, copies) for features in per_seed if len(per_seed) > 1]
    figures = _figures(plan, extractor, pooled, reference, copies)
    metrics = {
        name: over_seeds(estimate, [figures_of_seed[name] for figures_of_seed in by_seed])
        for name, estimate in figures.items()
    }
    if copies is not None:
        _, indices = nearest(per_seed[0][:PICTURED], copies.training, count=3)
        save_atomically(plan.neighbours_path(row.folder), {"indices": indices})
    if "bpd" in plan.metrics:
        metrics["bpd"] = mean_estimate(load_file(plan.bpd_path(row.model))["bits_per_dim"])
    count = len(shards)
    return RowResult(
        row.model,
        row.sampler,
        row.steps,
        nfe=sum(part.per_image("nfe") for part in shards) / count,
        num_images=len(pooled),
        seconds_per_image=sum(part.per_image("seconds") for part in shards) / count,
        metrics=metrics,
        samples=f"samples/{row.folder}",
    )


def _figures(
    plan: Plan,
    extractor: FeatureExtractor,
    features: Tensor,
    reference: Tensor,
    copies: CopyThreshold | None = None,
) -> dict[str, Estimate]:
    """All figures that follow from features (N, D)."""
    logits = _logits(extractor, features) if "is" in plan.metrics else None
    found: dict[str, Estimate] = {}
    for name in plan.metrics:
        if name in plan.table:
            found.update(plan.table[name](features, reference, logits))
        elif name == "nn" and copies is not None:
            found["nn"] = copies.copies(features)
    return found


@torch.inference_mode()
def _logits(extractor: FeatureExtractor, features: Tensor) -> Tensor:
    device = next((value.device for value in extractor.state_dict().values()), torch.device("cpu"))
    return torch.cat([extractor.logits(block.to(device)).float().cpu() for block in features.split(4096)])
