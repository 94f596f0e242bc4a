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

from accelerate import Accelerator
from safetensors.torch import load_model, save_model
from torch import nn

from .ema import ExponentialMovingAverage


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


class CheckpointManager:
    """Saves and restores the state of a run on all its processes.

    The network and its average are stored unwrapped, so that a checkpoint does not depend on the number of processes;
    the optimizer, gradient scaler, learning-rate schedule and each process's random state are Accelerate's.

    Args:
        accelerator: of the run, everything prepared and registered.
        output_dir: where checkpoints go.
        unet: the network, not wrapped.
        ema: its average.
        total_limit: how many checkpoints are kept; None for all.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output_dir: str | Path,
        unet: nn.Module,
        ema: ExponentialMovingAverage,
        total_limit: int | None,
    ) -> None:
        self.accelerator, self.output_dir, self.total_limit = accelerator, Path(output_dir), total_limit
        self.ema = ema
        self._networks = {"unet.safetensors": unet, "unet_ema.safetensors": ema.model}
        accelerator.register_save_state_pre_hook(self._save_networks)
        accelerator.register_load_state_pre_hook(self._load_networks)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes ``checkpoint-<step>``: every process its own state, the main process what they share."""
        accelerator, folder = self.accelerator, working_folder(self.output_dir, step)
        if accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(folder))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            commit(self.output_dir, step, {"step": step, "ema_updates": self.ema.num_updates, **state})
            rotate(self.output_dir, self.total_limit)
        accelerator.wait_for_everyone()

    def load(self, resume_from: str) -> dict[str, Any] | None:
        """Restores what `find_checkpoint` finds and returns its state, or None where "latest" is nothing."""
        path = find_checkpoint(self.output_dir, resume_from)
        if path is None:
            return None
        state = read_state(path)
        assert state is not None
        self.accelerator.load_state(str(path))
        self.ema.num_updates = state["ema_updates"]
        return state

    def _save_networks(self, models: list[nn.Module], weights: list[Any], folder: str) -> None:
        weights.clear()  # Accelerate would store them under the names of the wrapped network
        if self.accelerator.is_main_process:
            for name, network in self._networks.items():
                save_model(network, str(Path(folder) / name))

    def _load_networks(self, models: list[nn.Module], folder: str) -> None:
        models.clear()
        for name, network in self._networks.items():
            load_model(network, str(Path(folder) / name))
