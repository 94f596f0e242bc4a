"""Whether something can be written where it is to go, before the work whose result it is; needs no torch."""

import errno
import os
import tempfile
from pathlib import Path


def check_apart(name: str, path: str | Path, data: str | Path) -> None:
    """Raises ValueError where `path` is the folder of the data or lies in it: its pictures would be read as data."""
    if os.path.isdir(data) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(data)):
        raise ValueError(
            f"{name} must not lie in the folder of the data, whose images would then be more, got {str(path)!r}"
        )


def check_writable(name: str, path: str | Path) -> Path:
    """`path`, if a file or folder of this name can be written.

    Raises:
        TypeError, ValueError: for no path, one below a file, a read-only place, or a full disk; with the argument's name.
    """
    if not isinstance(path, (str, Path)):
        raise TypeError(f"{name} must be a path, got {type(path).__name__}")
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null character
        raise ValueError(f"{name} must be a path, got {str(path)[:200]!r}: {error}") from error
    if path == "":
        raise ValueError(f"{name} must be a path, got an empty text")
    wanted = Path(os.path.realpath(path))
    place = wanted
    while not place.is_dir():
        if os.path.lexists(place) and place != wanted:
            raise ValueError(f"{name} must not lie below a file, got {str(path)!r}")
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(1))
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise ValueError(f"{name} must be where one can write, got {str(path)!r}: {place}: {reason}") from error
    return Path(path)
