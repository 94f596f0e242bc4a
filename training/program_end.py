"""How a program ends at Ctrl-C and other signals: one line, and the code 128 + the number, from its first imports on.

A program calls `end_at_once` before it imports anything large, and does its work in `run_program`. This module
imports the standard library alone.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # what ends programs; Windows has two of them

received: list[int] = []  # signals that end the program


def end_at_once() -> None:
    """Until `run_program`, Ctrl-C ends the process at once.

    While a program imports there is nothing to clean up, and an exception would be turned into others, by libraries that
    import on demand, or into an abort, in compiled ones.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def raise_at(names: Iterable[str]) -> dict[int, Any]:
    """From now on the signals of these names raise SystemExit, so that what is half-written is removed.

    Signals that are ignored, or handled by somebody else, stay so, as do names that this system does not have.

    Returns:
        the former handlers by the number of the signal.
    """
    former: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        return former
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        before = signal.getsignal(number)
        if before in (signal.SIG_DFL, signal.default_int_handler, _end_at_once):
            signal.signal(number, _raise)
            former[number] = signal.default_int_handler if before is _end_at_once else before
    return former


def run_program(run: Callable[[], Any], errors: tuple[type[Exception], ...] = ()) -> None:
    """Calls `run`; a signal of `SIGNALS`, or one of the `errors`, ends the program with one line on stderr.

    The code is set here, because an import that a signal interrupts may turn the exception into one of its own.

    Raises:
        SystemExit: with the code 128 + the number of the signal, or 1 for an error.
    """
    received.clear()
    former = raise_at(SIGNALS)
    try:
        run()
    except KeyboardInterrupt:
        received.append(signal.SIGINT)
    except BaseException as error:
        if not received and isinstance(error, errors):
            sys.exit(f"error: {' '.join(str(error).split())}")
        if not received:
            raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if received:
        print(_line(received[0]), file=sys.stderr, flush=True)
        sys.exit(128 + received[0])


def _line(number: int) -> str:
    return f"error: ended by {signal.Signals(number).name}"


def _end_at_once(number: int, _: FrameType | None) -> None:
    os.write(2, f"{_line(number)}\n".encode())
    os._exit(128 + number)


def _raise(number: int, _: FrameType | None) -> None:
    received.append(number)
    sys.exit(128 + number)
