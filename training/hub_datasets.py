"""Opens a data set by its name: a Hub id, or a local folder that `datasets` understands."""

import os
from pathlib import Path
from typing import Any

from ..schedulers.checks import shown
from .model_names import HubName, reason_of


def open_dataset(name: str, config_name: str | None, split: str, cache_dir: str | None, **options: Any) -> Any:
    """`datasets.load_dataset`, with errors that name the argument.

    Raises:
        TypeError, ValueError: there is no such data set or split, or the Hub cannot be reached.
    """
    import datasets

    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise TypeError(f"dataset_name must be the name of a data set, got {shown(name)}")
    name = os.fspath(name)
    prepared = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
    if not os.path.exists(name) and not prepared.exists():
        _check_hub(name)
    try:
        return datasets.load_dataset(name, config_name, split=split, cache_dir=cache_dir, **options)
    except Exception as error:  # a damaged file may raise nearly anything
        raise ValueError(
            f"dataset_name must be a data set with the split {split!r}, got {name!r}: {error or type(error).__name__}"
        ) from error


def _check_hub(name: str) -> None:
    # `load_dataset` asks again and again, half a minute long, where there is no network.
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(name, repo_type="dataset", allow_patterns=["README.md"])
    except Exception as error:
        raise ValueError(
            f"dataset_name must be a folder or a data set of the Hub, got {name!r}: there is no such folder, "
            f"{reason_of(HubName(name), error)}"
        ) from error
