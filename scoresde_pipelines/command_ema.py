"""`scoresde ema`: a pipeline whose weights are averaged with a width that is chosen after training."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .command_options import writable


NOTE = """
## Weights

Power-function average of relative width {width:g}, combined after training from {count} snapshots (relative error of
its profile {error:.2g}).
"""


def ema(
    run: Annotated[Path, typer.Argument(help="Output folder of a training run with --ema_widths.")],
    sigma_rel: Annotated[float, typer.Option("--sigma_rel", "--sigma-rel", help="Relative width of the average.")],
    output: Annotated[Path, typer.Option(help="Pipeline folder to write; must not exist yet.", callback=writable)],
) -> None:
    """Write the pipeline of a run with weights of any averaging width, from the snapshots of the run."""
    from .training.durable_files import staged_folder
    from .training.pipeline_folder import load_pipeline_folder, save_pipeline_folder
    from .training.posthoc_ema import FOLDER, combine_snapshots

    if os.path.lexists(output):
        raise typer.BadParameter(f"{output} exists; name a folder that does not", param_hint="output")
    try:
        components = load_pipeline_folder(str(run))
        tensors, fit = combine_snapshots(run / FOLDER, sigma_rel)
        missing, unexpected = components.unet.load_state_dict(tensors, strict=False)
        if missing or unexpected:
            raise ValueError(
                f"run must hold snapshots of its own network, got other tensors: {[*missing, *unexpected]}"
            )
        card = (run / "README.md").read_text("utf-8") if (run / "README.md").is_file() else f"# {output.name}\n"
        note = NOTE.format(width=sigma_rel, count=len(fit.weights), error=fit.error)
        staged = output.with_name(f".incomplete-{output.name}")
        with staged_folder(staged, "the pipeline", "there is nothing at the output"):
            save_pipeline_folder(staged, components, card + note)
            staged.rename(output)
    except (OSError, ValueError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{len(fit.weights)} snapshots combined, relative error of the profile {fit.error:.2g}")
    typer.echo(f"done: ScoreSdePipeline.from_pretrained({str(output)!r})")
