"""The `scoresde` command: a table of commands, each with its body in a file of its own."""

import typer

from .command_convert import convert
from .command_ema import ema
from .command_evaluate import evaluate
from .command_likelihood import likelihood


app = typer.Typer(
    name="scoresde", no_args_is_help=True, add_completion=False, help="Score-based generative modelling through SDEs."
)


@app.callback()
def scoresde() -> None:
    """Score-based generative modelling through SDEs."""


app.command()(convert)
app.command()(ema)
app.command()(evaluate)
app.command()(likelihood)


if __name__ == "__main__":
    app()
