"""The models and samplers of an evaluation: names -> pipelines, short names -> scheduler settings, and the sampling."""

import glob
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .likelihood_measurement import fingerprint
from .pipeline_class_conditional import ScoreSdeClassConditionalPipeline
from .pipeline_likelihood import ScoreSdeLikelihoodPipeline
from .pipeline_score_sde import ScoreSdePipeline
from .samplers import GUIDANCE_SCALE, ODE_TOLERANCE, WEAK_GUIDANCE_SCALE, with_sampler
from .samplers import SAMPLERS as SAMPLERS  # where it was defined before
from .training.checkpoints import read_state
from .training.evaluation import Row
from .training.evaluation.real_images import open_split
from .training.image_table import labels_by_name
from .training.model_names import ModelNotFoundError, locate
from .training.seeding import combined_seed
from .weak_guidance import check_weak_classes


CHECKPOINT_WEIGHTS = "unet_ema.safetensors"
BPD_TOLERANCE = 1e-3


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
            raise ValueError(f"model must match a folder, got {name!r}")
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
        raise TypeError(f"weak_model must be a name, got {name!r}")
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
        raise ValueError(f"model must be a complete checkpoint, got {name!r}")
    if not (folder.parent / "model_index.json").is_file():
        raise ValueError(
            f"model must be a checkpoint in the folder of a pipeline, got {name!r}: {folder.parent} has no model_index.json "
            "(training writes it every save_model_epochs epochs and at its end)"
        )
    return ModelSource(name, str(folder.parent), folder / CHECKPOINT_WEIGHTS)


