"""What the page does, without its layout: from pictures and options to pictures, while the sampling goes on."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..deblurring import TRAINED_NETWORK, Deblurring
from ..evaluation_models import find_models
from ..image_fit import fit_images
from ..image_inputs import images_to_tensor
from ..pipeline_base import SDEPipelineBase
from ..pipeline_class_conditional import ScoreSdeClassConditionalPipeline
from ..pipeline_colorization import ScoreSdeColorizationPipeline
from ..pipeline_inpaint import ScoreSdeInpaintPipeline
from ..pipeline_inverse_problem import ScoreSdeInverseProblemPipeline
from ..pipeline_likelihood import ScoreSdeLikelihoodPipeline
from ..pipeline_score_sde import ScoreSdePipeline
from ..pipeline_super_resolution import ScoreSdeSuperResolutionPipeline
from ..samplers import SAMPLERS, with_sampler
from ..schedulers.checks import check_choice, check_integer, check_number, shown
from ..training.pil_pictures import is_gray, to_8_bit
from ..weak_guidance import DEFAULT_SCALE
from .watching import Progress, enlarged, watch


LARGEST = 1024  # pixels of a side: larger uploads are reduced, and so are those whose enlargement would be larger
NO_CLASS, NO_MODEL = "any", "none"
LIKELIHOOD_TOLERANCE = 1e-3  # moves bits/dim by less than their standard error (docs/likelihood.md)


class Models:
    """Pipelines by the names of their models, loaded when they are first needed.

    Args:
        names: shipped names, folders or Hub ids.

    Raises:
        ValueError: for a name that is not known.
    """

    def __init__(self, names: list[str], device: str = "cpu"):
        self.sources = {source.name: source for source in find_models(names)}
        self.device = device
        self._loaded: dict[str, ScoreSdePipeline] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> ScoreSdePipeline:
        if name not in self.sources:
            raise ValueError(f"model must be one of {sorted(self.sources)}, got {shown(name)}")
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self.sources[name].load().to(self.device)
            return self._loaded[name]

    def classes(self, name: str) -> list[str]:
        """The names of a model's classes, after "any"; that alone where it has none."""
        names = self[name].config.id2label
        return [NO_CLASS, *(names or {}).values()]


def generate(
    models: Models,
    model: str,
    label: str = NO_CLASS,
    sampler: str = "default",
    steps: int = 50,
    count: int = 4,
    guidance_scale: float = 1.0,
    seed: int = 0,
    weak_model: str = NO_MODEL,
    weak_guidance_scale: float = DEFAULT_SCALE,
) -> Iterator[Progress]:
    """Draws `count` images of a class; the last item holds the final images.

    With a weak model the images are guided by it (autoguidance).

    Raises:
        ValueError, TypeError: for an argument out of its range, before any work.
    """
    check_choice("sampler", sampler, SAMPLERS)
    source = models[model]
    scheduler, chosen = with_sampler(source.scheduler, sampler, SAMPLERS[sampler])
    options: dict[str, Any] = {"num_inference_steps": int(steps), **chosen}
    if weak_model != NO_MODEL:
        options |= {"weak_unet": models[weak_model].unet, "weak_guidance_scale": float(weak_guidance_scale)}
    pipe: SDEPipelineBase
    if label == NO_CLASS:
        pipe, options["batch_size"] = ScoreSdePipeline.from_pipe(source, scheduler=scheduler), int(count)
    else:
        pipe = ScoreSdeClassConditionalPipeline.from_pipe(source, scheduler=scheduler)
        options |= {"class_labels": [label] * int(count), "guidance_scale": float(guidance_scale)}
    yield from watch(pipe, options, seed)


@dataclass(frozen=True)
class Run:
    """What the tabs that restore a picture have in common.

    Args:
        steps: noise levels.
        count: images.
        seed: of all noise.
        tile_size: make images of the picture's own size on tiles of this side; 0 fits the picture to the model.
        tile_overlap: of tiles, as a share of their side.
    """

    steps: int = 50
    count: int = 4
    seed: int = 0
    tile_size: int = 0
    tile_overlap: float = 0.5

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of a pipeline's call; all of a picture that is fitted is restored."""
        options: dict[str, Any] = {"num_inference_steps": int(self.steps), "num_samples": int(self.count)}
        if not self.tile_size:
            return {**options, "resize": "pad"}
        side = check_integer("tile_size", self.tile_size)
        check_number("tile_overlap", self.tile_overlap, 0, 1, ends="[)")
        return {**options, "tile_size": side, "tile_overlap": int(self.tile_overlap * side)}


def inpaint(models: Models, model: str, image: Any, mask: Any, run: Run = Run()) -> Iterator[Progress]:
    """Draws what is under the white of `mask` (an image of the size of `image`)."""
    pipe = ScoreSdeInpaintPipeline.from_pipe(models[model])
    image, mask = _given(image, "image"), _given(mask, "mask")
    if not mask.convert("L").point(lambda value: 255 * (value > 127)).getbbox():
        raise ValueError("mask must have white pixels where to paint, got none: draw on the picture first")
    yield from watch(pipe, {"image": image, "mask_image": mask, **run.options}, run.seed)


