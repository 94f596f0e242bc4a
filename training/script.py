"""How the training scripts run from a command line: an error of the user's is one line on stderr and an exit code."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from .model_names import locate


USER_ERRORS = (ValueError, TypeError, OSError, ImportError)  # of data, names, folders and what is not installed
RUN_ERRORS = (ValueError, OSError, FloatingPointError)  # a broken picture, a full disk, a loss that is not finite
INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing failed, the same command with --resume_from_checkpoint goes on
EXIT_CODES = (
    f"Exit codes: 0 when the training is complete, {INTERRUPTED} when SIGTERM, SIGUSR1, SIGHUP or Ctrl-C interrupted it and "
    "its state was saved (go on with --resume_from_checkpoint latest), anything else after an error."
)


class Run(Protocol):
    """A training run: `Trainer`, `ClassifierTrainer`."""

    def train(self) -> Any: ...

    def finish(self) -> Any: ...


def run_script(
    trainer: Callable[[argparse.Namespace], Run], args: argparse.Namespace, prog: str | None = None
) -> None:
    """Trains; where that fails, ends the program with a line on stderr.

    The exit code is 2 where the arguments or the data are wrong, before the first update, and 1 where the training fails.
    With classes of the user's own (`--sde module:Class`, `--objective module:name`) errors keep their traceback.

    Args:
        trainer: the class of the run.
        args: parsed.
        prog: how the line begins; by default with the name of the script.

    Raises:
        SystemExit: after an error, or an interruption.
    """
    prog = prog or os.path.basename(sys.argv[0])
    own_code = any(":" in (getattr(args, name, None) or "") for name in ("sde", "objective"))
    try:
        run = trainer(args)
    except USER_ERRORS as error:
        if own_code:
            raise
        _end(prog, error, 2)
    try:
        run.train()
        run.finish()
    except RUN_ERRORS as error:
        if own_code:
            raise
        _end(prog, error, 1)


def check_sources(args: argparse.Namespace, prog: str) -> None:
    """Ends the program where the folder of the data or the pretrained model is not there, before torch is imported."""
    try:
        if args.train_data_dir is not None and not os.path.exists(args.train_data_dir):
            raise ValueError(f"train_data_dir must be an existing folder or file, got {args.train_data_dir!r}")
        if getattr(args, "pretrained_model_name_or_path", None) is not None:
            locate(args.pretrained_model_name_or_path)
    except USER_ERRORS as error:
        _end(prog, error, 2)


def _end(prog: str, error: BaseException, code: int) -> NoReturn:
    print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    raise SystemExit(code) from error
