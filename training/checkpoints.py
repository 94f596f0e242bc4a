"""Checkpoints that are either complete or invisible.

A checkpoint is written into ``.incomplete-checkpoint-<step>``, its ``trainer_state.json`` (which lists every file with
its size) last, and then renamed to ``checkpoint-<step>`` in one step. Old ones are deleted only after that. ``latest``
looks at complete ones alone: all files there, at their full size.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any


STATE_FILE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def working_folder(output_dir: str | Path, step: int) -> Path:
    """The folder in which the checkpoint of ``step`` is assembled."""
    return Path(output_dir) / f".incomplete-checkpoint-{step}"


def commit(output_dir: str | Path, step: int, state: dict[str, Any]) -> Path:
    """Completes the working folder of ``step`` with ``state`` and gives it its final name, which is returned."""
    source, target = working_folder(output_dir, step), Path(output_dir) / f"checkpoint-{step}"
    files = {str(path.relative_to(source)): path.stat().st_size for path in source.rglob("*") if path.is_file()}
    with open(source / STATE_FILE, "w") as file:
        json.dump({**state, "files": files}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    if target.exists():  # written again after a resume from an earlier step
        shutil.rmtree(target)
    os.replace(source, target)
    return target


def read_state(checkpoint: str | Path) -> dict[str, Any] | None:
    """The ``trainer_state.json`` of a checkpoint, or None where it or any file it lists is missing or cut off."""
    folder = Path(checkpoint)
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        complete = all((folder / name).stat().st_size == size for name, size in state["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return state if complete else None


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints in ``output_dir``, oldest first; other folders (``checkpoint-best``) are not touched."""
    folder = Path(output_dir)
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted((path for path in found if read_state(path)), key=lambda path: int(path.name.split("-")[1]))


def rotate(output_dir: str | Path, total_limit: int | None) -> None:
    """Deletes the oldest complete checkpoints beyond ``total_limit`` and what interrupted saves left behind."""
    for leftover in Path(output_dir).glob(".incomplete-checkpoint-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if total_limit is not None:
        for old in complete_checkpoints(output_dir)[:-total_limit]:
            shutil.rmtree(old)


def find_checkpoint(output_dir: str | Path, resume_from: str) -> Path | None:
    """The checkpoint that ``--resume_from_checkpoint`` means.

    Args:
        resume_from: "latest" (None is returned where there is none), a name inside ``output_dir``, or a path.

    Raises:
        ValueError: the named checkpoint does not exist or is not complete.
    """
    if resume_from == "latest":
        return next(reversed(complete_checkpoints(output_dir)), None)
    for path in (Path(resume_from), Path(output_dir) / resume_from):
        if read_state(path):
            return path
    available = [path.name for path in complete_checkpoints(output_dir)]
    raise ValueError(
        f"resume_from_checkpoint is {resume_from!r}, which is not a complete checkpoint; in {output_dir}: {available}"
    )