def colorize(models: Models, model: str, image: Any, run: Run = Run()) -> Iterator[Progress]:
    """Draws the colours of a picture, of which only the gray values are used."""
    pipe = ScoreSdeColorizationPipeline.from_pipe(models[model])
    if pipe.sample_shape[0] != 3:
        raise ValueError(f"model must be one of colour images, got {model!r} with {pipe.sample_shape[0]} channel")
    yield from watch(pipe, {"image": _given(image, "image").convert("L"), **run.options}, run.seed)


def upscale(models: Models, model: str, image: Any, run: Run = Run(), scale: int = 4) -> Iterator[Progress]:
    """Draws images whose means over `scale` x `scale` pixels are those of the picture."""
    pipe = ScoreSdeSuperResolutionPipeline.from_pipe(models[model])
    small = _given(image, "image", LARGEST // int(scale))
    yield from watch(pipe, {"image": small, "scale": int(scale), **run.options}, run.seed)


def restore(
    models: Models, model: str, image: Any, run: Run = Run(), blur_std: float = 1.0, noise_std: float = 0.02
) -> Iterator[Progress]:
    """Draws sharp images without noise behind a picture with Gaussian blur and noise; the blur is in pixels.

    Raises:
        ValueError: for neither blur nor noise, or a value out of its range.
    """
    check_number("blur_std", blur_std, 0)
    check_number("noise_std", noise_std, 0)
    if blur_std == 0 and noise_std == 0:
        raise ValueError("blur or noise must be positive, got 0 for both")
    pipe = ScoreSdeInverseProblemPipeline.from_pipe(models[model])
    options = run.options
    pixels, resize = images_to_tensor(_given(image, "image"), pipe.sample_shape[0]), options.pop("resize", None)
    given = Deblurring.of(pixels, None if resize is None else pipe.sample_shape[1:], resize, blur_std)
    height, width = given.measurement.shape[-2:]
    options |= {"measurement": given.measurement, "operator": given.operator, "noise_std": noise_std}
    yield from watch(pipe, {**options, **TRAINED_NETWORK, "height": height, "width": width}, run.seed, given.place)


def interpolate(models: Models, model: str, first: Any, second: Any, count: int = 9) -> list[Image.Image]:
    """Enlarged images between two pictures, along an arc between their latent codes."""
    pipe = ScoreSdeLikelihoodPipeline.from_pipe(models[model])
    pipe.set_progress_bar_config(disable=True)
    pair = [_fitted(pipe, image, name) for image, name in ((first, "first picture"), (second, "second picture"))]
    return [enlarged(image) for image in pipe.interpolate(*pair, int(count), LIKELIHOOD_TOLERANCE).images]


def bits_per_dim(models: Models, model: str, image: Any, seed: int = 0) -> str:
    """Bits/dim of a picture with their standard error, as a sentence."""
    pipe = ScoreSdeLikelihoodPipeline.from_pipe(models[model])
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(int(seed))
    output: Any = pipe(_fitted(pipe, image, "image"), tolerance=LIKELIHOOD_TOLERANCE, generator=generator)
    bits, error, nfe = (float(value) for value in (output.bits_per_dim, output.standard_error, output.nfe))
    return f"{bits:.3f} +- {error:.3f} bits/dim ({nfe:.0f} network calls, {time.perf_counter() - start:.1f} s)"


def _given(image: Any, name: str, largest: int = LARGEST) -> Image.Image:
    """An uploaded picture, with sides of at most `largest` pixels."""
    if not isinstance(image, Image.Image):
        raise ValueError(f"{name} must be given: upload a picture first")
    image = to_8_bit(image, 1 if is_gray(image) else 3, name=name)
    return image if max(image.size) <= largest else ImageOps.contain(image, (largest, largest))


def example(models: Models, model: str, seed: int = 0) -> Image.Image:
    """An image of a model in 20 network calls, to be restored or measured."""
    pipe = ScoreSdePipeline.from_pipe(models[model])
    pipe.set_progress_bar_config(disable=True)
    image: Image.Image = pipe(quality="draft", generator=torch.Generator().manual_seed(int(seed))).images[0]
    return image


def _fitted(pipe: SDEPipelineBase, image: Any, name: str) -> Tensor:
    """An uploaded picture in the size of the model's images, its middle cut out: (1, C, H, W) in [0, 1]."""
    channels, height, width = pipe.sample_shape
    return fit_images(images_to_tensor(_given(image, name), channels, name=name), (height, width), "crop")


__all__ = [
    "Models",
    "Progress",
    "Run",
    "bits_per_dim",
    "colorize",
    "example",
    "generate",
    "inpaint",
    "interpolate",
    "restore",
    "upscale",
]
