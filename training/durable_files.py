"""Writing files so that they are on the disk, and telling a full disk from other errors."""

import errno
import json
import os
import re
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

INCOMPLETE = ".incomplete"
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


@contextmanager
def written_whole(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """A path to write a file to, which replaces `path` in one step at the end and is on the disk then.

    It lies beside `path` and has the same ending. After an error or an interruption it is removed. What a process left
    that was killed is removed when the same file is written again.

    Args:
        replace: False makes a new file, once however many processes try.

    Raises:
        FileExistsError: with `replace=False`: there is such a file.
        OSError: it cannot be written; the message names the file and says whether the disk is full.
    """
    path = Path(path)
    host = f"{zlib.crc32(socket.gethostname().encode()):08x}"
    scratch = path.with_name(f".incomplete-{host}-{os.getpid()}-{path.name}")
    try:
        with disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path, host)
            yield scratch
            sync_file(scratch)
            (os.replace if replace else os.link)(scratch, path)
            sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise explain_disk_error(error, path.name, path.parent, "what was there before is intact") from error
    finally:
        with suppress(OSError):  # of a folder that cannot be written to, where there is nothing to remove
            remove(scratch)


def _remove_leftovers(path: Path, host: str) -> None:
    """Removes what processes of this computer that are dead have left of `path`."""
    import psutil  # here: pipelines that are loaded without this package need this file and may not have it

    form = re.compile(rf"\.incomplete-{host}-(\d+)-{re.escape(path.name)}")
    for leftover in path.parent.glob(f".incomplete-{host}-*"):
        match = form.fullmatch(leftover.name)
        if match and not psutil.pid_exists(int(match[1])):
            remove(leftover)


def read_object(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: the file is damaged, or is no plain file; it is named.
    """
    path = Path(path)
    if not path.is_file():  # reading from a pipe would wait for ever
        raise ValueError(f"{path} must be a file")
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it must hold an object, got {type(value).__name__}")
    return value


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in one step: a reader gets the old content or the new one; it is on the disk on return."""
    with written_whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """`write_text` of a value as JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def save_picture(path: str | Path, picture: Any) -> None:
    """Writes a picture of PIL in one step, in the format that the ending names."""
    with written_whole(path) as scratch:
        picture.save(scratch)


def append_text(path: str | Path, text: str) -> None:
    """Adds whole lines to the end of a file; several processes may add to one file.

    Raises:
        OSError: they cannot be written; the file is as it was.
    """
    data, path = text.encode("utf-8"), Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file, _alone(file.fileno()):
            size = os.fstat(file.fileno()).st_size
            try:
                while data:  # a full disk takes a part first, and the next write says so
                    data = data[file.write(data) :]
            except BaseException:
                os.ftruncate(file.fileno(), size)
                raise
    except OSError as error:
        raise explain_disk_error(error, f"a line of {path.name}", path.parent, "its other lines are intact") from error


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """Keeps other processes from an open file, where the system and the file system have locks."""
    with suppress(OSError, AttributeError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield  # closing the file ends the lock


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
    reason = str(error) if error.errno is None else os.strerror(error.errno)
    reason = "the disk is full" if error.errno in FULL else reason
    message = f"{reason}: {what} could not be written into {folder}, and its part was removed; {intact}"
    return OSError(error.errno or errno.EIO, message)


@contextmanager
def staged_folder(path: Path, what: str, intact: str) -> Iterator[Path]:
    """An empty folder in which something is assembled; it is removed at the end, however that comes.

    After an error the folders above it that were made for it are removed as well.

    Args:
        what, intact: for the message of an `OSError`, see `explain_disk_error`.
    """
    made = [parent for parent in path.absolute().parents if not os.path.lexists(parent)]
    try:
        with disk_errors():
            remove(path)
            path.mkdir(parents=True)
            yield path
    except OSError as error:
        raise explain_disk_error(error, what, path.parent, intact) from error
    finally:
        with suppress(OSError):
            remove(path)
            for parent in made:  # those that hold something stay
                parent.rmdir()


@contextmanager
def filled_folder(folder: Path, what: str, intact: str, last: str, clear: bool = False) -> Iterator[Path]:
    """An empty folder whose files are those of `folder` at the end: all at once in a new one, else one by one.

    Where `folder` is there, it may be a mount point, or all that may be written to; so files are assembled inside of it.

    Args:
        what, intact: for the message of an `OSError`, see `explain_disk_error`.
        last: the file by which the content counts as complete: the old one is deleted first, the new one comes last.
        clear: delete all that `folder` holds as well.
    """
    folder = Path(os.path.realpath(folder))
    there = folder.is_dir()
    staging = folder / INCOMPLETE if there else folder.with_name(f"{INCOMPLETE}-{folder.name}")
    with staged_folder(staging, what, intact) as staged:
        yield staged
        if there:
            remove(folder / last)
            for path in folder.iterdir() if clear else ():
                if path != staging:
                    remove(path)
            replace_files(staged, folder, last)
        else:
            _sync_files(staged)
            os.rename(staged, folder)
            sync_folder(folder.parent)


def holds_files(folder: Path) -> bool:
    """Whether something is in a folder other than what an interrupted `filled_folder` left."""
    return any(path.name != INCOMPLETE for path in folder.iterdir())


def _sync_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        sync_file(file)
    return files


def replace_files(source: Path, target: Path, last: str | None = None) -> None:
    """Moves every file below a folder into another one, each in one step, once all of them are on the disk.

    Args:
        last: the file that is moved after all others.
    """
    files = sorted(_sync_files(source), key=lambda file: file == source / (last or ""))
    for file in files:
        name = target / file.relative_to(source)
        name.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, name)
    for folder in {(target / file.relative_to(source)).parent for file in files}:
        sync_folder(folder)


def replace_folder(source: Path, target: Path) -> None:
    """Renames a folder to `target`. What was there comes back if that fails, and is deleted otherwise."""
    old = restore_folder(target)
    remove(old)
    if os.path.lexists(target):
        os.replace(target, old)
    try:
        os.replace(source, target)
    except BaseException:
        if os.path.lexists(old):
            os.replace(old, target)
        raise
    sync_folder(target.parent)
    remove(old)


def restore_folder(target: Path) -> Path:
    """Brings `target` back if `replace_folder` was killed between its renames; returns where it keeps the old content."""
    old = target.with_name(f".old-{target.name}")
    if os.path.lexists(old) and not os.path.lexists(target):
        os.replace(old, target)
    return old


def remove(path: str | Path) -> None:
    """Deletes a file, a link (not what it points to) or a folder with its content; nothing where there is none."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
