"""The models of an evaluation: from names to pipelines."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .model_facts import Classes, folder_classes, folder_shape
from .pipeline_score_sde import ScoreSdePipeline
from .schedulers.checks import shown
from .training.checkpoints import read_state
from .training.model_names import CHECKPOINT_WEIGHTS, ModelNotFoundError, locate


@dataclass(frozen=True)
class ModelSource:
    """Where a model's pipeline comes from.

    Attributes:
        name: as it stands in the table.
        location: a folder or Hub id.
        weights: averaged weights of a training checkpoint, instead of the pipeline's own.
    """

    name: str
    location: str
    weights: Path | None = None

    def load(self) -> ScoreSdePipeline:
        """The pipeline, on the CPU.

        Raises:
            ValueError: there is none, its images are not uint8-like, or weights are not finite.
        """
        try:
            pipe = ScoreSdePipeline.from_pretrained(self.location)
            if self.weights is not None:
                pipe.unet.load_state_dict(load_file(self.weights))
        except ModelNotFoundError:
            raise
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ValueError(
                f"model must be a shipped name, a folder or a Hub id, got {self.name!r}: {error}"
            ) from error
        pipe.set_progress_bar_config(disable=True)
        pipe.unet.eval()
        for key, value in pipe.unet.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"model must have finite weights, got NaN or infinity in {key} of {self.name!r}")
        return pipe

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of its images, where the files of a folder of this machine say so."""
        return folder_shape(Path(self.location)) if Path(self.location).is_dir() else None

    @property
    def classes(self) -> Classes | None:
        """Its classes, where the files of a folder of this machine say which; they may be none."""
        return folder_classes(Path(self.location)) if Path(self.location).is_dir() else None

    @property
    def card(self) -> Path | None:
        """Its README.md, where the model is a folder of this machine."""
        return Path(self.location) / "README.md" if Path(self.location).is_dir() else None


def find_models(names: Sequence[str]) -> list[ModelSource]:
    """The models that names mean: shipped ones, folders, Hub ids, checkpoints, and patterns (`runs/x/checkpoint-*`).

    Raises:
        ValueError: nothing matches a pattern, a checkpoint is not complete or has no pipeline beside it, or a name occurs
            twice.
    """
    found: list[ModelSource] = []
    for name in names:
        # A folder may have the name of a pattern.
        literal = not glob.has_magic(name) or Path(name).is_dir()
        matches = [name] if literal else sorted(glob.glob(name), key=_natural)
        if not matches:
            raise ValueError(f"model must match a folder, got {shown(name)}")
        found += [_find_model(match) for match in matches]
    labels = [source.name for source in found]
    if not found or len(set(labels)) < len(labels):
        raise ValueError(f"model must name different models, got {labels}")
    return found


def load_weak_network(name: str) -> Any:
    """The network of the one model that `name` means, on the CPU; errors name the argument `weak_model`.

    Raises:
        TypeError, ValueError: no model, or more than one.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"weak_model must be a name, got {shown(name)}")
    try:
        found = find_models([name])
        if len(found) > 1:
            raise ValueError(f"model must be one, got {[source.name for source in found]}")
        return found[0].load().unet
    except ValueError as error:
        raise ValueError(f"weak_{error}") from error


def _find_model(name: str) -> ModelSource:
    place = locate(name)
    folder = place if isinstance(place, Path) else Path(name)
    if (folder / "model_index.json").is_file() or not (folder / CHECKPOINT_WEIGHTS).is_file():
        return ModelSource(name, str(place) if isinstance(place, Path) else name)
    if read_state(folder) is None:
        raise ValueError(f"model must be a complete checkpoint, got {shown(name)}")
    if not (folder.parent / "model_index.json").is_file():
        raise ValueError(
            f"model must be a checkpoint in the folder of a pipeline, got {shown(name)}: {folder.parent} has no "
            "model_index.json (training writes it every save_model_epochs epochs and at its end)"
        )
    return ModelSource(name, str(folder.parent), folder / CHECKPOINT_WEIGHTS)


def _natural(name: str) -> list[str | int]:
    """Sorts checkpoint-900 before checkpoint-1000."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
