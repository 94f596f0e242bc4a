"""Writing files so that they are on the disk, and telling a full disk from other errors."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def sync_file(path: str | Path) -> None:
    """Waits until a written file is on the disk."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def sync_folder(path: str | Path) -> None:
    """Waits until the names in a folder are on the disk; does nothing where the system has no such call."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file in one step: a reader gets the old content or the new one; it is on the disk on return."""
    path = Path(path)
    staging = path.with_name(f".incomplete-{path.name}")
    staging.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    sync_file(staging)
    os.replace(staging, path)
    sync_folder(path.parent)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns the input and output errors of safetensors, which are its own, into `OSError` with its number."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def explain_disk_error(error: OSError, what: str, folder: str | Path, intact: str) -> OSError:
    """An error of the same number that says what could not be written where, and what was left as it was."""
    reason = "the disk is full" if error.errno in FULL else (error.strerror or str(error))
    message = f"{reason}: {what} could not be written into {folder}, and its part was removed; {intact}"
    return OSError(error.errno or errno.EIO, message)


@contextmanager
def staged_folder(path: Path, what: str, intact: str) -> Iterator[Path]:
    """An empty folder in which something is assembled; it is removed at the end, however that comes.

    Args:
        what, intact: for the message of an `OSError`, see `explain_disk_error`.
    """
    remove(path)
    try:
        with disk_errors():
            path.mkdir(parents=True)
            yield path
    except OSError as error:
        raise explain_disk_error(error, what, path.parent, intact) from error
    finally:
        remove(path)


def remove(path: str | Path) -> None:
    """Deletes a file, a link (not what it points to) or a folder with its content; nothing where there is none."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
