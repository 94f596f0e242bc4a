"""`scoresde app`: a page in the browser that generates, restores and measures pictures."""

from typing import Annotated, Any

import typer

from .command_options import Device, best_device


def app(
    model: Annotated[list[str] | None, typer.Option(help="Model to offer, repeat for more; the shipped ones.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    device: Device = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; a free one by default.")] = None,
) -> None:
    """Open a page that generates, restores and measures pictures."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        message = "error: the page needs gradio: pip install 'scoresde_pipelines[app]'"
        typer.secho(message, fg="red", err=True)
        raise typer.Exit(1) from error
    from .app import launch

    options: dict[str, Any] = {"models": model, "host": host, "port": port, "device": best_device(device)}
    launch(**{name: value for name, value in options.items() if value is not None})