def _natural(name: str) -> list[str | int]:
    """Sorts checkpoint-900 before checkpoint-1000."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


class ClassDraw:
    """The classes of generated images: drawn from those of real images, so that they come as often.

    Args:
        data: a folder, a parquet file or a Hub id.
        split: its split with the labels.
    """

    def __init__(self, data: str, split: str):
        self.data, self.table = data, open_split(data, split)

    def labels(self, pipe: ScoreSdeClassConditionalPipeline) -> Tensor:
        """The labels of all real images as numbers of the model's classes, int64 (N,).

        Raises:
            ValueError: the data have no labels, or a class that the model does not know.
        """
        names = {number: name for name, number in pipe.labels.items()}
        known = [names.get(number, str(number)) for number in range(pipe.num_classes)]
        try:
            labels = labels_by_name(self.table, None, known)
        except ValueError as error:
            raise ValueError(f"data must have the classes of the model, got {self.data!r}: {error}") from error
        if labels is None:
            raise ValueError(
                f"data must have a column of class labels for guidance_scale, got {self.data!r} with "
                f"{list(self.table.column_names)}"
            )
        return labels


class PipelineSource:
    """Generates the images of a table's rows; one pipeline at a time is in memory.

    Args:
        models: of the table.
        samplers: name -> scheduler settings; with `guidance_scale`, images of given classes.
        device: where the networks run.
        classes: where the classes of images with guidance come from.
        weak_unet: the weak network of samplers with `weak_guidance_scale`.
    """

    def __init__(
        self,
        models: Sequence[ModelSource],
        samplers: Mapping[str, Mapping[str, Any]],
        device: torch.device | str,
        classes: ClassDraw | None = None,
        weak_unet: Any = None,
    ):
        self.models, self.samplers, self.device = {model.name: model for model in models}, samplers, device
        self.classes = classes
        self.weak_unet: Any = None if weak_unet is None else weak_unet.to(device)
        self._loaded: tuple[str, ScoreSdePipeline, Any] | None = None
        self._labels: dict[str, Tensor] = {}

    def pipeline(self, row_model: str) -> tuple[ScoreSdePipeline, Any]:
        """A model's pipeline on the device, and the scheduler it came with."""
        if self._loaded is None or self._loaded[0] != row_model:
            self._loaded = None
            pipe = self.models[row_model].load().to(self.device)
            self._loaded = row_model, pipe, pipe.scheduler
        return self._loaded[1], self._loaded[2]

    def rows(self, steps: Sequence[int]) -> tuple[list[Row], dict[str, dict[str, Any]], list[tuple[int, int, int]]]:
        """The table's rows, what decides the images of each folder, and every model's (channels, height, width).

        Raises:
            ValueError: a model cannot be loaded, or a sampler does not fit its scheduler.
        """
        rows: list[Row] = []
        settings: dict[str, dict[str, Any]] = {}
        shapes: list[tuple[int, int, int]] = []
        for name in self.models:
            pipe, original = self.pipeline(name)
            weights = fingerprint(pipe.unet)
            shapes.append(pipe.sample_shape)
            for sampler in self.samplers:
                scheduler, tolerance = self._scheduler(original, sampler)
                guidance = self._guidance(name, pipe, sampler) | self._weak_guidance(name, pipe, sampler)
                for count in steps:
                    adaptive = tolerance is not None
                    folder = f"{_slug(name)}_{_slug(sampler)}" + ("" if adaptive else f"_{count}")
                    scheduler.set_timesteps(count)
                    rows.append(Row(name, sampler, count, folder))
                    settings[folder] = {
                        "weights": weights,
                        "scheduler": {key: value for key, value in scheduler.config.items() if key[0] != "_"},
                        "data_range": [pipe.config.data_min, pipe.config.data_max],
                        **({ODE_TOLERANCE: tolerance} if adaptive else {"steps": count}),
                        **guidance,
                    }
        return rows, settings, shapes

    def _scheduler(self, original: Any, sampler: str) -> tuple[Any, float | None]:
        """The model's scheduler with a sampler's settings, and the tolerance of the ODE solver or None."""
        scales = (GUIDANCE_SCALE, WEAK_GUIDANCE_SCALE)
        settings = {key: value for key, value in self.samplers[sampler].items() if key not in scales}
        return with_sampler(original, sampler, settings)

    def _guidance(self, model: str, pipe: ScoreSdePipeline, sampler: str) -> dict[str, Any]:
        """What the classes of a sampler's images depend on; reads them, for a sampler with guidance."""
        scale = self.samplers[sampler].get(GUIDANCE_SCALE)
        if scale is None:
            return {}
        if self.classes is None:
            raise ValueError(f"classes must be given for a sampler with guidance_scale, got None for {sampler!r}")
        conditional = ScoreSdeClassConditionalPipeline.from_pipe(pipe)
        try:
            conditional.check_labels([0], scale)
        except ValueError as error:
            raise ValueError(f"guidance_scale must fit the model {model!r}: {error}") from error
        self._labels[model] = self.classes.labels(conditional)
        return {GUIDANCE_SCALE: scale, "labels": hashlib.sha256(self._labels[model].numpy().tobytes()).hexdigest()}

    def _weak_guidance(self, model: str, pipe: ScoreSdePipeline, sampler: str) -> dict[str, Any]:
        """What autoguidance of a sampler's images depends on."""
        scale = self.samplers[sampler].get(WEAK_GUIDANCE_SCALE)
        if scale is None:
            return {}
        try:
            weak = pipe.check_weak(self.weak_unet, scale, None)
            if GUIDANCE_SCALE in self.samplers[sampler]:
                check_weak_classes(weak, pipe.unet)
        except (TypeError, ValueError) as error:
            raise ValueError(f"weak_model must fit the model {model!r}: {error}") from error
        return {WEAK_GUIDANCE_SCALE: scale, "weak_weights": fingerprint(self.weak_unet)}

    @torch.no_grad()
    def generate(self, row: Row, seed: int, indices: Sequence[int]) -> tuple[Tensor, float]:
        """Images of these indices as uint8 (B, C, H, W) on the CPU, and network calls per image.

        The random numbers of image k follow from (seed, k): it starts from the same noise whatever the row, and with
        guidance it has the same class.

        Raises:
            ValueError: an image is not finite.
        """
        pipe, original = self.pipeline(row.model)
        generators = [torch.Generator().manual_seed(combined_seed(seed, index)) for index in indices]
        pipe.scheduler, tolerance = self._scheduler(original, row.sampler)
        options: dict[str, Any] = dict(
            num_inference_steps=row.steps, generator=generators, output_type="pt", ode_tolerance=tolerance
        )
        scale = self.samplers[row.sampler].get(GUIDANCE_SCALE)
        weak_scale = self.samplers[row.sampler].get(WEAK_GUIDANCE_SCALE)
        if weak_scale is not None:
            options |= {"weak_unet": self.weak_unet, WEAK_GUIDANCE_SCALE: weak_scale}
        try:
            if scale is None:
                output: Any = pipe(batch_size=len(generators), **options)
            else:
                conditional = ScoreSdeClassConditionalPipeline.from_pipe(pipe)
                conditional.set_progress_bar_config(disable=True)
                all_labels = self._labels[row.model]
                chosen = [combined_seed(seed, index, 1) % len(all_labels) for index in indices]
                output = conditional(all_labels[chosen], scale, **options)
        except ValueError as error:
            where = f"images {indices[0]} to {indices[-1]} of {row.model} with {row.sampler}, {row.steps} steps"
            raise ValueError(f"{where}: {error}") from error
        images = (output.images * 255).round().to(torch.uint8).cpu()
        return images, float(torch.as_tensor(output.nfe, dtype=torch.float64).mean())

    def bits_per_dim(self, model: str, images: Tensor) -> Tensor:
        """Bits/dim (B,) of uint8 images (B, 1 or 3, H, W), brought to the model's channels."""
        pipe, original = self.pipeline(model)
        likelihood = ScoreSdeLikelihoodPipeline(
            pipe.unet, original, data_min=pipe.config.data_min, data_max=pipe.config.data_max
        )
        likelihood.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(combined_seed(0, index)) for index in range(len(images))]
        channels = pipe.sample_shape[0]
        if images.shape[1] != channels:
            images = images.expand(-1, 3, -1, -1) if channels == 3 else images.float().mean(1, keepdim=True).byte()
        output: Any = likelihood(images, tolerance=BPD_TOLERANCE, generator=generators)
        return output.bits_per_dim


def _slug(name: str) -> str:
    """A folder name for any name, different for different names."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")[-48:]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
