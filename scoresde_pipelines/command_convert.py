"""`scoresde convert`: from a checkpoint of the official PyTorch code to a pipeline folder."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .models import load_official_checkpoint
from .pipeline_score_sde import ScoreSdePipeline


CARD = """---
library_name: diffusers
tags: [unconditional-image-generation, diffusers, score-based-generative-modeling, scoresde_pipelines]
---

# {name}

Converted from `{checkpoint}` of the official code of *Score-Based Generative Modeling through Stochastic Differential
Equations* (Song et al., ICLR 2021): {network}, {parameters:.2f} M parameters, {weights} weights, {scheduler}.
"""


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint_N.pth of the official PyTorch code.")],
    folder: Annotated[Path, typer.Argument(help="Pipeline folder to write; must not exist yet.")],
    config: Annotated[
        str | None,
        typer.Option(
            help="A preset's name, or a JSON file with the official configuration; read off the tensors by default."
        ),
    ] = None,
    ema: Annotated[bool, typer.Option(help="Take the averaged weights, as all published figures do.")] = True,
) -> None:
    """Write an official checkpoint as a pipeline folder in safetensors, for `ScoreSdePipeline.from_pretrained`."""
    if folder.exists():
        raise typer.BadParameter(f"{folder} exists; name a folder that does not", param_hint="folder")
    typer.echo(f"reading {checkpoint}")
    try:
        model, scheduler = load_official_checkpoint(checkpoint, _configuration(config), use_ema=ema)
    except (FileNotFoundError, ValueError, TypeError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    pipe: Any = ScoreSdePipeline(model, scheduler)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    facts = f"{type(model).__name__}, {parameters:.2f} M parameters, {type(scheduler).__name__}"
    typer.echo(f"{facts}\nwriting {folder}")
    card = CARD.format(
        name=folder.name,
        checkpoint=checkpoint.name,
        network=type(model).__name__,
        parameters=parameters,
        weights="averaged (EMA)" if ema else "last",
        scheduler=type(scheduler).__name__,
    )
    _write_whole(pipe, folder, card)
    typer.echo(f"done: ScoreSdePipeline.from_pretrained({str(folder)!r})")


def _configuration(config: str | None) -> str | Mapping[str, Any] | None:
    if config is None or not config.endswith(".json"):
        return config
    try:
        return json.loads(Path(config).read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"config {config} is no JSON file: {error}") from error


def _write_whole(pipe: Any, folder: Path, card: str) -> None:
    """Writes beside the target and renames, so that an interruption leaves no half-written pipeline behind."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        written = Path(scratch) / "pipeline"
        pipe.save_pretrained(str(written))
        (written / "README.md").write_text(card, "utf-8")
        written.rename(folder)
