"""One run per folder: a lock that ends with its process."""

import json
import os
import socket
import threading
import weakref
from pathlib import Path
from typing import Any

import psutil

from .durable_files import explain_disk_error


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".run.lock"
# The locks of this process by folder. A second run in the same thread replaces the first (a notebook cell that is
# run again), since only one of them can go on.
_held: weakref.WeakValueDictionary[Path, "RunLock"] = weakref.WeakValueDictionary()


class RunLock:
    """The right to write into a folder. The lock file holds process id and host of its owner.

    Where the system has `flock`, it is the lock, and ends with the process however that ends. Elsewhere the process
    named in the file counts: while it lives, the folder is taken.

    Args:
        output_dir: the folder; it is created.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir).resolve() / LOCK_FILE
        self._thread = threading.get_ident()
        self._descriptor: int | None = None
        self._finalizer: weakref.finalize | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock: not before `acquire`, not after `release` or a second run's `acquire`."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            ValueError: another run has it; its process and host are named.
        """
        other = _held.get(self.path)
        if other is not None and (other._thread == self._thread or not _thread_lives(other._thread)):
            other.release()
        try:
            descriptor = self._open()
        except OSError as error:
            raise explain_disk_error(error, LOCK_FILE, self.path.parent, "nothing was changed") from error
        self._descriptor = descriptor
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        _held[self.path] = self

    def _open(self) -> int:
        """The lock file, open and locked, with this process in it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(self.path) and not self.path.is_file():
            raise ValueError(f"output_dir must have no other thing than a file as {LOCK_FILE}, got {self.path}")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take(descriptor)
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps(_this_process()).encode())
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _take(self, descriptor: int) -> None:
        """Locks the open file, or finds that its owner is dead."""
        owner = _read_owner(descriptor)
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                raise self._taken(owner) from None
            except OSError:  # a file system without locks
                pass
        # Of a process on another computer nothing is known here; a run that was moved must be able to go on.
        if self.path in _held or (owner != _this_process() and _lives(owner)):
            raise self._taken(owner)

    def _taken(self, owner: dict[str, Any]) -> ValueError:
        return ValueError(
            f"output_dir must be a folder that no other run writes to, got {self.path.parent}, where the process "
            f"{owner.get('pid')} on {owner.get('host')} is training"
        )

    def release(self) -> None:
        """Gives the lock back; does nothing where it is not held."""
        if self._descriptor is None:
            return
        os.ftruncate(self._descriptor, 0)
        self._close()

    def _close(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._descriptor = None
        if _held.get(self.path) is self:
            del _held[self.path]


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}


def _lives(owner: dict[str, Any]) -> bool:
    """Whether the process of a lock file runs on this computer; a later one with the same number does not count."""
    try:
        process = psutil.Process(owner["pid"])
        return owner["host"] == socket.gethostname() and abs(process.create_time() - owner["started"]) < 1
    except (psutil.Error, LookupError, TypeError, ValueError):
        return False


def _read_owner(descriptor: int) -> dict[str, Any]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        owner = json.loads(os.read(descriptor, 4096))
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _thread_lives(identity: int) -> bool:
    return any(thread.ident == identity for thread in threading.enumerate())


def _close_in_child() -> None:
    # A forked worker shares the open file: the lock would outlive a run that is killed.
    for lock in list(_held.values()):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
