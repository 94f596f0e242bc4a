"""What the pipelines share: loading, the prior, the one sampling loop, and images."""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from .models import packed_filters
from .scheduler_coercion import to_sde_scheduler
from .schedulers import SDEScheduler
from .schedulers.probability_flow import solve_probability_flow


Generator = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
Network = Callable[[Tensor, Tensor], Tensor]
Constraint = Callable[[Tensor, Tensor], Tensor]
ScoreFunction = Callable[[Tensor, Tensor], Tensor]

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
NETWORK_LIBRARIES = ("diffusers", "scoresde_pipelines")  # a repository must not choose what is imported
PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class SDEPipelineBase(DiffusionPipeline):
    """A network, a scheduler and the range of the data.

    Args:
        unet: a network called as `unet(sample, timestep).sample`: `NCSNpp`, `DDPMpp`, any `UNet2DModel`.
        scheduler: an `SDEScheduler`; a stock scheduler is converted by its configuration.
        data_min, data_max (`float`, *optional*): the values that black and white had in training. By default the range
            of the official models: [0, 1] for the VE SDE, [-1, 1] for all others.
    """

    config: Any
    unet: Any
    scheduler: Any
    model_cpu_offload_seq = "unet"  # type: ignore[assignment]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self, unet: torch.nn.Module, scheduler: Any, data_min: float | None = None, data_max: float | None = None
    ):
        super().__init__()
        scheduler = to_sde_scheduler(scheduler)
        low, high = scheduler.data_range
        data_min, data_max = (low if data_min is None else data_min), (high if data_max is None else data_max)
        if not data_min < data_max:
            raise ValueError(f"data_min must be less than data_max, got {data_min} and {data_max}")
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(data_min=float(data_min), data_max=float(data_max))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Loads a pipeline from a folder or the Hub; arguments as in `DiffusionPipeline.from_pretrained`.

        Repositories that call the network `model` (google/ncsnpp-*) load as well, flat or in subfolders.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = Path(cls.download(str(pretrained_model_name_or_path), **kwargs))
        if (folder / "model_index.json").is_file() and "unet" not in kwargs:
            index = cls._dict_from_json_file(folder / "model_index.json")
            if "unet" not in index and "model" in index:
                dtype = {key: kwargs[key] for key in ("dtype", "torch_dtype") if key in kwargs}
                kwargs["unet"] = _load_network(folder, *index["model"], **dtype)
        return super().from_pretrained(str(folder), **kwargs)

    @classmethod
    def _get_signature_types(cls) -> dict[str, tuple[Any, ...]]:
        # diffusers before 0.37 leaves annotations like `float | None` out and then fails to find them; what is empty
        # is not checked.
        unchecked = dict.fromkeys(inspect.signature(cls.__init__).parameters, (inspect.Signature.empty,))
        return {**unchecked, **super()._get_signature_types()}

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        config = super().load_config(*args, **kwargs)
        if isinstance(config, dict) and "unet" not in config and "model" in config:
            config["unet"] = config.pop("model")
        return config

    # ------------------------------------------------------------------ inputs

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images of this network."""
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError("unet.config.sample_size must be the size of the images, got None")
        height, width = (size, size) if isinstance(size, int) else size
        return (self.unet.config.in_channels, height, width)

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the sampling loop, for callbacks: the last one has the index `num_timesteps - 1`."""
        return len(self.scheduler.timesteps)

    def check_inputs(
        self,
        batch_size: int,
        num_inference_steps: int,
        generator: Generator,
        latents: Tensor | None,
        output_type: str,
        callback_tensors: list[str],
    ) -> None:
        """Raises TypeError or ValueError, naming the argument, before any work is done."""
        for name, value in (("batch_size", batch_size), ("num_inference_steps", num_inference_steps)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        generators = generator if isinstance(generator, list) else [] if generator is None else [generator]
        if not all(isinstance(g, torch.Generator) for g in generators):
            raise TypeError(f"generator must be a torch.Generator or a list of them, got {generator!r}")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"generator must hold one generator per image, {batch_size}, got {len(generator)}")
        expected = (batch_size, *self.sample_shape)
        if latents is not None and not isinstance(latents, Tensor):
            raise TypeError(f"latents must be a tensor, got {type(latents).__name__}")
        if latents is not None and tuple(latents.shape) != expected:
            raise ValueError(f"latents must have shape {expected}, got {tuple(latents.shape)}")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {OUTPUT_TYPES}, got {output_type!r}")
        if output_type == "pil" and self.sample_shape[0] not in PIL_MODES:
            raise ValueError(
                f"output_type 'pil' needs {sorted(PIL_MODES)} channels, the network has {self.sample_shape[0]}: "
                "choose 'np' or 'pt'"
            )
        unknown = set(callback_tensors) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be among {self._callback_tensor_inputs}, got {sorted(unknown)}"
            )

    def prepare_latents(
        self, batch_size: int, generator: Generator, latents: Tensor | None, scheduler: SDEScheduler | None = None
    ) -> Tensor:
        """A draw from the prior in float32, shape (B, channels, height, width); `latents` is unit noise to use instead."""
        device = self._execution_device
        if latents is None:
            latents = randn_tensor(
                (batch_size, *self.sample_shape), generator=generator, device=device, dtype=torch.float32
            )
        return latents.to(device, torch.float32) * (scheduler or self.scheduler).init_noise_sigma

    # ------------------------------------------------------------------ the loop

    def network(self, x: Tensor, timestep: Tensor, **model_kwargs: Any) -> Tensor:
        """The network's output in float32 at the state `x` (B, *D); the network itself runs in its own dtype."""
        return self.unet(x.to(self.unet.dtype), timestep, **model_kwargs).sample.float()

    def run_sampler(
        self,
        latents: Tensor,
        generator: Generator = None,
        network: Network | None = None,
        callback: StepCallback | None = None,
        callback_tensors: list[str] = ["latents"],  # noqa: B006 - diffusers' convention, never changed here
        scheduler: SDEScheduler | None = None,
        constrain: Constraint | None = None,
    ) -> Tensor:
        """The sampling loop of every pipeline: one network call and one `scheduler.step` per entry of `timesteps`.

        Args:
            latents: the start, from `prepare_latents`; `scheduler.set_timesteps` has been called.
            generator: source of every random draw.
            network: `(x, timestep) -> output`; a guidance or another condition wraps `self.network`.
            callback: called as `callback(pipe, i, timestep, {"latents": ...})` after each step.
            scheduler: instead of the pipeline's own.
            constrain: `(x, t) -> x`, applied to the start and after each step; t is the SDE's time of the state.
        """
        network, scheduler = network or self.network, scheduler or self.scheduler
        accepts_generator = "generator" in inspect.signature(scheduler.step).parameters
        step_kwargs: dict[str, Any] = {"generator": generator} if accepts_generator else {}
        if constrain is not None:
            latents = constrain(latents, scheduler.state_time)
        with packed_filters(self.unet):
            for i, timestep in enumerate(self.progress_bar(scheduler.timesteps)):
                output = network(scheduler.scale_model_input(latents, timestep), timestep)
                latents = scheduler.step(output, timestep, latents, **step_kwargs, return_dict=False)[0]
                if constrain is not None:
                    latents = constrain(latents, scheduler.state_time)
                if callback is not None:
                    available = {"latents": latents}
                    changed = callback(self, i, timestep, {name: available[name] for name in callback_tensors})
                    latents = (changed or {}).get("latents", latents)
        return latents

    def solve_ode(
        self,
        latents: Tensor,
        tolerance: float,
        score_fn: Callable[..., Tensor] | None = None,
        condition: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """From `prepare_latents` to denoised images by the probability-flow ODE, and the evaluations of each, (B,).

        `score_fn`, `(x, t, **condition) -> score` with t of shape (B,), replaces the network's score; `condition` holds
        per-sample tensors (B, ...).
        """
        sde, end = self.scheduler.sde, self.scheduler.smallest_time
        score_fn = score_fn or self.scheduler.score_fn(self.network)
        x = latents * (sde.prior_std / self.scheduler.init_noise_sigma)
        with packed_filters(self.unet):
            solution = solve_probability_flow(score_fn, sde, x, sde.T, end, tolerance=tolerance, condition=condition)
        t = torch.full((len(x),), end, dtype=x.dtype, device=x.device)
        return sde.denoise(solution.x, score_fn(solution.x, t, **(condition or {})), t), solution.nfe + 1

    # ------------------------------------------------------------------ images

    def to_images(self, x: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
        """States in the data range, (B, C, H, W), as PIL images, an array (B, H, W, C) or a tensor in [0, 1]."""
        if output_type == "latent":
            return x
        return export_images(self.to_unit_range(x), output_type)

    def to_unit_range(self, x: Tensor) -> Tensor:
        """States in the data range, (B, C, H, W), as float32 images in [0, 1]."""
        low, high = self.config.data_min, self.config.data_max
        return ((x.float() - low) / (high - low)).clamp(0, 1)


def export_images(images: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
    """Images in [0, 1], (B, C, H, W), as PIL images ("pil"), an array (B, H, W, C) ("np") or as they are ("pt")."""
    if output_type == "pt":
        return images
    array = images.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return array
    pixels = (array * 255).round().astype(np.uint8)
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels]


def _load_network(folder: Path, library: str, class_name: str, **kwargs: Any) -> torch.nn.Module:
    if library not in NETWORK_LIBRARIES:
        raise ValueError(
            f"model_index.json names {library}.{class_name} as model; known libraries: {NETWORK_LIBRARIES}"
        )
    network_class = getattr(import_module(library), class_name)
    subfolder = folder / "model"
    return network_class.from_pretrained(str(subfolder if subfolder.is_dir() else folder), **kwargs)
