"""Reads and writes pipeline folders: what `ScoreSdePipeline.from_pretrained` and `save_pretrained` exchange.

Training lies below the pipelines and does not import them, so the index is written here by hand:
``model_index.json``, ``unet/``, ``scheduler/`` and a ``README.md`` with the model card.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError

from ..models import DDPMpp, NCSNpp
from ..schedulers import SDEScheduler, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from .durable_files import staged_folder, sync_file
from .safe_state import check_finite_state


PACKAGE = "scoresde_pipelines"
NETWORKS: dict[str, Any] = {"ncsnpp": NCSNpp, "ddpmpp": DDPMpp}
SCHEDULERS: dict[str, Any] = {"ve": VESDEScheduler, "vp": VPSDEScheduler, "subvp": SubVPSDEScheduler}
INDEX = "model_index.json"


@dataclass
class Components:
    """What is trained: a network, the scheduler that fixes its SDE and parameterization, and the range of its data.

    `unet` is a diffusers model (`ModelMixin` and `torch.nn.Module`), `scheduler` an `SDEScheduler`, `class_names` the
    classes of a class-conditional network in the order of their labels.
    """

    unet: Any
    scheduler: Any
    data_range: tuple[float, float]
    class_names: list[str] | None = None


def network_class(name: str) -> Any:
    """Our network class, or diffusers' model class, of this name."""
    ours = {cls.__name__: cls for cls in NETWORKS.values()}
    found = ours.get(name) or getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, ModelMixin)):
        raise ValueError(f"{name!r} is not a network: expected one of {sorted(ours)} or a model class of diffusers")
    return found


def load_pipeline_folder(name_or_path: str, cache_dir: str | None = None, token: str | None = None) -> Components:
    """Loads a pipeline for fine-tuning: ours, or any UNet2DModel pipeline, whose scheduler is converted to ours.

    Args:
        name_or_path: a local folder or a Hub id; components in subfolders or (google/ncsnpp-*) flat.

    Raises:
        ValueError: there is no pipeline, or it has no network we know.
    """
    folder = _local_folder(name_or_path, cache_dir, token)
    if not (folder / INDEX).is_file():
        raise ValueError(f"{name_or_path!r} is not a pipeline: it has no {INDEX}")
    index = json.loads((folder / INDEX).read_text())
    key = "unet" if "unet" in index else "model"
    if key not in index:
        raise ValueError(f"the pipeline {name_or_path!r} has neither a unet nor a model; its index is {sorted(index)}")
    unet_folder = folder / key if (folder / key).is_dir() else folder
    unet = network_class(index[key][1]).from_pretrained(unet_folder)
    scheduler = _load_scheduler(folder / "scheduler" if (folder / "scheduler").is_dir() else folder)
    low, high = (index.get(name) for name in ("data_min", "data_max"))
    data_range = scheduler.data_range if low is None or high is None else (float(low), float(high))
    names = index.get("id2label")
    class_names = None if names is None else [names[key] for key in sorted(names, key=int)]
    return Components(unet, scheduler, data_range, class_names)


def _local_folder(name_or_path: str, cache_dir: str | None, token: str | None) -> Path:
    """The folder itself, or the download of a Hub repository."""
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    patterns = ["*.json", "*.safetensors", "*.bin"]
    try:
        return Path(snapshot_download(name_or_path, cache_dir=cache_dir, token=token, allow_patterns=patterns))
    except HFValidationError as error:
        raise ValueError(f"{name_or_path!r} is neither a folder nor a Hub id") from error


def _load_scheduler(folder: Path) -> Any:
    """Our scheduler for the saved one: itself, or for a stock scheduler the one with the same SDE."""
    config = VPSDEScheduler.load_config(folder)
    ours = {cls.__name__: cls for cls in _all_subclasses(SDEScheduler)}
    stock = VESDEScheduler if "sigma_max" in config and "beta_start" not in config else VPSDEScheduler
    return ours.get(config["_class_name"], stock).from_config(config)


def _all_subclasses(cls: type) -> list[Any]:
    """Every subclass that has been imported: a folder must not choose what is imported."""
    return [found for child in cls.__subclasses__() for found in (child, *_all_subclasses(child))]


def save_pipeline_folder(folder: str | Path, components: Components, card: str) -> None:
    """Writes the pipeline into ``folder``, replacing an older one file by file, each at once.

    Other content of the folder (checkpoints, samples, logs) is left alone.

    Raises:
        FloatingPointError: a weight is NaN or infinite; the folder is left as it was.
        OSError: the folder cannot be written; the message says whether the disk is full.
    """
    folder = Path(folder)
    untouched = f"the pipeline in {folder} is as it was"
    check_finite_state(components.unet.state_dict(), "unet", f": {untouched}")
    with staged_folder(folder / ".incomplete-pipeline", "the pipeline", untouched) as staging:
        components.unet.save_pretrained(staging / "unet")
        components.scheduler.save_pretrained(staging / "scheduler")
        (staging / "README.md").write_text(card, encoding="utf-8")
        (staging / INDEX).write_text(json.dumps(_index(components), indent=2) + "\n")
        for source in sorted(path for path in staging.rglob("*") if path.is_file()):
            sync_file(source)
        for source in sorted(path for path in staging.rglob("*") if path.is_file()):
            target = folder / source.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)


def _index(components: Components) -> dict[str, Any]:
    unet = type(components.unet).__name__
    ours = unet in {cls.__name__ for cls in NETWORKS.values()}
    names = components.class_names
    return {
        "_class_name": "ScoreSdePipeline",
        "_diffusers_version": diffusers.__version__,
        "data_min": components.data_range[0],
        "data_max": components.data_range[1],
        "unet": [PACKAGE if ours else "diffusers", unet],
        "scheduler": _class_address(type(components.scheduler)),
        **({} if names is None else {"id2label": {str(label): name for label, name in enumerate(names)}}),
    }


def _class_address(cls: type) -> list[str]:
    """Where diffusers finds a scheduler class: in our package, or in the module that defines it."""
    return [PACKAGE if cls in SCHEDULERS.values() else cls.__module__, cls.__name__]


def push_pipeline_folder(folder: str | Path, repo_id: str | None, private: bool, token: str | None) -> str:
    """Publishes the pipeline, its card and its samples, but no checkpoints or logs; returns the repository's address.

    Args:
        repo_id: "user/name"; default: the folder's name in the account of the token.
        private: create the repository as a private one; an existing one keeps its visibility.
    """
    api = HfApi(token=token)
    repo = api.create_repo(repo_id or Path(folder).resolve().name, private=private, exist_ok=True)
    content = [INDEX, "README.md", "unet/*", "scheduler/*", "samples/*"]
    api.upload_folder(
        repo_id=repo.repo_id, folder_path=folder, allow_patterns=content, commit_message="Upload ScoreSdePipeline"
    )
    return str(repo)
