"""`scoresde info`: what a model is."""

import re
from pathlib import Path
from typing import Any

from .command_options import Json, Model
from .command_run import Work, load_pipeline, report


def info(model: Model, json: Json = False) -> None:
    """What a model is: its SDE, network, size, classes, sampler and licence."""
    from .training.model_names import resolve_pipeline

    work = Work()
    with work.errors():
        folder = resolve_pipeline(model)
        facts = {"model": model, "folder": str(folder), **describe(load_pipeline("ScoreSdePipeline", model, "cpu"))}
        facts["licence"] = licence(folder)
    report(facts, json, "\n".join(f"{name.replace('_', ' '):<12} {_text(value)}" for name, value in facts.items()))


def describe(pipe: Any) -> dict[str, Any]:
    """The facts of a pipeline, JSON-serialisable."""
    scheduler, config = pipe.scheduler, pipe.scheduler.config
    predictor, corrector = (
        getattr(rule, "__name__", rule) for rule in (config.get("predictor"), config.get("corrector"))
    )
    return {
        "sde": scheduler.sde.__class__.__name__,
        "scheduler": type(scheduler).__name__,
        "network": type(pipe.unet).__name__,
        "parameters": sum(parameter.numel() for parameter in pipe.unet.parameters()),
        "prediction": config.prediction_type,
        "shape": list(pipe.sample_shape),
        "data_range": [pipe.config.data_min, pipe.config.data_max],
        "classes": list((pipe.config.id2label or {}).values()),
        "predictor": predictor if predictor is None else str(predictor),
        "corrector": corrector if corrector is None else str(corrector),
        "calls_a_step": scheduler.order,
    }


def licence(folder: Path) -> str | None:
    """The licence that the head of a folder's README.md names, or None."""
    card = folder / "README.md"
    head = card.read_text("utf-8").split("\n---", 1)[0] if card.is_file() else ""
    found = re.search(r"^license:\s*(\S+)", head, re.MULTILINE)
    return found[1] if found and head.startswith("---") else None


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) and value > 999 else str(value)
