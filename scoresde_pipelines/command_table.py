"""The commands of `scoresde`: a table of them, each with its body in a file of its own.

Nothing here imports torch: a command imports what it needs when it runs, and `scoresde --help` takes a fifth of a second.
"""

import signal
import warnings
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from . import __version__
from .command_app import app as app_command
from .command_colorize import colorize
from .command_convert import convert
from .command_ema import ema
from .command_evaluate import evaluate
from .command_export import export
from .command_info import info
from .command_inpaint import inpaint
from .command_interpolate import interpolate
from .command_likelihood import likelihood
from .command_restore import restore
from .command_sample import sample
from .command_train import SETTINGS, train
from .command_upscale import upscale
from .training.program_end import SIGNALS, raise_at


app = typer.Typer(
    name="scoresde",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Score-based generative modelling through SDEs.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"scoresde {__version__}")
        raise typer.Exit()


def _clean_up_when_terminated(context: typer.Context) -> None:
    """Until a command ends, signals that would kill it raise an exception: what is half-written is removed."""
    for number, before in raise_at(SIGNALS).items():
        context.call_on_close(partial(signal.signal, number, before))


def _warn_in_one_line(context: typer.Context) -> None:
    """Until a command ends, a warning is its message: the place in the code helps nobody at a command line."""
    former = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    context.call_on_close(lambda: setattr(warnings, "formatwarning", former))


@app.callback()
def scoresde(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Score-based generative modelling through SDEs."""
    _clean_up_when_terminated(context)
    _warn_in_one_line(context)


COMMANDS: tuple[Callable[..., None], ...] = (sample, inpaint, colorize, upscale, restore, interpolate, likelihood)
for command in COMMANDS:
    app.command()(command)
app.command(context_settings=SETTINGS)(train)
for command in (evaluate, convert, ema, export, info):
    app.command()(command)
app.command("app")(app_command)
