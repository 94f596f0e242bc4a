"""Sampling as it goes on: the noisy state and the denoised image at each network call."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..call_options import CallOptions
from ..generation import GeneratingPipeline
from ..pipeline_base import SDEPipelineBase
from ..pipeline_class_conditional import ScoreSdeClassConditionalPipeline
from ..pipeline_score_sde import ScoreSdePipeline
from ..schedulers import SDEScheduler, sampling_loop
from ..schedulers.checks import check_function, check_instance, check_integer, check_state, check_values
from ..schedulers.score_function import ScoreFunction
from ..schedulers.sde import expand_to
from ..training.sampling import image_grid
from ..weak_guidance import check_weak_classes
from .grids import save_gif, to_bytes


@dataclass(frozen=True)
class Trajectory:
    """A sampling run of K network calls.

    Args:
        times: of the calls, (K,), float64.
        states: where the network was called, (K, B, *D).
        denoised: E[x_0 | x_t] at these states by the network's score, (K, B, *D).
        result: the clean images, (B, *D).
    """

    times: Tensor
    states: Tensor
    denoised: Tensor
    result: Tensor


def record_trajectory(
    scheduler: SDEScheduler, score_fn: ScoreFunction, x: Tensor, generator: Any = None
) -> Trajectory:
    """`sampling_loop`, which keeps what it computes on the CPU.

    Args:
        scheduler: after `set_timesteps`.
        score_fn: `(x, t) -> score`: `scheduler.score_fn(network)`, a condition, or a function of your own.
        x: the start, (B, *D): unit noise times `scheduler.init_noise_sigma`.
        generator: source of every random draw.
    """
    check_function("score_fn", score_fn, 2)
    check_values("x", check_state("x", x, 1))
    times, states, denoised = [], [], []

    def recorded(x: Tensor, t: Tensor) -> Tensor:
        score = score_fn(x, t)
        times.append(t.double().cpu())
        states.append(x.cpu())
        denoised.append(scheduler.sde.denoise(x, score, t).cpu())
        return score

    result = sampling_loop(scheduler, recorded, x, generator).cpu()
    return Trajectory(torch.stack(times), torch.stack(states), torch.stack(denoised), result)


def sample_trajectory(
    pipe: SDEPipelineBase,
    batch_size: int = 4,
    num_inference_steps: int = 50,
    class_labels: Any = None,
    guidance_scale: float = 1.0,
    generator: Any = None,
    max_frames: int = 40,
    scale: int = 3,
    weak_unet: Any = None,
    weak_guidance_scale: float | None = None,
    weak_guidance_interval: tuple[float, float] | None = None,
) -> list[Image.Image]:
    """Frames of a generation: the noisy states above, the denoised images below.

    Args:
        pipe: a pipeline of images, for example a `ScoreSdePipeline`.
        batch_size: number of images; not used with `class_labels`.
        num_inference_steps: number of noise levels.
        class_labels: classes by number or name, one image each; without them the images are of no class.
        guidance_scale: as in `ScoreSdeClassConditionalPipeline`.
        generator: as in the pipelines. The last frame shows the images that the pipeline makes from the same generator.
        max_frames: most frames; calls are left out evenly.
        scale: side in pixels of each pixel.
        weak_unet, weak_guidance_scale, weak_guidance_interval: autoguidance, as in `ScoreSdePipeline`.

    Raises:
        TypeError, ValueError: for an argument out of its range, or images that are not finite.
    """
    check_instance("pipe", pipe, GeneratingPipeline)
    check_integer("max_frames", max_frames)
    check_integer("scale", scale)
    weak = pipe.check_weak(weak_unet, weak_guidance_scale, weak_guidance_interval)
    if class_labels is not None:
        pipe = ScoreSdeClassConditionalPipeline.from_pipe(pipe)
        labels = pipe.check_labels(class_labels, guidance_scale)
        if pipe.classifier is None:
            check_weak_classes(weak, pipe.unet)
        batch_size = len(labels)
        score_fn = pipe.guided_score_fn(labels.to(pipe.device), guidance_scale, weak=weak)
    else:
        pipe = ScoreSdePipeline.from_pipe(pipe)
        score_fn = pipe.guided_score_fn(weak)
    pipe.check_inputs(batch_size, num_inference_steps, CallOptions(generator=generator, output_type="pt"))
    with pipe.running(weak):
        x = pipe.prepare_latents(batch_size, generator, None)
        trajectory = record_trajectory(pipe.plan(num_inference_steps), score_fn, x, generator)
    pipe.check_images(trajectory.result, "pt", weak)
    shown = torch.linspace(0, len(trajectory.times) - 1, min(max_frames, len(trajectory.times))).round().long()
    frames = [
        (at_data_scale(pipe, trajectory.times[k], trajectory.states[k]), pipe.to_unit_range(trajectory.denoised[k]))
        for k in shown.tolist()
    ]
    # The last frame: the images, in both places.
    frames.append((pipe.to_unit_range(trajectory.result),) * 2)
    return [image_grid(to_bytes(torch.cat(rows)), batch_size, scale) for rows in frames]


class TrajectoryRecorder:
    """Keeps the noisy states of a run of any pipeline as pictures; given to it as `callback_on_step_end`.

    Args:
        every: a picture after each so many steps, and after the last one.
        scale: side in pixels of each pixel.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdePipeline
    >>> from scoresde_pipelines.viz import TrajectoryRecorder
    >>> pipe = ScoreSdePipeline.from_pretrained("fashion-mnist-32-vp")
    >>> recorder = TrajectoryRecorder(every=2)
    >>> output = pipe(batch_size=4, num_inference_steps=10, callback_on_step_end=recorder)
    >>> len(recorder.frames)
    5
    ```
    """

    def __init__(self, every: int = 1, scale: int = 3):
        self.every, self.scale = check_integer("every", every), check_integer("scale", scale)
        self.frames: list[Image.Image] = []

    def __call__(self, pipe: SDEPipelineBase, i: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict:
        """Keeps a picture of `tensors["latents"]`, (B, C, H, W), and changes nothing."""
        last = i + 1 == pipe.num_timesteps
        if last:
            self.frames.append(self._picture(pipe.to_unit_range(tensors["latents"])))
        elif (i + 1) % self.every == 0:
            self.frames.append(self._picture(preview(pipe, timestep, tensors["latents"])))
        return {}

    def save(self, path: str | Path, milliseconds: int = 80) -> None:
        """Writes the pictures as a GIF; ValueError before any step."""
        save_gif(self.frames, path, milliseconds)

    def _picture(self, images: Tensor) -> Image.Image:
        return image_grid(to_bytes(images), scale=self.scale)


def preview(pipe: SDEPipelineBase, timestep: Tensor, x: Tensor) -> Tensor:
    """`at_data_scale` of the state (B, C, H, W) at a network's timestep."""
    parameterization, sde = pipe.scheduler.parameterization, pipe.scheduler.sde
    return at_data_scale(pipe, parameterization.t_from_network_time(sde, timestep), x)


def at_data_scale(pipe: SDEPipelineBase, t: Tensor, x: Tensor) -> Tensor:
    """A noisy state as images in [0, 1]: x / alpha, shrunk around the middle of the range to the data's spread."""
    alpha, ratio = pipe.scheduler.sde.alpha(t), pipe.scheduler.sde.noise_ratio(t)
    middle = 0.5 * (pipe.config.data_min + pipe.config.data_max)
    spread = pipe.data_std / (pipe.data_std**2 + ratio**2).sqrt()
    return pipe.to_unit_range(middle + expand_to(spread, x) * (x / expand_to(alpha, x) - middle))


__all__ = ["Trajectory", "TrajectoryRecorder", "record_trajectory", "sample_trajectory"]
