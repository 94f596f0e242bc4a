"""Work whose errors reach all processes of a run: an error on one would leave the others waiting for it."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object


T = TypeVar("T")
_kept: list[Any] = []


def keep_until_exit(group: Any) -> None:
    """Lets a process group live until the interpreter ends.

    PyTorch's Gloo threads release the tensors of the last collective late, and need Python's lock for it. Whoever
    deletes the group right after (the end of a training function does) waits for these threads while holding that
    lock, forever. Seen with torch 2.13: about 1 of 6 runs of two processes hung after their last checkpoint, and 0 of
    47 with the group kept.
    """
    _kept.append(group)


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Runs `work` on the main process; every process gets its result, or raises its error."""
    return _together(accelerator, work if accelerator.is_main_process else None)[0]


def on_all(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Runs `work` on every process and waits for all; every process raises the first error."""
    _together(accelerator, work)


def _together(accelerator: Accelerator, work: Callable[[], Any] | None) -> list[Any]:
    """The results of all processes, in their order."""
    result, failure = None, None
    try:
        result = work() if work is not None else None
    except Exception as error:
        if accelerator.num_processes == 1:
            raise
        failure = error
    outcomes = gather_object([(result, failure)])
    for _, first in outcomes:
        if first is not None:
            raise first
    return [value for value, _ in outcomes]
