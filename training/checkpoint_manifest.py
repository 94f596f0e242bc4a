"""What a complete checkpoint consists of: `trainer_state.json` lists every file with its size and SHA-256.

A file that it does not list, a pickled file, a link or a path out of the folder is refused by name before anything of
the checkpoint is read.
"""

import hashlib
import json
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .durable_files import sync_file, sync_folder


STATE_FILE = "trainer_state.json"
FORMAT = 2
_FILE = re.compile(r"(\w[\w-]*/)*\w[\w.-]*\.(safetensors|json)", re.ASCII)
_PICKLED = (".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt")
_LARGEST_STATE = 64 << 20  # bytes


def write_manifest(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Writes `trainer_state.json` of all files in `folder` and waits until all of them are on the disk."""
    files = {}
    for path in content_files(folder):
        sync_file(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": hash_file(path)}
    # As it will be read back: text as keys, lists for tuples.
    content = json.loads(json.dumps({**state, "format": FORMAT, "step": step, "files": files}))
    content["sha256"] = _hash_state(content)
    (folder / STATE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sync_file(folder / STATE_FILE)
    for subfolder in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync_folder(subfolder)


def inspect(checkpoint: str | Path, hashes: bool = True) -> dict[str, Any]:
    """The `trainer_state.json` of a complete checkpoint.

    Args:
        hashes: also compare the SHA-256 of every file; without it only names and sizes are compared.

    Raises:
        ValueError: the checkpoint is not complete, is damaged, or holds a file that does not belong to it.
    """
    folder = Path(checkpoint)
    present = {path.relative_to(folder).as_posix(): path for path in content_files(folder)}
    _refuse_pickled(present)
    if STATE_FILE not in present:
        raise ValueError(f"{STATE_FILE} is missing")
    state = _read_state_file(present.pop(STATE_FILE))
    files = state["files"]
    for name in sorted(files.keys() | present.keys()):
        if name not in files:
            raise ValueError(f"{name} does not belong to the checkpoint")
        if name not in present:
            raise ValueError(f"{name} is missing")
        size = present[name].stat().st_size
        if size != files[name]["size"]:
            raise ValueError(f"{name} has {size} bytes, but {files[name]['size']} were written")
    if hashes:
        for name, path in present.items():
            if hash_file(path) != files[name]["sha256"]:
                raise ValueError(f"{name} is damaged: its SHA-256 is not the one that was written")
    return state


def content_files(folder: Path) -> list[Path]:
    """Every file below a folder; nothing is opened.

    Raises:
        ValueError: something is neither a plain file nor a folder: a link, a pipe, a device.
    """
    files = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            files.append(path)
        elif not stat.S_ISDIR(mode):
            raise ValueError(f"{path.relative_to(folder).as_posix()} is not a plain file")
    return files


def _refuse_pickled(names: Iterable[str]) -> None:
    pickled = sorted(name for name in names if name.lower().endswith(_PICKLED))
    if pickled:
        raise ValueError(
            f"{', '.join(pickled)} may hold pickled objects, which can execute code and are not read; if an earlier "
            "version of this package wrote the checkpoint, start a new run from the pipeline that lies beside it "
            "(--pretrained_model_name_or_path) or from the weights in its unet_ema.safetensors"
        )


def _read_state_file(path: Path) -> dict[str, Any]:
    """`trainer_state.json`, its form and its own checksum checked."""
    if path.stat().st_size > _LARGEST_STATE:
        raise ValueError(f"{STATE_FILE} has more than {_LARGEST_STATE} bytes")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{STATE_FILE} is not JSON: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{STATE_FILE} must hold an object, got {type(state).__name__}")
    if state.get("format") != FORMAT:
        raise ValueError(f"{STATE_FILE} must have the format {FORMAT}, got {state.get('format')!r}")
    if type(state.get("step")) is not int or state["step"] < 0:
        raise ValueError(f"{STATE_FILE} must hold the step as an integer from 0, got {state.get('step')!r}")
    _check_files(state.get("files"))
    if state.get("sha256") != _hash_state(state):
        raise ValueError(f"{STATE_FILE} is damaged: its SHA-256 is not the one that was written")
    return state


def _check_files(files: Any) -> None:
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{STATE_FILE} must list the files of the checkpoint, got {files!r}")
    for name, entry in files.items():
        if not _FILE.fullmatch(name):
            raise ValueError(f"{STATE_FILE} lists {name!r}; only .safetensors and .json inside the folder are read")
        size, digest = (entry.get("size"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(size) is not int or not isinstance(digest, str):
            raise ValueError(f"{STATE_FILE} must list {name} with its size and SHA-256, got {entry!r}")


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _hash_state(state: dict[str, Any]) -> str:
    content = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
