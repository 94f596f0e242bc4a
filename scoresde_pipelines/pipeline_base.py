"""What the pipelines share: components, checks, the prior, the loop over a scheduler, and images."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from .call_options import CallOptions
from .image_outputs import OUTPUT_TYPES, all_finite, export_images, to_unit_range, warn_of_excess
from .image_sizes import TileSize, check_sides, check_tiles
from .models.config_checks import height_and_width
from .network_use import in_use, network_output, weights_reason
from .pipeline_components import check_components, null_label
from .pipeline_output import ScoreSdePipelineOutput
from .pipeline_pretrained import PretrainedPipeline
from .registration import stable_name
from .schedulers import PerSample, SDEScheduler, TiledScore
from .schedulers.checks import (
    Generator,
    check_choice,
    check_flag,
    check_integer,
    check_number,
)
from .schedulers.inference_mode import ordinary
from .schedulers.probability_flow import SMALLEST_TOLERANCE, ODEError
from .schedulers.sampling_loop import sampling_loop
from .schedulers.scheduling_conversion import to_sde_scheduler
from .schedulers.score_function import ScoreFunction
from .training.pil_pictures import IMAGE_MODES
from .training.pipeline_loading import label_names
from .weak_guidance import WeakGuidance


Constraint = Callable[[Tensor, Tensor], Tensor]


class SDEPipelineBase(PretrainedPipeline):
    """A network, a scheduler and the range of the data.

    Args:
        unet: a network called as `unet(sample, timestep).sample`: `NCSNpp`, `DDPMpp`, any `UNet2DModel`.
        scheduler: an `SDEScheduler`; a stock scheduler is converted by its configuration.
        data_min, data_max (`float`, *optional*): the values that black and white had in training. By default the range
            of the official models: [0, 1] for the VE SDE, [-1, 1] for all others.
        id2label (`dict`, *optional*): names of the classes of a class-conditional network, by their number.

    Raises:
        TypeError, ValueError: for a component of another kind, components that do not fit, or a range that is none.
    """

    config: Any
    unet: Any
    scheduler: Any
    model_cpu_offload_seq = "unet"  # type: ignore[assignment]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        unet: torch.nn.Module,
        scheduler: Any,
        data_min: float | None = None,
        data_max: float | None = None,
        id2label: dict[int, str] | dict[str, str] | None = None,
    ):
        super().__init__()
        scheduler = to_sde_scheduler(scheduler)
        check_components(unet, scheduler)
        low, high = scheduler.data_range
        low, high = (low if data_min is None else data_min), (high if data_max is None else data_max)
        low, high = check_number("data_min", low), check_number("data_max", high)
        if not low < high:
            raise ValueError(f"data_min must be less than data_max, got {low} and {high}")
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(data_min=low, data_max=high, id2label=label_names(id2label))
        self._num_timesteps = len(scheduler.timesteps)

    def __setattr__(self, name: str, value: Any) -> None:
        # Whoever replaces the scheduler by a stock one: what is read back is always an `SDEScheduler`.
        super().__setattr__(name, to_sde_scheduler(value) if name == "scheduler" else value)

    def register_to_config(self, **kwargs: Any) -> None:
        if "scheduler" in kwargs:
            kwargs["scheduler"] = stable_name(kwargs["scheduler"])
        super().register_to_config(**kwargs)

    # ------------------------------------------------------------------ inputs

    @property
    def _execution_device(self) -> torch.device:
        device: torch.device = super()._execution_device
        if device.type == "meta":
            raise ValueError("unet must have weights with values, got a network on the device 'meta'")
        return device

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images of this network."""
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError("unet.config.sample_size must be the size of the images, got None")
        return (self.unet.config.in_channels, *height_and_width(size))

    def shape_at(
        self,
        height: int | None,
        width: int | None,
        tile_size: TileSize = None,
        tile_overlap: int | None = None,
        weak: WeakGuidance | None = None,
    ) -> tuple[int, int, int]:
        """Channels, height and width of the images to sample; a side that is `None` is the network's own.

        The size is checked for the network and for the weak network that guides it, of which each call gets one tile.

        Raises:
            TypeError, ValueError: for a size at which the network does not run, or tiles that are none.
        """
        channels, *own = self.sample_shape
        tile = check_tiles(tile_size, tile_overlap)
        networks = [self.unet] if weak is None else [self.unet, weak.unet]
        return (channels, *check_sides(networks, (own[0], own[1]), height, width, tile))

    @property
    def data_std(self) -> float:
        """Rough standard deviation of the data: `sigma_data` of the scheduler if given, else a quarter of the range."""
        return float(self.scheduler.data_std_in((self.config.data_min, self.config.data_max)))

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the sampling in progress, for callbacks: the last one has the index `num_timesteps - 1`."""
        return self._num_timesteps

    def check_inputs(
        self,
        batch_size: int,
        num_inference_steps: int,
        options: CallOptions,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        """Raises TypeError or ValueError, naming the argument, before any work is done; `shape` is that of an image."""
        self.check_modules()
        check_integer("batch_size", batch_size)
        check_integer("num_inference_steps", num_inference_steps)
        options.check(batch_size, shape or self.sample_shape, self._callback_tensor_inputs)
        self.check_output(options.output_type, options.return_dict)

    def check_modules(self) -> None:
        """Raises TypeError or ValueError unless the components fit; one may have been replaced since the last call."""
        check_components(self.unet, self.scheduler)

    def check_output(self, output_type: str, return_dict: bool = True) -> None:
        """Raises TypeError or ValueError unless images of this network can be returned like that."""
        check_flag("return_dict", return_dict)
        check_choice("output_type", output_type, OUTPUT_TYPES)
        if output_type == "pil" and self.sample_shape[0] not in IMAGE_MODES:
            raise ValueError(
                f"output_type 'pil' needs {sorted(IMAGE_MODES)} channels, the network has {self.sample_shape[0]}: "
                "choose 'np' or 'pt'"
            )

    def prepare_latents(
        self,
        batch_size: int,
        generator: Generator,
        latents: Tensor | None,
        scheduler: SDEScheduler | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """A draw from the prior in float32, shape (B, channels, height, width); `latents` is unit noise to use instead."""
        device = self._execution_device
        if latents is None:
            size = (batch_size, *(shape or self.sample_shape))
            latents = randn_tensor(size, generator=generator, device=device, dtype=torch.float32)
        return ordinary(latents).to(device, torch.float32) * (scheduler or self.scheduler).init_noise_sigma

    # ------------------------------------------------------------------ sampling

    def network(self, x: Tensor, timestep: Tensor, weak_unet: Any = None, **model_kwargs: Any) -> Tensor:
        """The network's output in float32 at the state `x` (B, *D); the network itself runs in its own dtype.

        A class-conditional `UNet2DModel` that is given no labels gets the one for "no class" (see `null_label`).

        Args:
            weak_unet: the network to call instead of the pipeline's.
        """
        unet, name = (self.unet, "unet") if weak_unet is None else (weak_unet, "weak_unet")
        null = null_label(unet, self.config.id2label)
        if null is not None and model_kwargs.get("class_labels") is None:
            model_kwargs["class_labels"] = torch.full((len(x),), null, device=x.device)
        return network_output(name, unet, x, timestep, **model_kwargs)

    def score_fn(self, **model_kwargs: Any) -> ScoreFunction:
        """The network's score `(x, t) -> score`, (B, *D) to (B, *D); `model_kwargs` go to `network`."""
        return self.scheduler.score_fn(self.network, **model_kwargs)

    def labelled_score_fn(self, class_labels: Tensor, **model_kwargs: Any) -> ScoreFunction:
        """The network's score given one label for each sample, (B,); the labels follow the samples of a solver."""

        def score(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
            return self.score_fn(class_labels=class_labels, **model_kwargs)(x, t)

        return PerSample(score, class_labels=class_labels)

    def tiled(self, score_fn: ScoreFunction, options: CallOptions) -> ScoreFunction:
        """`score_fn` on tiles: a `TiledScore`, or itself without a `tile_size`."""
        if options.tile_size is None:
            return score_fn
        return TiledScore(score_fn, options.tile_size, options.tile_overlap, options.tile_batch_size)

    def networks(self, weak: WeakGuidance | None = None) -> dict[str, Any]:
        """The networks of a run by their names, with the weak one that guides it and a classifier, where there are any."""
        own = {"unet": self.unet, "classifier": getattr(self, "classifier", None)}
        own |= {} if weak is None else {"weak_unet": weak.unet}
        return {name: network for name, network in own.items() if network is not None}

    @contextmanager
    def running(self, weak: WeakGuidance | None = None) -> Iterator[None]:
        """The context of every run, with the weak network that guides it: see `network_use.in_use`.

        Raises:
            ODEError: the solver failed; the message names weights that are not finite, where there are any.
        """
        networks = self.networks(weak)
        with in_use(*networks.values()):
            try:
                yield
            except ODEError as error:
                if (reason := weights_reason(networks)) is None:
                    raise
                raise ODEError(f"{error}, as {reason} finite") from error

    def plan(self, num_inference_steps: int, scheduler: SDEScheduler | None = None) -> SDEScheduler:
        """`scheduler`, by default the pipeline's, with its time steps set: a copy, whose steps belong to this run alone."""
        scheduler = scheduler or self.scheduler
        own = copy.copy(scheduler)  # first: another thread may plan with the same scheduler
        for one in (own, scheduler):
            one.set_timesteps(num_inference_steps, device=self._execution_device)
        self._num_timesteps = len(own.timesteps)
        return own

    def run_sampler(
        self,
        latents: Tensor,
        scheduler: SDEScheduler,
        score_fn: ScoreFunction,
        options: CallOptions,
        constrain: Constraint | None = None,
    ) -> Tensor:
        """`sampling_loop`, with a progress bar and the callback.

        Args:
            latents: the start, from `prepare_latents`.
            scheduler: from `plan`.
            score_fn: `(x, t) -> score`; a condition wraps `self.score_fn()`.
            options: the generator and the callback, see `CallOptions`.
            constrain: `(x, t) -> x`, applied after each step; t is the SDE's time of the state.
        """
        with self.progress_bar(total=len(scheduler.timesteps)) as bar:

            def on_step(i: int, timestep: Tensor, x: Tensor) -> Tensor | None:
                bar.update()
                return options.changed_state(self, i, timestep, x)

            return sampling_loop(scheduler, score_fn, latents, options.generator, constrain=constrain, on_step=on_step)

    # ------------------------------------------------------------------ images

    def to_images(
        self, x: Tensor, output_type: str, weak: WeakGuidance | None = None
    ) -> list[Image.Image] | np.ndarray | Tensor:
        """States in the data range, (B, C, H, W), as PIL images, an array (B, H, W, C) or a tensor in [0, 1].

        Args:
            weak: the weak network that they were made with.

        Raises:
            ValueError: for NaN or infinity.
        """
        self.check_images(x, output_type, weak)
        return x if output_type == "latent" else export_images(self.to_unit_range(x), output_type)

    def check_images(self, x: Tensor, output_type: str, weak: WeakGuidance | None = None) -> None:
        """Raises ValueError for NaN or infinity in `x`, saying where they come from; warns of values to be clipped."""
        if not all_finite(x):
            networks = self.networks(weak)
            reason = weights_reason(networks) or f"the output of {' or '.join(networks)} is not"
            raise ValueError(f"images must be finite, got NaN or infinity in {_rows_not_finite(x)} of them: {reason}")
        if output_type != "latent":
            warn_of_excess(x, self.config.data_min, self.config.data_max)

    def output(self, images: Any, nfe: int | Tensor, options: CallOptions) -> ScoreSdePipelineOutput | tuple:
        """What a call returns."""
        output = ScoreSdePipelineOutput(images, nfe=nfe)
        return output if options.return_dict else (output.images, output.nfe)

    def to_unit_range(self, x: Tensor) -> Tensor:
        """States in the data range, (B, C, H, W), as float32 images in [0, 1]."""
        return to_unit_range(x, self.config.data_min, self.config.data_max)


def check_tolerance(name: str, value: Any) -> float:
    """`value`, if the adaptive solver can keep to this error in double precision."""
    return check_number(name, value, SMALLEST_TOLERANCE, 1, ends="[)")


def _rows_not_finite(x: Tensor) -> int:
    return int((~torch.isfinite(x.flatten(1)).all(1)).sum())
