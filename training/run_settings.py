"""The settings of a run, stored with its checkpoints: what a resumed run may change and what it may not.

Resumed training continues bit for bit only with the arguments, data and network that it began with. Everything that
changes the updates is compared, by name, with what the checkpoint holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .durable_files import read_object, write_json


SETTINGS_FILE = "run_settings.json"
# Arguments that do not change an update. All others are compared.
MAY_CHANGE = frozenset((
    # how long, how often
    "max_train_steps", "num_epochs", "checkpointing_steps", "checkpoints_total_limit", "logging_steps",
    "save_images_epochs", "save_model_epochs", "sample_steps", "ema_snapshots",
    # where; the data themselves are compared as "data_set"
    "output_dir", "cache_dir", "train_data_dir", "dataset_name", "dataset_config_name", "split", "image_column",
    "label_column", "skip_broken_images", "validation_split", "logging_dir", "logger", "report_to",
    # measurements on the way; `validation_fraction` changes the training images and is compared
    "eval_steps", "eval_features", "eval_num_images", "validation_num_images", "keep_best",
    "eval_num_bpd_images", "best_metric",
    # sample grids and the scheduler that is saved
    "eval_batch_size", "num_inference_steps", "predictor", "corrector", "snr",
    # the machine
    "cpu", "channels_last", "compile", "gradient_checkpointing", "max_cached_gb", "dataloader_num_workers",
    # publishing
    "push_to_hub", "hub_model_id", "hub_private_repo", "hub_token",
    # these arguments themselves, and one without effect
    "config", "recipe", "resume_from_checkpoint", "overwrite_output_dir", "allow_changed_settings", "center_crop",
))  # fmt: skip
# Never, whatever --allow_changed_settings says: the weights of the checkpoint belong to this network.
MUST_NOT_CHANGE = frozenset(("networks",))
# The learning rates of these follow the number of updates.
SCHEDULES_WITH_AN_END = ("linear", "cosine", "cosine_with_restarts", "polynomial")


def run_settings(args: argparse.Namespace, networks: Mapping[str, nn.Module], data_set: str) -> dict[str, Any]:
    """Everything that identifies a run, as JSON values.

    Args:
        args: the arguments; those with "token" in their name are left out.
        networks: by name, not wrapped.
        data_set: see `data_fingerprint`.
    """
    settings = {name: value for name, value in vars(args).items() if "token" not in name}
    settings["data_set"] = data_set
    settings["networks"] = {name: _architecture(network) for name, network in networks.items()}
    for name, network in networks.items():
        config = dict(getattr(network, "config", {}))
        settings.update({f"{name}.{key}": value for key, value in config.items() if not key.startswith("_")})
    return json.loads(json.dumps(settings, default=str))


def _architecture(network: nn.Module) -> str:
    """Class, number of elements and a hash of the names and shapes of all tensors."""
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]
    elements = sum(tensor.numel() for tensor in network.state_dict().values())
    return f"{type(network).__name__}, {elements} numbers in {len(shapes)} tensors, {digest}"


def data_fingerprint(images: Any, labels: torch.Tensor | None = None, samples: int = 64) -> str:
    """Number of images and a hash of their pixels, as one line of text.

    Args:
        images: a data set with `len`, whose items for a list of indices are uint8 tensors (B, C, H, W). Where it
            holds all of them in memory (`cache`), all are hashed, otherwise `samples` of them, evenly spaced.
        labels: hashed too.
    """
    digest, count = hashlib.sha256(), len(images)
    pixels = getattr(images, "cache", None)
    if pixels is None:
        pixels = images[sorted({k * count // samples for k in range(samples)})]
    for tensor in (pixels, labels):
        if tensor is not None:
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return f"{count} images, {digest.hexdigest()[:16]}"


def check_settings(old: Mapping[str, Any], new: Mapping[str, Any], allowed: Iterable[str] = ()) -> list[str]:
    """Compares the settings of a checkpoint with those of the run that resumes from it.

    Settings that only one of the two has, because versions of this package differ, are not compared.

    Args:
        allowed: names that may differ besides `MAY_CHANGE`.

    Returns:
        what did change and was allowed by name, or changes the learning rates, one line each.

    Raises:
        ValueError: another setting differs; all are listed with the old and the new value. Or `allowed` holds a name
            that is no setting.
    """
    allowed = set(allowed)
    unknown = sorted(allowed - new.keys() - old.keys())
    if unknown:
        raise ValueError(f"allow_changed_settings must name settings of the run, got {', '.join(unknown)}")
    changed = [name for name in old if name in new and old[name] != new[name] and name not in MAY_CHANGE]
    refused = [name for name in changed if name in MUST_NOT_CHANGE or name not in allowed]
    lines = {name: f"{name} was {old[name]!r} and is {new[name]!r}" for name in changed}
    if refused:
        others = [name for name in refused if name not in MUST_NOT_CHANGE]
        way_out = f"--allow_changed_settings {' '.join(others)} resumes nevertheless"
        if any(name in MUST_NOT_CHANGE for name in refused):
            way_out = "the weights of the checkpoint belong to another network"
        listed = "; ".join(lines[name] for name in refused)
        raise ValueError(f"the settings differ from the checkpoint's: {listed}; {way_out}")
    notes = [lines[name] for name in changed]
    lengths = [(old.get(name), new.get(name)) for name in ("max_train_steps", "num_epochs")]
    if new.get("lr_scheduler") in SCHEDULES_WITH_AN_END and any(before != after for before, after in lengths):
        notes.append(f"the length of the run changed, and with it the learning rates of {new['lr_scheduler']!r}")
    return notes


def new_run_id() -> str:
    """A name for a run that no other run has."""
    return uuid.uuid4().hex


def read_run(output_dir: str | Path) -> str | None:
    """The id of the run in a folder; None where there is none or its file is damaged (checkpoints have it as well)."""
    try:
        run = read_object(Path(output_dir) / SETTINGS_FILE)
        return run["run_id"] if isinstance(run["run_id"], str) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def write_run(output_dir: str | Path, run_id: str, settings: Mapping[str, Any]) -> None:
    """Stores id and settings of a run in its folder."""
    write_json(Path(output_dir) / SETTINGS_FILE, {"run_id": run_id, "settings": settings})
