"""`scoresde app`: a page in the browser that generates, restores and measures pictures."""

from importlib.util import find_spec
from typing import Annotated, Any

import typer

from .command_checks import check_listed_models, complete_model
from .command_options import Device
from .command_run import best_device


def app(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model to offer, or a quoted pattern of checkpoints; repeat for more. The shipped ones by default.",
            callback=check_listed_models,
            autocompletion=complete_model,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    device: Device = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; a free one by default.")] = None,
) -> None:
    """Open a page that generates, restores and measures pictures."""
    if find_spec("gradio") is None:
        message = "error: the page needs gradio: pip install 'scoresde_pipelines[app]'"
        typer.secho(message, fg="red", err=True)
        raise typer.Exit(1)
    typer.echo("starting the page", err=True)  # the imports take seconds
    from .app import launch

    options: dict[str, Any] = {"models": model or None, "host": host, "port": port, "device": best_device(device)}
    try:
        launch(**{name: value for name, value in options.items() if value is not None})
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
