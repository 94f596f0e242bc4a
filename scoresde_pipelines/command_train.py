"""`scoresde train`: the training script under this command."""

import typer


SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def train(context: typer.Context) -> None:
    """Train or fine-tune a model; `scoresde train --help` lists the arguments.

    On several processes: accelerate launch -m scoresde_pipelines.cli train ...
    """
    from .training.train_unconditional import run

    run(context.args, "scoresde train")
