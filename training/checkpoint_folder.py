"""Checkpoint folders that have their final name only when they are complete.

A checkpoint is written into `.incomplete-checkpoint-<step>`. Its `trainer_state.json` comes last and lists every
file with its size and SHA-256; then all is waited for on the disk and the folder is renamed to `checkpoint-<step>`
in one step. Old checkpoints are renamed to `.deleted-...` before they are deleted, and one of the same step to
`.replaced-...`: whenever the run is killed, a folder named `checkpoint-<step>` is whole, and the next start
removes the rest.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

from ..schedulers.checks import check_integer, check_path, shown
from .checkpoint_manifest import inspect, write_manifest
from .durable_files import remove, sync_folder


logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")


def working_folder(output_dir: str | Path, step: int) -> Path:
    """The folder in which the checkpoint of `step` is assembled."""
    return Path(output_dir) / f".incomplete-checkpoint-{step}"


def commit(output_dir: str | Path, step: int, state: dict[str, Any]) -> Path:
    """Completes the working folder of `step` with `state` and gives it its final name, which is returned."""
    source, target = working_folder(output_dir, step), Path(output_dir) / f"checkpoint-{step}"
    write_manifest(source, step, state)
    replaced = target.with_name(f".replaced-{target.name}")
    if target.exists() or target.is_symlink():  # written again after a resume from an earlier step
        remove(replaced)
        os.replace(target, replaced)
    os.replace(source, target)
    sync_folder(target.parent)
    remove(replaced)
    return target


def read_state(checkpoint: str | Path) -> dict[str, Any] | None:
    """The `trainer_state.json` of a checkpoint, or None where `inspect` finds it incomplete."""
    try:
        return inspect(checkpoint)
    except (OSError, ValueError):
        return None


def _numbered(output_dir: str | Path) -> list[Path]:
    """Everything named `checkpoint-<step>`, oldest first; other folders (`checkpoint-best`) are not touched."""
    folder = Path(output_dir)
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoints with all files at their full size in `output_dir`, oldest first; hashes are not compared."""
    complete = []
    for path in _numbered(output_dir):
        try:
            inspect(path, hashes=False)
        except (OSError, ValueError):
            continue
        complete.append(path)
    return complete


def remove_leftovers(output_dir: str | Path) -> None:
    """Removes what interrupted saves and deletions left behind, and brings back a checkpoint not yet replaced."""
    folder = Path(output_dir)
    for replaced in folder.glob(".replaced-checkpoint-*"):
        original = folder / replaced.name.removeprefix(".replaced-")
        if not original.exists():
            os.replace(replaced, original)
    for pattern in (".incomplete-*", ".deleted-*", ".replaced-*"):
        for leftover in folder.glob(pattern):
            remove(leftover)


def delete_checkpoint(checkpoint: Path) -> None:
    """Deletes a checkpoint so that no part of it is ever seen under its name."""
    hidden = checkpoint.with_name(f".deleted-{checkpoint.name}")
    remove(hidden)
    os.replace(checkpoint, hidden)
    remove(hidden)


def delete_all_checkpoints(output_dir: str | Path) -> None:
    """Deletes everything named `checkpoint-<step>`, complete or not."""
    for path in _numbered(output_dir):
        delete_checkpoint(path)


def rotate(output_dir: str | Path, total_limit: int | None, newest: int | None = None) -> None:
    """Deletes the oldest complete checkpoints beyond `total_limit`, and what interrupted saves left behind.

    Args:
        newest: the step of the checkpoint that was just written. Those of later steps, which a run has that went back
            to an earlier one, are then neither counted nor deleted. Default: the largest step.
    """
    check_path("output_dir", output_dir)
    if total_limit is not None:
        check_integer("total_limit", total_limit)
    remove_leftovers(output_dir)
    if total_limit is not None:
        earlier = [path for path in complete_checkpoints(output_dir) if newest is None or _step(path) <= newest]
        for old in earlier[:-total_limit]:
            delete_checkpoint(old)


def find_checkpoint(output_dir: str | Path, resume_from: str) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means. What "latest" passes over is logged as a warning.

    Args:
        resume_from: "latest" (the newest one that `inspect` finds complete; None where there are no checkpoints), a
            name inside `output_dir`, or a path.

    Raises:
        ValueError: the named checkpoint does not exist or is not complete, or no checkpoint is; the reason is given.
    """
    check_path("output_dir", output_dir)
    if not isinstance(resume_from, str | Path) or not str(resume_from):
        raise TypeError(f"resume_from must be 'latest', a name or a path, got {shown(resume_from)}")
    if resume_from == "latest":
        return _latest(Path(output_dir))
    paths = [path for path in (Path(output_dir) / resume_from, Path(resume_from)) if path.is_dir()]
    try:
        if not paths:
            raise ValueError("there is no such folder")
        inspect(paths[0])
    except (OSError, ValueError) as error:
        available = [path.name for path in complete_checkpoints(output_dir)]
        raise ValueError(
            f"resume_from must name what a run can go on from, got {shown(resume_from)}, which is not a complete "
            f"checkpoint: {error}; in {output_dir}: {available}"
        ) from error
    return paths[0]


def _latest(output_dir: Path) -> Path | None:
    reasons = []
    for path in reversed(_numbered(output_dir)):
        try:
            inspect(path)
        except (OSError, ValueError) as error:
            reasons.append(f"{path.name}: {error}")
            logger.warning("skipped %s in %s: %s", path.name, output_dir, error)
        else:
            return path
    if reasons:
        raise ValueError(
            f"no checkpoint in {output_dir} is complete ({'; '.join(reasons)}); start from the beginning with "
            "--overwrite_output_dir, which deletes them"
        )
    return None
