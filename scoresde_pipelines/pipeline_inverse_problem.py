"""Samples of an image given any linear measurement of it."""

from typing import Any

from torch import Tensor

from .pipeline_base import Generator, StepCallback
from .pipeline_output import ScoreSdePipelineOutput
from .restoration import LinearInversePipeline, RestorationOptions
from .schedulers import LinearOperator, check_operator, check_range
from .schedulers.checks import check_number


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
        measurement: Tensor,
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
    ) -> ScoreSdePipelineOutput | tuple:
        """Restores images.

        Args:
            measurement (`torch.Tensor`): y of B images, `operator.A` of images (B, channels, height, width) with values
                in [0, 1], plus noise, for networks trained on any range.
            operator (`LinearOperator`): A; see `scoresde_pipelines.schedulers.operators`. A class of your own needs
                the two methods `A` and `At`.
            noise_std (`float`): standard deviation of the measurement's noise, in the units of `measurement`.
            method (`str`): "moment_matching" (exact for Gaussian data), "pseudo_inverse" (cheaper: two evaluations a
                step), "replacement" (the paper's; takes the measurement as exact, and is biased) or "twisted_smc" (exact
                for any data in the limit of many samples, which are one population per measurement; two evaluations a
                step).
            num_inference_steps (`int`, *optional*): number of noise levels; by default 17, 50, 1000 or 200, by the method;
                with sampler "scheduler" and one of the first two 35, or 100 of a sampler that the scheduler names.
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

        Returns:
            `images` and `nfe`: forward passes plus vector-Jacobian products through the network, each counted as one.

        Raises:
            TypeError, ValueError: for an argument out of its range, a measurement that does not fit the operator or that
                no image in [0, 1] has, or an `At` that is not the adjoint of `A`, before any sampling.
        """
        options = RestorationOptions.of(locals())
        self.check_problem(measurement, operator, noise_std)
        return self.solve(measurement, operator, noise_std, options)

    def check_problem(self, measurement: Any, operator: Any, noise_std: float) -> None:
        """Raises TypeError or ValueError unless this is a linear problem for images of this network."""
        check_number("noise_std", noise_std, 0)
        try:
            check_operator(operator, self.sample_shape, measurement)
        except NotImplementedError as error:
            raise TypeError(f"operator must implement A and At, got {type(operator).__name__}: {error}") from error
        unbounded = bool(getattr(self.unet.config, "unbounded", False))
        check_range(operator, self.sample_shape, measurement, noise_std, slack=10.0 if unbounded else 0.1)
