"""Trains a noise-conditional classifier for `ScoreSdeClassConditionalPipeline`.

    accelerate launch -m scoresde_pipelines.training.train_classifier --train_data_dir fashion_mnist --channels 1 ...
    python training/train_classifier.py --train_data_dir fashion_mnist --channels 1 ...

The classifier's input is a clean image plus noise of a known size; the state of every SDE is of this form after division by
alpha. Whatever `--sde` it was trained with, it guides any other whose noise levels lie in the same range.
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

from scoresde_pipelines.training.classifier_arguments import parse_classifier_args
from scoresde_pipelines.training.script import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the training that the command line (or `argv`) describes; its errors are exceptions."""
    args = parse_classifier_args(argv)
    from scoresde_pipelines.training.classifier_trainer import ClassifierTrainer

    trainer = ClassifierTrainer(args)
    trainer.train()
    trainer.finish()


def run(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """`main` of a command line, `prog`: see `run_script`."""
    args = parse_classifier_args(argv, prog, sources_exist=True)  # before the imports: `--help` needs no torch
    from scoresde_pipelines.training.classifier_trainer import ClassifierTrainer

    run_script(ClassifierTrainer, args, prog)


if __name__ == "__main__":
    run_program(run)
