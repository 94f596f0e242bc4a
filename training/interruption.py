"""Signals that ask a run to end: it saves a checkpoint after the current update and exits.

Clusters send SIGTERM or SIGUSR1 before they stop a job; Ctrl-C sends SIGINT, and a terminal that closes SIGHUP. All of
them lead to the same end, a checkpoint and the exit code `INTERRUPTED`. A second SIGINT ends the program at once.
"""

import signal
import threading
from types import FrameType
from typing import Any, Self

import torch
from accelerate import Accelerator

from .processes import keep_until_exit
from .program_end import SIGNALS as SIGNAL_NAMES
from .script import INTERRUPTED


SIGNALS = tuple(getattr(signal, name) for name in SIGNAL_NAMES if hasattr(signal, name))


class RunInterrupted(SystemExit):
    """Ends the program with the exit code `INTERRUPTED`, after a checkpoint was saved.

    Attributes:
        signal: the one that was received.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(INTERRUPTED)
        self.signal = number


class Interruption:
    """Notes the signals of `SIGNALS` while it is entered as a context; the former handlers come back at its end.

    SIGHUP stays ignored under `nohup`.

    Python handles signals in the main thread only: entered in another one, it notes nothing.
    """

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}
        self._group: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heeded = [
                n for n in SIGNALS if n != getattr(signal, "SIGHUP", None) or signal.getsignal(n) != signal.SIG_IGN
            ]
            self._former = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            # A handler that was not installed from Python cannot be put back from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.noted is not None:
            raise KeyboardInterrupt
        self.noted = signal.Signals(number)

    def requested(self, accelerator: Accelerator) -> signal.Signals | None:
        """The signal that any process received, the same answer on all; every process calls this after each update.

        One process reads a variable. Several exchange one number over the CPU (Gloo), so that no GPU is waited for.
        """
        if accelerator.num_processes == 1:
            return self.noted
        if self._group is None and torch.distributed.get_backend() != "gloo":
            self._group = torch.distributed.new_group(backend="gloo")
            keep_until_exit(self._group)
        number = torch.tensor(int(self.noted or 0))
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group=self._group)
        return signal.Signals(int(number)) if number else None


def ignore_signals(_: int = 0) -> None:
    """Lets a data-loading process live until the run ends it, when a signal goes to all processes of a job.

    Given to a `DataLoader` as its `worker_init_fn`.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
