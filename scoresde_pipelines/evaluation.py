"""Tables of models x samplers x steps with standard errors: what `scoresde evaluate` runs, as a function."""

import os
import platform
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from .evaluation_models import ModelSource, PipelineSource, find_models
from .samplers import SAMPLERS
from .training.evaluation import EvaluationResult, Plan, Processes, RealData, evaluate_grid, load_features, open_real
from .training.evaluation.report import write_card, write_npz, write_report


CLASSIFIERS = Path(__file__).parent / "shipped_classifiers"


def evaluate(
    models: str | Sequence[str],
    data: str,
    output: str | Path,
    *,
    split: str = "test",
    samplers: str | Sequence[str] = "default",
    steps: int | Sequence[int] = 50,
    seeds: int | Sequence[int] = 0,
    num_images: int = 1000,
    features: str | Callable[[Tensor], Tensor] | None = None,
    metrics: str | Sequence[str] = ("kid", "fd"),
    sampler_settings: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 64,
    fit: str | None = None,
    num_reference: int | None = None,
    train_split: str = "train",
    num_bpd_images: int = 16,
    features_weights: str | Path | None = None,
    cache_dir: str | Path | None = None,
    npz: bool = False,
    write_cards: bool = False,
    device: str | None = None,
) -> EvaluationResult:
    """Generates images with every model, sampler and number of steps, and measures them against real ones.

    Writes `results.json`, `table.md`, `quality.png` (metrics against network calls), `grids/` (the first 64 images of each
    row) and `samples/` (all images and features) into `output`. Called again with the same arguments after an interruption
    it goes on. Under `accelerate launch` the processes share the work.

    Args:
        models: names of shipped pipelines, folders, Hub ids, or patterns for training checkpoints (`runs/x/checkpoint-*`).
        data: a folder, a parquet file or a Hub id; `split` of it is compared with.
        samplers: keys of `SAMPLERS` or of `sampler_settings`.
        steps: numbers of noise levels; "ode" chooses its own.
        seeds: each gives `num_images` images, image k from the same noise in every row; all seeds are measured together.
        features: see `training.evaluation.load_features`; EfficientNet-Lite0 by default.
        metrics: "kid", "fd", "is", "pr" (precision, recall, density, coverage), "bpd" (bits/dim of real images), "nn"
            (share of images that copy a training image).
        sampler_settings: your own samplers: name -> scheduler settings, such as `{"mine": {"predictor": "ancestral"}}`.
        batch_size: images at a time.
        fit: "crop" or "pad", how real images are brought to the models' size; see `open_real`.
        num_reference: real images to compare with; None for `num_images`.
        train_split: the split with the training images, for "nn".
        num_bpd_images: real images whose bits/dim are measured.
        features_weights: file with the weights of the features "inception".
        cache_dir: where features of real images are kept between evaluations.
        npz: also write each row's images as `npz/<row>.npz` (`arr_0`, uint8 NHWC).
        write_cards: also write the figures into the models' README.md.
        device: where to compute; the best there is by default.

    Raises:
        ValueError: for bad input, before the first image is generated.
    """
    counts: list[int] = [steps] if isinstance(steps, int) else list(steps)
    if not counts or len(set(counts)) < len(counts) or min(counts) < 1:
        raise ValueError(f"steps must be different numbers of at least 1, got {counts}")
    chosen = _choose_samplers(_names(samplers), sampler_settings or {})
    found = find_models(_names(models))
    if write_cards:
        _check_cards(found)
    processes, place = _processes_and_device(device)
    extractor = load_features(features, shipped_classifiers(), features_weights).to(place)
    source = PipelineSource(found, chosen, place)
    rows, row_settings, shapes = source.rows(counts)
    training = train_split if "nn" in metrics else None
    real = open_real(data, split, shapes, num_images, fit=fit, num_reference=num_reference, train_split=training)
    settings = {
        "split": split,
        "num_images": num_images,
        "batch_size": batch_size,
        "num_bpd_images": num_bpd_images,
        "reference": real.reference.fingerprint(),
        "features_fingerprint": extractor.fingerprint(),
    }
    plan = Plan(
        rows,
        [seeds] if isinstance(seeds, int) else list(seeds),
        num_images,
        batch_size,
        _names(metrics),
        Path(output),
        settings=settings,
        notes={"data": str(data)},
        row_settings=row_settings,
        num_bpd_images=num_bpd_images,
    )
    result = evaluate_grid(
        plan,
        source.generate,
        extractor,
        real,
        bits_per_dim=source.bits_per_dim,
        processes=processes,
        cache_dir=cache_dir,
        environment=_environment(place, processes.count),
    )
    if processes.rank == 0:
        _write_files(plan, result, real, npz)
        if write_cards:
            _write_cards(found, result, str(data), split)
    processes.wait()
    return result


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _write_files(plan: Plan, result: EvaluationResult, real: RealData, npz: bool) -> None:
    for problem in write_report(result, plan, real.training):
        warnings.warn(problem, stacklevel=3)
    if npz:
        for folder in dict.fromkeys(row.folder for row in plan.rows):
            write_npz(plan, folder, plan.output / "npz" / f"{folder}.npz")


def shipped_classifiers() -> dict[str, str]:
    """The classifiers that come with the package and can serve as features: name -> folder."""
    configs = sorted(CLASSIFIERS.glob("*/config.json"))
    return {path.parent.name: str(path.parent) for path in configs if "FeatureClassifier" in path.read_text("utf-8")}


def _choose_samplers(names: Sequence[str], own: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    known = {**SAMPLERS, **own}
    for name in names:
        if name not in known:
            raise ValueError(f"sampler must be one of {list(known)}, got {name!r}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"sampler must name different samplers, got {list(names)}")
    return {name: known[name] for name in names}


def _processes_and_device(device: str | None) -> tuple[Processes, torch.device]:
    on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    processes = Processes.from_accelerate(cpu=on_cpu)
    if device is not None:
        return processes, torch.device(device)
    from accelerate import PartialState

    return processes, torch.device("cpu") if on_cpu else PartialState().device


def _environment(device: torch.device, processes: int) -> dict[str, Any]:
    from . import __version__

    return {
        "scoresde_pipelines": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "cpu"


def _check_cards(models: Sequence[ModelSource]) -> None:
    for model in models:
        if model.card is None:
            raise ValueError(f"model must be a folder of this machine to write its card, got {model.name!r}")


def _write_cards(models: Sequence[ModelSource], result: EvaluationResult, data: str, split: str) -> None:
    for model in models:
        assert model.card is not None
        write_card(model.card, result, [row for row in result.rows if row.model == model.name], data, split)
