"""Trains or fine-tunes a score-based generative model on images, and writes a pipeline folder.

    accelerate launch -m scoresde_pipelines.training.train_unconditional --dataset_name user/images ...
    python training/train_unconditional.py --train_data_dir images/ ...

`trainer.Trainer` is the run, `arguments` lists what can be set.
"""

import sys
from collections.abc import Sequence
from pathlib import Path


if not __package__:
    # Run by path: Python has put training/ first on sys.path; the package lies one folder up, or is installed.
    root = Path(__file__).resolve().parent.parent
    sys.path[:1] = [str(root)] if (root / "scoresde_pipelines").is_dir() else []

from scoresde_pipelines.training.program_end import end_at_once, run_program


if __name__ == "__main__":
    end_at_once()

from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.script import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the training that the command line (or `argv`) describes; its errors are exceptions."""
    args = parse_args(argv)
    from scoresde_pipelines.training.trainer import Trainer

    trainer = Trainer(args)
    trainer.train()
    trainer.finish()


def run(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """`main` of a command line, `prog`: see `run_script`."""
    args = parse_args(argv, prog, sources_exist=True)  # before the imports: `--help` needs no torch
    from scoresde_pipelines.training.trainer import Trainer

    run_script(Trainer, args, prog)


if __name__ == "__main__":
    run_program(run)
