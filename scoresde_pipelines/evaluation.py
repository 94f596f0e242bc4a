"""Tables of models x samplers x steps with standard errors: what `scoresde evaluate` runs, as a function."""

import inspect
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

from .evaluation_models import ModelSource, find_models, load_weak_network
from .evaluation_sampling import ClassDraw, PipelineSource
from .samplers import CALL, GUIDANCE_SCALE, SAMPLERS, WEAK_GUIDANCE_SCALE
from .schedulers.checks import (
    MOST,
    check_choice,
    check_device,
    check_flag,
    check_function,
    check_integer,
    check_number,
    check_path,
    shown,
)
from .training.destinations import check_apart, check_writable
from .training.evaluation import EvaluationResult, Plan, Processes, RealData, evaluate_grid, load_features, open_data
from .training.evaluation.plan import check_metrics, check_num_images
from .training.evaluation.real_images import FITS
from .training.evaluation.report import write_card, write_npz, write_report
from .training.pipeline_folder import SCHEDULERS
from .weak_guidance import DEFAULT_SCALE


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
    guidance_scale: float | Sequence[float] | None = None,
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
    weak_model: str | None = None,
    weak_guidance_scale: float | Sequence[float] | None = None,
) -> EvaluationResult:
    """Generates images with every model, sampler and number of steps, and measures them against real ones.

    Writes `results.json`, `table.md`, `quality.png` (metrics against network calls), `grids/` (the first 64 images of each
    row) and `samples/` (all images and features) into `output`. Called again with the same arguments after an interruption
    it goes on. Under `accelerate launch` the processes share the work.

    Args:
        models: names of shipped pipelines, folders, Hub ids, or patterns for training checkpoints (`runs/x/checkpoint-*`).
        data: a folder, a parquet file or a Hub id; `split` of it is compared with.
        samplers: keys of `SAMPLERS` or of `sampler_settings`.
        steps: numbers of noise levels; "ode" and "adaptive_restart" choose their own.
        seeds: each gives `num_images` images, image k from the same noise in every row; all seeds are measured together.
        features: see `training.evaluation.load_features`; EfficientNet-Lite0 by default.
        metrics: "kid", "fd", "is", "pr" (precision, recall, density, coverage), "bpd" (bits/dim of real images), "nn"
            (share of images that copy a training image).
        guidance_scale: generate images of given classes with each of these scales, as `ScoreSdeClassConditionalPipeline`
            does; classes are drawn as often as they occur in `split`. None: no class is given.
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
        weak_model: the weak model of autoguidance, named as those of `models`.
        weak_guidance_scale: generate with each of these scales of autoguidance; 2 by default, 1 is without.

    Raises:
        ValueError: for bad input, before the first image is generated.
    """
    counts, seed_list = _integers("steps", steps, 1), _integers("seeds", seeds, 0, 2**63)
    integers = {"num_images": num_images, "batch_size": batch_size, "num_bpd_images": num_bpd_images}
    num_images, batch_size, num_bpd_images = (check_integer(name, value) for name, value in integers.items())
    num_reference = None if num_reference is None else check_integer("num_reference", num_reference)
    for name, flag in (("npz", npz), ("write_cards", write_cards)):
        check_flag(name, flag)
    if not isinstance(features, str):
        check_function("features", features, optional=True)
    check_choice("fit", fit, FITS, optional=True)
    _check_places(data, split, train_split, output, {"features_weights": features_weights, "cache_dir": cache_dir})
    chosen = _choose_samplers(_names("samplers", samplers), sampler_settings)
    chosen = _with_guidance(chosen, guidance_scale, weak_model, weak_guidance_scale)
    found = find_models(_names("models", models))
    metrics = _names("metrics", metrics)
    if len(set(metrics)) < len(metrics):
        raise ValueError(f"metrics must be different ones, got {metrics}")
    check_metrics(metrics)
    if write_cards:
        _check_cards(found)
    # The data before any model: to open them is quick.
    training = train_split if "nn" in metrics else None
    opened = open_data(data, split, num_images, num_reference=num_reference, train_split=training)
    check_num_images(metrics, num_images, opened.count)
    classes = _class_draw(data, split, found) if any(GUIDANCE_SCALE in one for one in chosen.values()) else None
    known = [shape for shape in (model.shape for model in found) if shape is not None]
    real = opened.for_models(known, fit) if len(known) == len(found) else None
    processes, place = _processes_and_device(device)
    extractor = load_features(features, shipped_classifiers(), features_weights).to(place)
    weak_unet = None if weak_model is None else load_weak_network(weak_model)
    source = PipelineSource(found, chosen, place, classes, weak_unet)
    rows, row_settings, shapes = source.rows(counts)
    real = opened.for_models(shapes, fit) if real is None else real
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
        seed_list,
        num_images,
        batch_size,
        metrics,
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


