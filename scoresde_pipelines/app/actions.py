"""What the page does, without its layout: from pictures and options to pictures, while the sampling goes on."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..evaluation_models import find_models
from ..image_fit import fit_images
from ..image_inputs import images_to_tensor
from ..pipeline_base import SDEPipelineBase
from ..pipeline_class_conditional import ScoreSdeClassConditionalPipeline
from ..pipeline_colorization import ScoreSdeColorizationPipeline
from ..pipeline_inpaint import ScoreSdeInpaintPipeline
from ..pipeline_likelihood import ScoreSdeLikelihoodPipeline
from ..pipeline_score_sde import ScoreSdePipeline
from ..pipeline_super_resolution import ScoreSdeSuperResolutionPipeline
from ..samplers import SAMPLERS, with_sampler
from ..schedulers.checks import check_choice
from ..training.sampling import image_grid
from ..viz.grids import to_bytes
from ..viz.trajectories import preview


SHOWN = 384  # pixels: small images are enlarged to about this width, each pixel a square
LARGEST = 1024  # pixels of a side: larger uploads are reduced
NO_CLASS = "any"
LIKELIHOOD_TOLERANCE = 1e-3  # moves bits/dim by less than their standard error (docs/likelihood.md)
INTERVAL = 0.1  # seconds between two pictures of a sampling run


@dataclass(frozen=True)
class Progress:
    """What is seen of a sampling run.

    Args:
        picture: the images so far, in a grid.
        count: steps made so far; of the final images, the network calls that each took.
        seconds: since the start.
        done: whether these are the final images.
    """

    picture: Image.Image
    count: int
    seconds: float
    done: bool = False

    def __str__(self) -> str:
        return f"{self.count} network calls, {self.seconds:.1f} s" if self.done else f"step {self.count} ..."


class Stopped(Exception):
    """Ends a sampling run that nobody watches any more."""


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
            raise ValueError(f"model must be one of {sorted(self.sources)}, got {name!r}")
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
) -> Iterator[Progress]:
    """Draws `count` images of a class; the last item holds the final images.

    Raises:
        ValueError, TypeError: for an argument out of its range, before any work.
    """
    check_choice("sampler", sampler, SAMPLERS)
    source = models[model]
    scheduler, chosen = with_sampler(source.scheduler, sampler, SAMPLERS[sampler])
    options: dict[str, Any] = {"num_inference_steps": int(steps), **chosen}
    pipe: SDEPipelineBase
    if label == NO_CLASS:
        pipe, options["batch_size"] = ScoreSdePipeline.from_pipe(source, scheduler=scheduler), int(count)
    else:
        pipe = ScoreSdeClassConditionalPipeline.from_pipe(source, scheduler=scheduler)
        options |= {"class_labels": [label] * int(count), "guidance_scale": float(guidance_scale)}
    yield from watch(pipe, options, seed)


def inpaint(
    models: Models, model: str, image: Any, mask: Any, steps: int = 50, count: int = 4, seed: int = 0
) -> Iterator[Progress]:
    """Draws what is under the white of `mask` (an image of the size of `image`)."""
    pipe = ScoreSdeInpaintPipeline.from_pipe(models[model])
    image, mask = _given(image, "image"), _given(mask, "mask")
    if not mask.convert("L").point(lambda value: 255 * (value > 127)).getbbox():
        raise ValueError("mask must have white pixels where to paint, got none: draw on the picture first")
    options = {"image": image, "mask_image": mask, "resize": "pad"}  # so that all that was painted is drawn
    yield from watch(pipe, {**options, "num_inference_steps": int(steps), "num_samples": int(count)}, seed)


def colorize(
    models: Models, model: str, image: Any, steps: int = 50, count: int = 4, seed: int = 0
) -> Iterator[Progress]:
    """Draws the colours of a picture, of which only the gray values are used."""
    pipe = ScoreSdeColorizationPipeline.from_pipe(models[model])
    if pipe.sample_shape[0] != 3:
        raise ValueError(f"model must be one of colour images, got {model!r} with {pipe.sample_shape[0]} channel")
    options = {"image": _given(image, "image").convert("L"), "resize": "crop"}
    yield from watch(pipe, {**options, "num_inference_steps": int(steps), "num_samples": int(count)}, seed)


def upscale(
    models: Models, model: str, image: Any, scale: int = 4, steps: int = 50, count: int = 4, seed: int = 0
) -> Iterator[Progress]:
    """Draws images whose means over `scale` x `scale` pixels are those of the picture."""
    pipe = ScoreSdeSuperResolutionPipeline.from_pipe(models[model])
    options = {"image": _given(image, "image"), "scale": int(scale), "resize": "crop"}
    yield from watch(pipe, {**options, "num_inference_steps": int(steps), "num_samples": int(count)}, seed)


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


def watch(pipe: Any, options: dict[str, Any], seed: int) -> Iterator[Progress]:
    """Runs a pipeline in a thread of its own and yields what is there every tenth of a second, at the end its images.

    Where the caller stops iterating, the run ends at its next step.
    """
    pipe.set_progress_bar_config(disable=True)
    news: queue.Queue[Progress | BaseException] = queue.Queue()
    stop, start, last = threading.Event(), time.perf_counter(), [0.0]

    def on_step(running: SDEPipelineBase, i: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if stop.is_set():
            raise Stopped
        now = time.perf_counter()
        if now - last[0] > INTERVAL:
            last[0] = now
            news.put(Progress(grid(preview(running, timestep, tensors["latents"])), i + 1, now - start))
        return {}

    def run() -> None:
        try:
            generator = torch.Generator().manual_seed(int(seed))
            output: Any = pipe(**options, generator=generator, output_type="pt", callback_on_step_end=on_step)
            calls = round(float(torch.as_tensor(output.nfe, dtype=torch.float64).mean()))
            news.put(Progress(grid(output.images), calls, time.perf_counter() - start, done=True))
        except BaseException as error:
            news.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            item = news.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if item.done:
                return
    finally:
        stop.set()


def grid(images: Tensor) -> Image.Image:
    """Images in [0, 1], (B, C, H, W), as one enlarged picture."""
    return enlarged(image_grid(to_bytes(images), scale=1))


def enlarged(image: Image.Image) -> Image.Image:
    """A picture with each pixel as a square, about `SHOWN` wide."""
    factor = max(1, round(SHOWN / image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _given(image: Any, name: str) -> Image.Image:
    """An uploaded picture, with sides of at most `LARGEST` pixels."""
    if not isinstance(image, Image.Image):
        raise ValueError(f"{name} must be given: upload a picture first")
    return image if max(image.size) <= LARGEST else ImageOps.contain(image, (LARGEST, LARGEST))


def _fitted(pipe: SDEPipelineBase, image: Any, name: str) -> Tensor:
    """An uploaded picture in the size of the model's images, its middle cut out: (1, C, H, W) in [0, 1]."""
    channels, height, width = pipe.sample_shape
    return fit_images(images_to_tensor(_given(image, name), channels, name=name), (height, width), "crop")


__all__ = ["Models", "Progress", "bits_per_dim", "colorize", "generate", "inpaint", "interpolate", "upscale"]
