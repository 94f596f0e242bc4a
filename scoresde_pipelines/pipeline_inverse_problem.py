"""Samples of an image given any linear measurement of it."""

from typing import Any

import torch
from torch import Tensor

from .call_options import StepCallback
from .image_inputs import images_to_tensor
from .pipeline_output import ScoreSdePipelineOutput
from .restoration import LinearInversePipeline, LinearProblem
from .restoration_options import RestorationOptions
from .schedulers import LinearOperator, check_operator, check_range
from .schedulers.checks import Generator, check_instance, check_number
from .schedulers.linear_operator import apply


class ScoreSdeInverseProblemPipeline(LinearInversePipeline):
    """Samples of an image given any linear measurement y = A x + noise of it.

    Args:
        unet, scheduler, data_min, data_max: as in `ScoreSdePipeline`: an unconditional model of the images.

    Example: four times super-resolution.

    ```python
    >>> from scoresde_pipelines import ScoreSdeInverseProblemPipeline, shipped
    >>> from scoresde_pipelines.schedulers import AveragePoolOperator
    >>> pipe = ScoreSdeInverseProblemPipeline.from_pretrained(shipped("emoji-32-ve"))
    >>> images = pipe(small, AveragePoolOperator(4), noise_std=0.01, num_samples=4).images
    ```
    """

    def __call__(
        self,
        measurement: Any,
        operator: LinearOperator,
        noise_std: float = 0.0,
        method: str = "moment_matching",
        num_inference_steps: int | None = None,
        num_samples: int = 1,
        generator: Generator = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        sampler: str | None = None,
        solver_tolerance: float = 0.003,
        solver_iterations: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' convention
        quality: str | None = None,
        height: int | None = None,
        width: int | None = None,
        tile_size: int | tuple[int, int] | None = None,
        tile_overlap: int | None = None,
        tile_batch_size: int = 16,
    ) -> ScoreSdePipelineOutput | tuple:
        """Restores images.

        Args:
            measurement (`torch.Tensor`): y of B images, `operator.A` of images (B, channels, height, width) with values
                in [0, 1], plus noise, for networks trained on any range. Where it has the form of images (a blurred
                picture), PIL images and arrays as well.
            operator (`LinearOperator`): A; see `scoresde_pipelines.schedulers.linear_operator`. A class of your own needs
                the two methods `A` and `At`.
            noise_std (`float`): standard deviation of the measurement's noise, in the units of `measurement`.
            method (`str`): "moment_matching" (exact for Gaussian data), "pseudo_inverse" (cheaper: two evaluations a
                step), "replacement" (the paper's; takes the measurement as exact, and is biased) or "twisted_smc" (exact
                for any data in the limit of many samples, which are one population per measurement; two evaluations a
                step).
            num_inference_steps (`int`, *optional*): number of noise levels; by default 17, 50, 1000 or 200, by the method;
                with sampler "scheduler" and one of the first two 35, or 100 of a sampler that the scheduler names.
                Alone, with sampler "scheduler", it is of the scheduler's own predictor: name `quality` too for restarts.
            num_samples (`int`): samples per measurement; image `k` of measurement `b` is number `b * num_samples + k`.
            generator (`torch.Generator` or a list of B * num_samples): source of all randomness.
            latents (`torch.Tensor`, *optional*): unit noise (B * num_samples, channels, height, width) to start from.
            output_type (`str`): "pil", "np", "pt", or "latent" for the raw state in the data range.
            return_dict (`bool`): whether to return a `ScoreSdePipelineOutput` or a tuple of its fields.
            sampler (`str`, *optional*): "ode" solves the probability-flow ODE to third order, which needs few steps and
                is accurate where the score is: the default of the first two methods. "scheduler" samples with
                the scheduler's own predictor and corrector, or by restarts where its configuration names none; their
                noise corrects the errors of a trained network, so choose it for images.
            solver_tolerance (`float`), solver_iterations (`int`, *optional*): of the linear system that moment matching
                solves at each step; an iteration costs one vector-Jacobian product through the network. By default at
                most 7 with the ODE, 2 otherwise.
            callback_on_step_end (`Callable`, *optional*): called as `callback(pipe, i, timestep, {"latents": ...})`
                after each step; may return a dict with new `latents`.
            quality (`str`, *optional*): "draft" (restarts, about 24 evaluations), "default" (about 105) or "paper" (method
                "replacement" with the paper's predictor-corrector sampler, 1000 levels of two calls). It chooses sampler
                "scheduler" unless `sampler` is given; `num_inference_steps` wins over its number.
            height, width (`int`, *optional*): size of the images, by default that of the network.
            tile_size (`int` or `(height, width)`, *optional*): sample images larger than the network's size on overlapping
                tiles of this size, jointly (see `TiledScore`); an evaluation of all tiles counts as one in `nfe`.
            tile_overlap (`int`, *optional*): by how many pixels tiles overlap at least, by default half a tile.
            tile_batch_size (`int`): number of tiles that the network is called with at a time.

        Returns:
            `images` and `nfe`: forward passes plus vector-Jacobian products through the network, each counted as one.

        Raises:
            TypeError, ValueError: for an argument out of its range, a measurement that does not fit the operator or that
                no image in [0, 1] has, or an `At` that is not the adjoint of `A`, before any sampling.
        """
        options = RestorationOptions.of(locals())
        shape = self.shape_at(height, width, options.tile_size, options.tile_overlap)
        if not isinstance(measurement, Tensor):
            measurement = self.read_measurement(measurement, operator, shape)
        self.check_problem(measurement, operator, noise_std, shape)
        return self.solve(LinearProblem(measurement, operator, noise_std, shape), options)

    def read_measurement(self, images: Any, operator: Any, shape: tuple[int, int, int]) -> Tensor:
        """A measurement (B, C, H, W) given as PIL images or arrays with values in [0, 1] or 8-bit ones.

        Raises:
            TypeError, ValueError: for what are no such images, and operators whose measurements are none.
        """
        check_instance("operator", operator, LinearOperator)
        like = apply(operator, "A", torch.zeros(1, *shape, device="cpu"))
        if like.ndim != 4:
            raise TypeError(f"measurement must be a tensor (B, {', '.join(map(str, like.shape[1:]))}), as A returns")
        return images_to_tensor(images, like.shape[1], (like.shape[2], like.shape[3]), "measurement")

    def check_problem(
        self, measurement: Any, operator: Any, noise_std: float, shape: tuple[int, int, int] | None = None
    ) -> None:
        """Raises TypeError or ValueError unless this is a linear problem for images of `shape`, by default the network's."""
        shape = shape or self.sample_shape
        check_number("noise_std", noise_std, 0)
        try:
            check_operator(operator, shape, measurement)
        except NotImplementedError as error:
            raise TypeError(f"operator must implement A and At, got {type(operator).__name__}: {error}") from error
        unbounded = bool(getattr(self.unet.config, "unbounded", False))
        check_range(operator, shape, measurement, noise_std, slack=10.0 if unbounded else 0.1)
