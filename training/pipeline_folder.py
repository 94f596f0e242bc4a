"""Writes and publishes pipeline folders: what `ScoreSdePipeline.from_pretrained` reads. `pipeline_loading` loads them.

Training lies below the pipelines and does not import them, so the index is written here by hand:
`model_index.json`, `unet/`, `scheduler/` and a `README.md` with the model card.
"""

import json
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub import HfApi

from .. import models
from .durable_files import filled_folder
from .pipeline_loading import (
    INDEX,
    NETWORKS,
    SCHEDULERS,
    Components,
    load_pipeline_folder,
    network_class,
)
from .safe_state import check_finite_state


__all__ = [
    "Components",
    "NETWORKS",
    "SCHEDULERS",
    "load_pipeline_folder",
    "network_class",
    "push_pipeline_folder",
    "save_pipeline_folder",
]

PACKAGE = "scoresde_pipelines"


def save_pipeline_folder(folder: str | Path, components: Components, card: str) -> None:
    """Writes the pipeline into `folder`. An older one there has no index while its files are replaced: it does not load.

    Other content of the folder (checkpoints, samples, logs) is left alone.

    Raises:
        FloatingPointError: a weight is NaN or infinite; the folder is left as it was.
        OSError: the folder cannot be written; the message says whether the disk is full.
    """
    folder = Path(folder)
    untouched = f"the pipeline in {folder} is as it was"
    check_finite_state(components.unet.state_dict(), "unet", f": {untouched}")
    with filled_folder(folder, "the pipeline", untouched, INDEX) as staging:
        components.unet.save_pretrained(staging / "unet")
        components.scheduler.save_pretrained(staging / "scheduler")
        (staging / "README.md").write_text(card, encoding="utf-8")
        (staging / INDEX).write_text(json.dumps(_index(components), indent=2) + "\n")


def _index(components: Components) -> dict[str, Any]:
    unet, names = type(components.unet).__name__, components.class_names
    index = {
        "_class_name": "ScoreSdePipeline",
        "_diffusers_version": diffusers.__version__,
        "data_min": components.data_range[0],
        "data_max": components.data_range[1],
        "unet": [PACKAGE if hasattr(models, unet) else "diffusers", unet],
        # A scheduler of a user's own as well: the package finds it by name once its module is imported.
        "scheduler": [PACKAGE, type(components.scheduler).__name__],
    }
    return index if names is None else {**index, "id2label": {str(k): name for k, name in enumerate(names)}}


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
