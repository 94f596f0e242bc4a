"""Unconditional generation."""

import torch
from torch import Tensor

from .call_options import StepCallback
from .generation import GeneratingPipeline, GenerationOptions
from .pipeline_output import ScoreSdePipelineOutput
from .schedulers.checks import Generator
from .schedulers.score_function import ScoreFunction
from .weak_guidance import WeakGuidance


class ScoreSdePipeline(GeneratingPipeline):
    """Unconditional generation with the samplers of "Score-Based Generative Modeling through SDEs" (Song et al. 2021).

    Args:
        unet: a network called as `unet(sample, timestep).sample`: `NCSNpp`, `DDPMpp`, any `UNet2DModel`.
        scheduler: a `VESDEScheduler`, `VPSDEScheduler` or `SubVPSDEScheduler`; a stock scheduler (DDPM, DDIM,
            ScoreSdeVe, ...) is converted by its configuration.
        data_min, data_max (`float`, *optional*): the values that black and white had in training; by default [0, 1]
            for the VE SDE and [-1, 1] for all others, as in the official models.
        id2label (`dict`, *optional*): names of the classes of a class-conditional network, which is sampled here without a
            class.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdePipeline, shipped
    >>> pipe = ScoreSdePipeline.from_pretrained(shipped("fashion-mnist-32-vp"))
    >>> image = pipe(num_inference_steps=50).images[0]
    ```
    """

    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int | None = None,
        generator: Generator = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        ode_tolerance: float | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' convention
        quality: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_restarts: int = 0,
        tile_size: int | tuple[int, int] | None = None,
        tile_overlap: int | None = None,
        tile_batch_size: int = 16,
        weak_unet: torch.nn.Module | None = None,
        weak_guidance_scale: float | None = None,
        weak_guidance_interval: tuple[float, float] | None = None,
    ) -> ScoreSdePipelineOutput | tuple:
        """Generates images.

        Args:
            batch_size (`int`): number of images.
            num_inference_steps (`int`, *optional*): number of noise levels; the network is called `scheduler.order` times at
                each. By default that of `quality`.
            generator (`torch.Generator` or a list of them): source of all randomness. With a list of `batch_size`
                generators each image depends on its own alone, whatever the batch it is in.
            latents (`torch.Tensor`, *optional*): unit noise (B, channels, height, width) to start from.
            output_type (`str`): "pil", "np", "pt", or "latent" for the raw state.
            return_dict (`bool`): whether to return a `ScoreSdePipelineOutput` or a tuple of its fields.
            ode_tolerance (`float`, *optional*): solve the probability-flow ODE adaptively to this error (1e-5 is the
                paper's) and denoise, instead of stepping through `num_inference_steps` levels with the scheduler's
                predictor and corrector. The noise is that of the start and of `num_restarts`, no callback is called, and
                `nfe` counts per image.
            callback_on_step_end (`Callable`, *optional*): called as `callback(pipe, i, timestep, {"latents": ...})`
                after each step; may return a dict with new `latents`.
            quality (`str`, *optional*): "draft" (20 network calls), "default" (100) or "paper" (the paper's sampler, 1000
                levels of two calls). Without it, `num_inference_steps` are levels of the scheduler as it is; with neither, a
                scheduler whose configuration names no sampler uses "default", and others their own.
            height, width (`int`, *optional*): size of the images, by default that of training; each divisible by
                2^(levels - 1) of the network, unless tiles cover it. Far from the size of training the images have its
                textures, not its shapes.
            num_restarts (`int`): with `ode_tolerance`, how often exact noise leads back to twice the standard deviation of
                the data, from where the ODE is solved again: sampling with noise to a tolerance, see `solve_with_restarts`.
            tile_size (`int` or `(height, width)`, *optional*): sample images larger than the network's size on overlapping
                tiles of this size, jointly (see `TiledScore`); an evaluation of all tiles counts as one in `nfe`.
            tile_overlap (`int`, *optional*): by how many pixels tiles overlap at least, by default half a tile.
            tile_batch_size (`int`): number of tiles that the network is called with at a time.
            weak_unet (`torch.nn.Module`, *optional*): a network for the same images that was trained less or is smaller, by
                which this one is guided (autoguidance, Karras et al. 2024, see `AutoGuidance`).
            weak_guidance_scale (`float`, *optional*): 0 samples the weak network, 1 is without guidance; 2 by default.
            weak_guidance_interval (`tuple`, *optional*): noise ratios sigma / alpha, (low, high), between which it acts.

        Returns:
            `images` and `nfe`: evaluations of the networks for each image.

        Raises:
            TypeError, ValueError: for an argument out of its range, before any work is done; or for images that are not
                finite.
        """
        options = GenerationOptions.of(locals())
        weak, shape = self.check_guidance(options)
        return self.generate(self.guided_score_fn(weak), batch_size, options, shape, weak)

    def guided_score_fn(self, weak: WeakGuidance | None = None) -> ScoreFunction:
        """The score, guided by the weak network where there is one; states (B, *D) and times () or (B,)."""
        if weak is None:
            return self.score_fn()
        return weak.guide(self.score_fn(), self.score_fn(weak_unet=weak.unet), self.scheduler.sde)
