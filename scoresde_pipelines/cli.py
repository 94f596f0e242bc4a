"""The `scoresde` command: a table of commands, each with its body in a file of its own.

Nothing here imports torch: a command imports what it needs when it runs, and `scoresde --help` takes a fifth of a second.
"""

import signal
import sys
import threading
import warnings
from collections.abc import Callable
from functools import partial
from types import FrameType
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


app = typer.Typer(
    name="scoresde",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Score-based generative modelling through SDEs.",
)


_received: list[int] = []  # signals that end the command


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"scoresde {__version__}")
        raise typer.Exit()


def _end(number: int, _: FrameType | None) -> None:
    _received.append(number)
    sys.exit(128 + number)


def _clean_up_when_terminated(context: typer.Context) -> None:
    """Until a command ends, signals that would kill it raise an exception: what is half-written is removed."""
    if threading.current_thread() is not threading.main_thread():
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Windows has two of them
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        before = signal.getsignal(number)
        if before in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)
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


def main() -> None:
    """The `scoresde` command. A signal ends it with one line and the code 128 + its number, Ctrl-C with 130.

    The code is set here, because an import that a signal interrupts may turn the exception into one of its own.
    """
    try:
        app(prog_name="scoresde")
    except KeyboardInterrupt:  # before the handlers are in place
        _received.append(signal.SIGINT)
    except BaseException:
        if not _received:
            raise
    if _received:
        print(f"error: ended by {signal.Signals(_received[0]).name}", file=sys.stderr)
        sys.exit(128 + _received[0])


if __name__ == "__main__":
    main()
