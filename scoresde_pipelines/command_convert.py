"""`scoresde convert`: from a checkpoint of the official PyTorch code to a pipeline folder."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .command_checks import check_file, check_new_folder
from .command_options import Json
from .command_run import report


CARD = """---
library_name: diffusers
tags: [unconditional-image-generation, diffusers, score-based-generative-modeling, scoresde_pipelines]
---

# {name}

Converted from `{checkpoint}` of the official code of *Score-Based Generative Modeling through Stochastic Differential
Equations* (Song et al., ICLR 2021): {facts}, {weights} weights.
"""


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="checkpoint_N.pth of the official PyTorch code.", callback=check_file)
    ],
    folder: Annotated[
        Path, typer.Argument(help="Pipeline folder to write; must not exist yet.", callback=check_new_folder)
    ],
    config: Annotated[
        str | None,
        typer.Option(
            help="A preset's name, or a JSON file with the official configuration; read off the tensors by default."
        ),
    ] = None,
    ema: Annotated[bool, typer.Option(help="Take the averaged weights, as all published figures do.")] = True,
    json: Json = False,
) -> None:
    """Write an official checkpoint as a pipeline folder in safetensors, for `ScoreSdePipeline.from_pretrained`."""
    from safetensors import SafetensorError

    from .models.official import PRESETS

    if config is not None and not config.endswith(".json") and config not in PRESETS:
        raise typer.BadParameter(
            f"must be a JSON file or one of {', '.join(PRESETS)}, got {config!r}", param_hint="--config"
        )
    try:
        typer.echo(f"[1/3] reading and checking {checkpoint}", err=json)
        try:
            pipe = _load(checkpoint, config, ema)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"checkpoint cannot be converted: {error}") from error
        typer.echo(f"[2/3] {_facts(pipe)}\n[3/3] writing {folder}", err=json)
        _write_whole(pipe, folder, _card(pipe, checkpoint, folder, ema))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    facts = {"folder": str(folder), "checkpoint": str(checkpoint), "network": type(pipe.unet).__name__}
    report(facts, json, f"done: ScoreSdePipeline.from_pretrained({str(folder)!r})")


def _load(checkpoint: Path, config: str | None, ema: bool) -> Any:
    from .models import load_official_checkpoint
    from .pipeline_score_sde import ScoreSdePipeline

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, scheduler = load_official_checkpoint(checkpoint, _configuration(config), use_ema=ema)
    for warning in caught:
        typer.secho(f"warning: {warning.message}", fg="yellow", err=True)
    # An official network that centers its input itself was trained on [0, 1], any other on [-1, 1].
    data_min = 0.0 if model.config.center_input_sample else -1.0
    return ScoreSdePipeline(model, scheduler, data_min=data_min, data_max=1.0)


def _facts(pipe: Any) -> str:
    millions = sum(parameter.numel() for parameter in pipe.unet.parameters()) / 1e6
    return f"{type(pipe.unet).__name__}, {millions:.2f} M parameters, {type(pipe.scheduler).__name__}"


def _card(pipe: Any, checkpoint: Path, folder: Path, ema: bool) -> str:
    weights = "averaged (EMA)" if ema else "last"
    return CARD.format(name=folder.name, checkpoint=checkpoint.name, facts=_facts(pipe), weights=weights)


def _configuration(config: str | None) -> str | Mapping[str, Any] | None:
    if config is None or not config.endswith(".json"):
        return config
    import json

    try:
        return json.loads(Path(config).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"config must be a JSON file, got {config}: {error}") from error


def _write_whole(pipe: Any, folder: Path, card: str) -> None:
    from .training.durable_files import filled_folder

    with filled_folder(folder, "the pipeline", "nothing is left", "model_index.json") as staged:
        pipe.save_pretrained(str(staged))
        (staged / "README.md").write_text(card, "utf-8")
