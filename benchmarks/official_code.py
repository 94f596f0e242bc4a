"""Builds networks of a local checkout of the official PyTorch code (yang-song/score_sde_pytorch), to measure beside ours.

Its imports are made to work without a GPU and without ml_collections; nothing of it is changed otherwise.
"""

import importlib
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch


class ConfigDict(dict):
    """Stands in for `ml_collections.ConfigDict`: a dictionary whose entries are attributes."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def import_official(folder: Path) -> None:
    """Make the packages `models`, `configs` and `op` of the checkout importable.

    Raises:
        FileNotFoundError: `folder` is no checkout of the official code.
    """
    if not (folder / "models" / "ncsnpp.py").is_file():
        raise FileNotFoundError(f"{folder} is no checkout of yang-song/score_sde_pytorch")
    sys.modules.setdefault("ml_collections", types.SimpleNamespace(ConfigDict=ConfigDict))  # type: ignore[arg-type]
    sys.path.insert(0, str(folder))
    # Its FIR filter compiles a CUDA extension on import; on a CPU it never calls it.
    with mock.patch("torch.utils.cpp_extension.load", return_value=None):
        for name in ("op", "models.ncsnpp", "models.ddpm", "models.ncsnv2"):
            importlib.import_module(name)


def official_config(name: str) -> Any:
    """The official configuration called `name`, such as `ve/cifar10_ncsnpp_continuous`."""
    config = importlib.import_module("configs." + name.replace("/", ".")).get_config()
    if "num_channels" in config.data:
        config.data.channels = config.data.num_channels  # NCSNv2 reads a name that its configurations lack
    return config


def official_network(config: Any) -> torch.nn.Module:
    """The network of an official configuration, on the default device."""
    return importlib.import_module("models.utils").get_model(config.model.name)(config)
