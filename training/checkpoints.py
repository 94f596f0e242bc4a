"""Saves and restores a training run on all its processes.

A checkpoint holds safetensors and JSON alone (`safe_state`); `checkpoint_folder` makes it appear in one step, and
`checkpoint_manifest` says when it is complete.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file, save_model
from torch import nn

from ..schedulers.checks import check_integer
from .checkpoint_folder import (
    commit,
    complete_checkpoints,
    delete_all_checkpoints,
    find_checkpoint,
    logger,
    read_state,
    remove_leftovers,
    rotate,
    working_folder,
)
from .checkpoint_manifest import STATE_FILE, inspect
from .durable_files import disk_errors, explain_disk_error, remove
from .ema import ExponentialMovingAverage
from .processes import keep_until_exit, on_all, on_main
from .random_state import get_random_state, set_random_state
from .restored_state import load_network, load_part
from .run_lock import RunLock
from .run_settings import SETTINGS_FILE, check_settings, new_run_id, read_run, write_run
from .safe_state import check_finite_state, load_state_file, save_state_file
from .sharding import shards_weights, whole


__all__ = [
    "STATE_FILE", "CheckpointManager", "commit", "complete_checkpoints", "find_checkpoint", "inspect", "read_state",
    "rotate", "working_folder",
]  # fmt: skip


class CheckpointManager:
    """The checkpoints of one run, and its lock on `output_dir`.

    The main process writes what all share: the networks and their averages (unwrapped, so that a checkpoint does not
    depend on the number of processes), optimizer, learning-rate schedule and gradient scaler. Each process writes its
    own random state. An error on one process is raised on all.

    Args:
        accelerator: of the run, with everything prepared.
        output_dir: where checkpoints go, on a file system that all processes share.
        networks: by name, not wrapped; stored as `<name>.safetensors`.
        optimizer, lr_scheduler: anything with `state_dict` and `load_state_dict` of tensors and numbers.
        emas: averages by name, stored as `<name>_ema.safetensors`.
        total_limit: how many checkpoints are kept; None for all.
        settings: see `run_settings.run_settings`.

    Raises:
        ValueError: the weights are spread over processes in a way that `sharding` does not know.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output_dir: str | Path,
        networks: Mapping[str, nn.Module],
        optimizer: Any,
        lr_scheduler: Any,
        emas: Mapping[str, ExponentialMovingAverage[Any]],
        total_limit: int | None,
        settings: Mapping[str, Any],
    ) -> None:
        self._sharded = shards_weights(accelerator)
        self.accelerator, self.output_dir, self.total_limit = accelerator, Path(output_dir), total_limit
        self.settings, self.emas, self.run_id = dict(settings), dict(emas), new_run_id()
        self._modules = {**networks, **{f"{name}_ema": ema.model for name, ema in emas.items()}}
        self._parts = {"optimizer": optimizer, "lr_scheduler": lr_scheduler}
        if getattr(accelerator, "scaler", None) is not None:
            self._parts["grad_scaler"] = accelerator.scaler
        if accelerator.num_processes > 1:
            keep_until_exit(torch.distributed.group.WORLD)
        self._lock = RunLock(output_dir)
        self._saved: Path | None = None
        self._saved_step: int | None = None

    # ------------------------------------------------------------------ the start of a run

    def start(
        self, resume_from: str | None, overwrite: bool = False, allow_changed: Iterable[str] = ()
    ) -> dict[str, Any] | None:
        """Locks `output_dir` for this run and resumes from a checkpoint where one is given.

        Args:
            resume_from: see `checkpoint_folder.find_checkpoint`; None for a new run.
            overwrite: a new run may begin in a folder that holds one; the old checkpoints are deleted.
            allow_changed: settings that may differ from the checkpoint's.

        Returns:
            what `save` was given as `state`, with "step", "process_state" and the "path" of the checkpoint; None for a
            new run.

        Raises:
            ValueError: another run writes into the folder or is stored there, or the checkpoint cannot be used.
        """
        path = on_main(self.accelerator, lambda: self._claim(resume_from, overwrite, list(allow_changed)))
        return None if path is None else self._restore(path)

    def load(self, resume_from: str) -> dict[str, Any] | None:
        """`start` for a run that resumes; None where "latest" finds no checkpoints."""
        return self.start(resume_from)

    def close(self) -> None:
        """Releases the folder for other runs; so does the end of the process."""
        self._lock.release()

    def _claim(self, resume_from: str | None, overwrite: bool, allow_changed: list[str]) -> Path | None:
        """What the main process does at the start; returns the checkpoint to resume from."""
        if overwrite and resume_from is not None:
            raise ValueError(
                "overwrite_output_dir starts a new run, resume_from_checkpoint goes on with one: give one"
            )
        self._lock.acquire()
        try:
            remove_leftovers(self.output_dir)
            path = self._checked(resume_from, allow_changed) if resume_from is not None else None
            if path is None:
                self._begin_run(overwrite, resume_from)
            write_run(self.output_dir, self.run_id, self.settings)
        except BaseException:
            self._lock.release()
            raise
        return path

    def _begin_run(self, overwrite: bool, resume_from: str | None) -> None:
        """Checks that a new run may begin in the folder, and with `overwrite` deletes the earlier one."""
        old_run = self.output_dir / SETTINGS_FILE
        checkpoints = [path.name for path in self.output_dir.glob("checkpoint-*") if path.name[11:].isdigit()]
        # "latest" without any checkpoint: the earlier run was stopped before its first one.
        if resume_from is None and (checkpoints or old_run.exists()) and not overwrite:
            held = ", ".join(sorted(checkpoints)) or "a run that has no checkpoint yet"
            raise ValueError(
                f"output_dir must be a folder without a run, got {self.output_dir} with {held}: go on "
                "with --resume_from_checkpoint latest, or start anew with --overwrite_output_dir, which deletes them"
            )
        if overwrite:
            delete_all_checkpoints(self.output_dir)
            remove(old_run)

    def _checked(self, resume_from: str, allow_changed: list[str]) -> Path | None:
        """The complete checkpoint that is meant, if it is of this run; takes over its id."""
        path = find_checkpoint(self.output_dir, resume_from)
        if path is None:
            return None
        state = _run_state(path)
        known = read_run(self.output_dir)
        if known is not None and known != state["run_id"]:
            raise ValueError(
                f"{path} is of another run ({state['run_id']}) than {self.output_dir} ({known}): resume it in an "
                "output_dir of its own"
            )
        for note in check_settings(state["settings"], self.settings, allow_changed):
            logger.warning("resuming from %s although %s", path.name, note)
        self.run_id = state["run_id"]
        return path

    def _restore(self, path: Path) -> dict[str, Any]:
        """Loads everything on this process."""
        state = _run_state(path)
        for name, module in self._modules.items():
            load_network(module, path / f"{name}.safetensors")
        for name, part in self._parts.items():
            file = path / f"{name}.safetensors"
            if name == "grad_scaler" and not file.exists():
                continue  # the earlier part of the run needed none, and its settings may differ
            load_part(part, load_state_file(file), file)
        for name, ema in self.emas.items():
            updates = state["ema_updates"].get(name, 0)
            ema.num_updates = check_integer(f"ema_updates of {name} in {path}", updates, 0)
        own: dict[str, Any] = {"state": {}}
        if state["num_processes"] == self.accelerator.num_processes:
            own = self._restore_process(path / f"process_{self.accelerator.process_index}.safetensors")
        elif self.accelerator.is_main_process:
            logger.warning("the checkpoint is of %d processes, the run has %d: each starts with a new random state",
                           state["num_processes"], self.accelerator.num_processes)  # fmt: skip
        self._saved = path
        return {**state["progress"], "step": state["step"], "process_state": own["state"], "path": str(path)}

    def _restore_process(self, file: Path) -> dict[str, Any]:
        """Restores the random state of this process, and returns what its file holds."""
        own = load_state_file(file)
        if (
            not isinstance(own, dict)
            or not isinstance(own.get("random"), dict)
            or not isinstance(own.get("state"), dict)
        ):
            raise ValueError(f"{file} must hold the random state and the state of a process")
        try:
            set_random_state(own["random"], self.accelerator.device)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return own

    # ------------------------------------------------------------------ saving

    def save(self, step: int, state: Mapping[str, Any], process_state: Mapping[str, Any] | None = None) -> Path:
        """Writes `checkpoint-<step>` and returns it.

        Args:
            state: JSON values that all processes share; `start` returns them.
            process_state: tensors and numbers of this process alone; `start` returns them under "process_state",
                empty where the number of processes has changed.

        Raises:
            FloatingPointError: a network, an average or the optimizer holds NaN or an infinity. Nothing was written.
            OSError: it cannot be written; the message says whether the disk is full. Older checkpoints are intact.
        """
        folder = working_folder(self.output_dir, step)
        if step == self._saved_step:  # an interruption right after a regular save
            return self.output_dir / f"checkpoint-{step}"
        try:
            networks = {name: whole(module.state_dict()) for name, module in self._modules.items()}
            parts = {name: whole(part.state_dict()) for name, part in self._parts.items()}
            on_main(self.accelerator, lambda: self._begin(step, folder, networks, parts))
            on_all(self.accelerator, lambda: self._write_process(folder, process_state))
            content = {"run_id": self.run_id, "settings": self.settings, "progress": dict(state)}
            content["num_processes"] = self.accelerator.num_processes
            content["ema_updates"] = {name: ema.num_updates for name, ema in self.emas.items()}
            path = on_main(self.accelerator, lambda: commit(self.output_dir, step, content))
        except BaseException as error:
            if self.accelerator.is_main_process:
                remove(folder)
            if isinstance(error, OSError):
                raise explain_disk_error(error, f"checkpoint-{step}", self.output_dir, self._last_good()) from error
            raise
        self._saved, self._saved_step = path, step
        on_main(self.accelerator, lambda: rotate(self.output_dir, self.total_limit, step))
        return path

    def _begin(self, step: int, folder: Path, networks: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
        """Checks what is to be saved and writes what all processes share."""
        if not self._lock.held:
            raise RuntimeError(f"this run is not the one that writes into {self.output_dir}: call start first")
        hint = f" at step {step}: no checkpoint was written; {self._last_good()}"
        for name, weights in networks.items():
            check_finite_state(weights, name, hint)
        check_finite_state(parts["optimizer"], "optimizer", hint)
        remove(folder)
        folder.mkdir(parents=True)
        for name, weights in networks.items():
            path = str(folder / f"{name}.safetensors")
            with disk_errors():
                if self._sharded:
                    save_file(weights, path)
                else:
                    save_model(self._modules[name], path)  # it knows weights that two names share
        for name, part in parts.items():
            save_state_file(folder / f"{name}.safetensors", part)

    def _write_process(self, folder: Path, process_state: Mapping[str, Any] | None) -> None:
        own = {"random": get_random_state(self.accelerator.device), "state": dict(process_state or {})}
        save_state_file(folder / f"process_{self.accelerator.process_index}.safetensors", own)

    def _last_good(self) -> str:
        if self._saved is None:
            return "there is no earlier checkpoint of this run"
        return f"{self._saved} is intact (--resume_from_checkpoint {self._saved.name})"


def _run_state(path: Path) -> dict[str, Any]:
    """The `trainer_state.json` of a checkpoint of this class."""
    state = inspect(path, hashes=False)
    kinds = {"run_id": str, "settings": dict, "progress": dict, "num_processes": int, "ema_updates": dict}
    for name, kind in kinds.items():
        if type(state.get(name)) is not kind:
            raise ValueError(f"{path / STATE_FILE} must hold {name} as {kind.__name__}, got {state.get(name)!r}")
    return state
