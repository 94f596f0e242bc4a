"""Reading the file of an official checkpoint: nothing in it is executed, and damaged files are refused.

`torch.save` of torch 1.6 and later writes an uncompressed zip archive, whose checksums `torch.load` does not look at: they
are verified here first. Older files are a bare pickle stream without any, so there only its structure can tell.
"""

import pickle
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...schedulers.checks import check_path


LOCAL_HEADER = 30  # bytes before the name of an entry of a zip archive


_SCALAR = np.float64(0).__reduce__()[0]
_SAFE_NUMPY: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
]


class NoCheckpointError(FileNotFoundError, ValueError):
    """There is no file at the path of a checkpoint."""


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """The dictionary in an official checkpoint file; tensors on the CPU, read from the file where they are used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupted, no official checkpoint, or carries more than tensors, plain
            containers, numbers and numpy scalars.
    """
    path = check_path("path", path)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "nothing there"
        raise NoCheckpointError(f"path must be a checkpoint file, got {str(path)!r}: {kind}")
    try:
        archive = _is_archive(path)
        if archive:
            _verify_checksums(path)
        with torch.serialization.safe_globals(_SAFE_NUMPY):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it is corrupted, or carries more than tensors and numbers, and nothing in it was "
            f"executed ({_reason(error)})"
        ) from error
    except Exception as error:  # a damaged archive or pickle stream may raise nearly anything
        raise ValueError(f"{path} cannot be read: it is truncated, corrupted or no checkpoint ({error})") from error
    _check_content(content, path)
    return content


def _reason(error: Exception) -> str:
    """What torch objects to, without its advice to load the file by executing what it carries."""
    text = str(error)
    for mark in ("WeightsUnpickler error:", "trusted source."):
        after = text.partition(mark)[2].strip()
        if after:
            return after.splitlines()[0]
    return "its pickle stream is damaged"


def _is_archive(path: Path) -> bool:
    """Whether `torch.load` will take the file for a zip archive."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _verify_checksums(path: Path) -> None:
    """Raise where an entry of the archive is damaged, compressed or lies over another one.

    By either of the last two a small file could fill the memory or keep the reader busy: without them every byte of the
    file is read once.
    """
    with zipfile.ZipFile(path) as archive:
        _check_layout(archive.infolist(), path.stat().st_size)
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of its entry {damaged} is wrong")


def _check_layout(entries: list[zipfile.ZipInfo], size: int) -> None:
    end, last = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError(f"its entry {entry.filename} is compressed, which torch.save never does")
        if entry.header_offset < end:
            raise ValueError(f"its entry {entry.filename} overlaps {last}, which torch.save never does")
        # At least so long: the local header may have a longer extra field than the directory.
        end, last = entry.header_offset + LOCAL_HEADER + entry.compress_size, entry.filename
    if end > size:
        raise ValueError(f"its entry {last} claims to end at byte {end}, the file has {size}")


def _check_content(content: Any, path: Path) -> None:
    if not isinstance(content, dict) or "model" not in content:
        found = sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must hold a dictionary with 'model' and 'ema', got {found}: no official checkpoint")
    state = content["model"]
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path}: 'model' must be a state dict, names to tensors, got {type(state).__name__}")
    strange = [key for key, value in state.items() if not is_plain_tensor(value)]
    if strange:
        raise ValueError(f"{path}: 'model' must be a state dict, names to dense tensors; not so: {strange[:8]}")
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > path.stat().st_size:
        raise ValueError(f"{path}: its tensors claim {size} bytes, more than the file has")


def is_plain_tensor(value: Any) -> bool:
    """Whether `value` is a dense real tensor that holds data."""
    return (
        torch.is_tensor(value)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
        and not value.is_quantized
    )