def _check_places(
    data: str, split: str, train_split: str, output: str | Path, others: Mapping[str, str | Path | None]
) -> None:
    for name, text in (("data", data), ("split", split), ("train_split", train_split)):
        if not isinstance(text, str) or not text:
            raise TypeError(f"{name} must be a text that is not empty, got {shown(text)}")
    for name, path in others.items():
        if path is not None:
            check_path(name, path)
    check_writable("output", output)
    check_apart("output", output, data)
    if Path(output).exists() and not Path(output).is_dir():
        raise ValueError(f"output must be a folder, got the file {str(output)!r}")


def _class_draw(data: str, split: str, models: Sequence[ModelSource]) -> ClassDraw:
    """The classes of generated images; the data must have those of every model whose files are here."""
    draw = ClassDraw(data, split)
    for classes in (model.classes for model in models):
        if classes is not None and classes.count:
            draw.labels(classes)
    return draw


def _names(name: str, given: str | Sequence[str]) -> list[str]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(one, str) and one for one in names):
        raise TypeError(f"{name} must be a name or a list of names, got {shown(given)}")
    return list(names)


def _integers(name: str, given: int | Sequence[int], least: int, most: int = MOST) -> list[int]:
    values = [
        check_integer(name, one, least, most) for one in (given if isinstance(given, (list, tuple)) else [given])
    ]
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} must be different numbers of at least {least}, got {shown(given)}")
    return values


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


def _choose_samplers(
    names: Sequence[str], own: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Mapping[str, Any]]:
    own = {} if own is None else own
    if not isinstance(own, Mapping) or not all(
        isinstance(name, str) and isinstance(settings, Mapping) for name, settings in own.items()
    ):
        raise TypeError(f"sampler_settings must be dictionaries of settings by the sampler's name, got {shown(own)}")
    known_settings = {*CALL, GUIDANCE_SCALE}.union(*(inspect.signature(cls).parameters for cls in SCHEDULERS.values()))
    for name, settings in own.items():
        if set(settings) - known_settings:
            raise ValueError(
                f"sampler_settings must be settings of a scheduler, got {dict(settings)} for {shown(name)}"
            )
        if GUIDANCE_SCALE in settings:
            check_number("guidance_scale of sampler_settings", settings[GUIDANCE_SCALE], 0)
    known = {**SAMPLERS, **own}
    for name in names:
        if name not in known:
            raise ValueError(f"sampler must be one of {list(known)}, got {shown(name)}")
    if len(set(names)) < len(names):
        raise ValueError(f"sampler must name different samplers, got {list(names)}")
    return {name: known[name] for name in names}


def _with_guidance(
    samplers: dict[str, Mapping[str, Any]],
    scale: float | Sequence[float] | None,
    weak_model: str | None,
    weak_scale: float | Sequence[float] | None,
) -> dict[str, Mapping[str, Any]]:
    """The samplers with every scale of guidance by classes, and of autoguidance."""
    if scale is not None:
        samplers = _with_scales(samplers, scale, GUIDANCE_SCALE)
    if weak_model is not None:
        return _with_scales(samplers, DEFAULT_SCALE if weak_scale is None else weak_scale, WEAK_GUIDANCE_SCALE)
    if weak_scale is not None:
        raise ValueError(f"weak_guidance_scale must be None without a weak_model, got {weak_scale!r}")
    return samplers


def _with_scales(
    samplers: Mapping[str, Mapping[str, Any]], scales: float | Sequence[float], setting: str
) -> dict[str, Mapping[str, Any]]:
    """Every sampler with every scale, named like "default, guidance 2" or "default, weak guidance 2"."""
    given = scales if isinstance(scales, (list, tuple)) else [scales]
    values = [check_number(setting, scale, 0) for scale in given]
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{setting} must be different numbers of at least 0, got {shown(scales)}")
    return {
        f"{name}, {setting.removesuffix('_scale').replace('_', ' ')} {scale:g}": {**settings, setting: scale}
        for name, settings in samplers.items()
        for scale in values
    }


def _processes_and_device(device: str | None) -> tuple[Processes, torch.device]:
    if device is not None:
        check_device("device", device)
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
