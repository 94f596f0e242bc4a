"""`scoresde ema`: a pipeline whose weights are averaged with a width that is chosen after training."""

from pathlib import Path
from typing import Annotated

import typer

from .command_checks import check_new_folder, check_run, in_range
from .command_options import Json
from .command_run import report


NOTE = """
## Weights

Power-function average of relative width {width:g}, combined after training from {count} snapshots (relative error of
its profile {error:.2g}).
"""


def ema(
    run: Annotated[
        Path, typer.Argument(help="Output folder of a training run with --ema_widths.", callback=check_run)
    ],
    sigma_rel: Annotated[
        float,
        typer.Option(
            "--sigma_rel",
            "--sigma-rel",
            help="Relative width of the average.",
            callback=in_range("sigma_rel", 0, 0.288, "()"),
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="Pipeline folder to write; must not exist yet.", callback=check_new_folder)
    ],
    json: Json = False,
) -> None:
    """Write the pipeline of a run with weights of any averaging width, from the snapshots of the run."""
    from .training.pipeline_folder import load_pipeline_folder, save_pipeline_folder
    from .training.posthoc_ema import FOLDER, combine_snapshots

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
        save_pipeline_folder(output, components, card + note)
    except (OSError, ValueError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    text = f"{len(fit.weights)} snapshots combined, relative error of the profile {fit.error:.2g}\n"
    text += f"done: ScoreSdePipeline.from_pretrained({str(output)!r})"
    report({"folder": str(output), "snapshots": len(fit.weights), "profile_error": float(fit.error)}, json, text)
