"""`scoresde export`: a pipeline that diffusers loads without this package."""

from pathlib import Path
from typing import Annotated

import typer

from .command_checks import check_folder
from .command_options import Json, Model
from .command_run import check_output, named, report


def export(
    model: Model,
    output: Annotated[
        Path,
        typer.Option(help="Folder to write; must not exist, or be empty.", show_default=False, callback=check_folder),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the folder holds.")] = False,
    json: Json = False,
) -> None:
    """Write a model with the sources of its classes, for people who have diffusers and not this package."""
    from .pipeline_score_sde import ScoreSdePipeline
    from .standalone import export_standalone

    with named("output"):
        check_output(output, overwrite)
    with named("model"):
        pipe = ScoreSdePipeline.from_pretrained(model)
    with named("output"):
        folder = export_standalone(pipe, output, overwrite=overwrite)
    text = f"done: DiffusionPipeline.from_pretrained({str(folder)!r}, trust_remote_code=True)"
    report({"model": model, "folder": str(folder)}, json, text)
