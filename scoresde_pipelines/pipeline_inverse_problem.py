"""Restoration: samples of the image given a linear measurement of it."""

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .pipeline_base import Generator, Network, SDEPipelineBase, StepCallback
from .pipeline_output import ScoreSdePipelineOutput
from .schedulers import (
    ExponentialMultistep,
    LinearOperator,
    LinearPosterior,
    Replacement,
    ScoreFunction,
    SDEScheduler,
    TwistedSMC,
    ancestral,
    check_operator,
    check_range,
    matched_prior,
)
from .schedulers.checks import check_choice, check_finite, check_integer, check_number


DEFAULT_STEPS = {
    "moment_matching": 17,
    "pseudo_inverse": 50,
    "replacement": 1000,
    "twisted_smc": 200,
}  # with the default sampler
DEFAULT_STOCHASTIC_STEPS = 100
SAMPLERS = ("ode", "scheduler")
FINEST_RATIO = 0.01
# At steps this large a fourth order would amplify what the linear solver leaves where the measurement is precise.
ODE_ORDER = 3


def posterior_scheduler(scheduler: SDEScheduler, data_std: float) -> SDEScheduler:
    """A copy of `scheduler` that solves the probability-flow ODE: third order, on a log-SNR grid.

    The grid ends where sigma / alpha is a hundredth of `data_std`, or earlier where the scheduler's own ends earlier.
    """
    solver = copy.copy(scheduler)
    finest = float(
        solver.sde.t_from_log_snr(torch.tensor(-2 * math.log(FINEST_RATIO * data_std), dtype=torch.float64))
    )
    end = max(finest, scheduler.smallest_time)
    solver.register_to_config(timestep_spacing="log_snr", sampling_eps=end, prologue=False)
    solver.predictor, solver.corrector = ExponentialMultistep(ODE_ORDER), None
    return solver


@dataclass(frozen=True)
class Walk:
    """How to sample: what `LinearInversePipeline` needs to know beside the problem itself."""

    method: str
    num_inference_steps: int | None
    sampler: str | None
    solver_tolerance: float
    solver_iterations: int
    generator: Generator
    latents: Tensor | None
    callback: StepCallback | None
    callback_tensors: list[str]
    num_samples: int = 1

    def __post_init__(self) -> None:
        check_choice("method", self.method, DEFAULT_STEPS)

    @property
    def steps(self) -> int:
        """Number of noise levels."""
        if self.num_inference_steps is not None:
            return self.num_inference_steps
        stochastic = not self.ode and self.method not in ("replacement", "twisted_smc")
        return DEFAULT_STOCHASTIC_STEPS if stochastic else DEFAULT_STEPS[self.method]

    @property
    def ode(self) -> bool:
        """Whether to solve the probability-flow ODE instead of following the pipeline's scheduler."""
        if self.method == "twisted_smc":
            return False
        return (self.sampler or ("scheduler" if self.method == "replacement" else "ode")) == "ode"


class LinearInversePipeline(SDEPipelineBase):
    """What inpainting, colorization and general inverse problems share: from y = A x + noise to samples of p(x | y).

    Args:
        unet, scheduler, data_min, data_max: as in `ScoreSdePipeline`: an unconditional model of the images.
    """

    @property
    def data_std(self) -> float:
        """The scale of the data: half their range."""
        return 0.5 * (self.config.data_max - self.config.data_min)

    def check_walk(self, walk: Walk, batch_size: int, output_type: str) -> None:
        """Raises ValueError, naming the argument, before any work is done."""
        check_choice("sampler", walk.sampler, SAMPLERS, optional=True)
        check_number("solver_tolerance", walk.solver_tolerance, 0, 1, ends="[)")
        check_integer("solver_iterations", walk.solver_iterations)
        self.check_inputs(batch_size, walk.steps, walk.generator, walk.latents, output_type, walk.callback_tensors)

    def restore(
        self, measurement: Tensor, operator: LinearOperator, noise_std: float, walk: Walk
    ) -> tuple[Tensor, int]:
        """Draws one image for each measurement y = A x + noise.

        Args:
            measurement: (B, *M), in the units of the data range, as is `noise_std`.

        Returns:
            The images in the data range, (B, channels, height, width), and the number of network evaluations.
        """
        if walk.method == "twisted_smc":
            return self.walk_populations(measurement, operator, noise_std, walk)
        scheduler = posterior_scheduler(self.scheduler, self.data_std) if walk.ode else self.scheduler
        scheduler.set_timesteps(walk.steps, device=self._execution_device)
        x = self.prepare_latents(len(measurement), walk.generator, walk.latents, scheduler)

        def draw(like: Tensor) -> Tensor:
            return randn_tensor(like.shape, generator=walk.generator, device=like.device, dtype=like.dtype)

        known = Replacement(scheduler.sde, operator, measurement, draw)
        settings: dict[str, Any] = {
            "generator": walk.generator,
            "scheduler": scheduler,
            "callback": walk.callback,
            "callback_tensors": walk.callback_tensors,
        }
        if walk.method == "replacement":
            return self.run_sampler(x, constrain=known, **settings), len(scheduler.timesteps)
        posterior = LinearPosterior(
            scheduler.sde,
            operator,
            measurement,
            noise_std,
            walk.method,
            data_std=self.data_std,
            tolerance=walk.solver_tolerance,
            max_iterations=walk.solver_iterations,
        )
        score_fn = scheduler.score_fn(self.network)
        if not scheduler.config.prologue:
            x = matched_prior(posterior, score_fn, scheduler.sde, x, scheduler.levels[0])
        x = self.run_sampler(x, network=conditioned_network(partial(posterior, score_fn), scheduler), **settings)
        x = posterior.settle(x) if noise_std else known(x, torch.zeros(()))
        return x, posterior.evaluations

    def walk_populations(
        self, measurement: Tensor, operator: LinearOperator, noise_std: float, walk: Walk
    ) -> tuple[Tensor, int]:
        """`restore` by twisted SMC: the samples of one measurement are one population."""
        scheduler = posterior_scheduler(self.scheduler, self.data_std)
        scheduler.register_to_config(sampling_eps=self.scheduler.smallest_time)
        scheduler.predictor = ancestral
        scheduler.set_timesteps(walk.steps, device=self._execution_device)
        x = self.prepare_latents(len(measurement), walk.generator, walk.latents, scheduler)
        populations = len(measurement) // walk.num_samples
        first = walk.generator[:: walk.num_samples] if isinstance(walk.generator, list) else [walk.generator]

        def uniform() -> Tensor:
            each = populations // len(first)
            draws = (torch.rand(each, generator=g, device=g.device if g else "cpu") for g in first)
            return torch.cat([draw.cpu() for draw in draws])

        walkers = TwistedSMC(
            scheduler.sde,
            scheduler.score_fn(self.network),
            ancestral,
            operator,
            measurement,
            noise_std,
            walk.num_samples,
            self.data_std,
            uniform,
        )
        x = self.run_sampler(
            x,
            generator=walk.generator,
            network=conditioned_network(walkers.score, scheduler),
            scheduler=scheduler,
            constrain=walkers,
            callback=walk.callback,
            callback_tensors=walk.callback_tensors,
        )
        if noise_std == 0:
            x = Replacement(scheduler.sde, operator, measurement)(x, torch.zeros(()))
        return x, walkers.evaluations


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

    @torch.no_grad()
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
        solver_iterations: int = 7,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - diffusers' convention
    ) -> ScoreSdePipelineOutput | tuple:
        """Restores images.

        Args:
            measurement (`torch.Tensor`): y of B images, `operator.A` of images (B, channels, height, width) with values
                in [0, 1], plus noise. Whatever the range that the network was trained on is accounted for.
            operator (`LinearOperator`): A; see `scoresde_pipelines.schedulers.operators`. A class of your own needs
                the two methods `A` and `At`.
            noise_std (`float`): standard deviation of the measurement's noise, in the units of `measurement`.
            method (`str`): "moment_matching" (exact for Gaussian data), "pseudo_inverse" (cheaper: two evaluations a
                step), "replacement" (the paper's; takes the measurement as exact, and is biased) or "twisted_smc" (exact
                for any data in the limit of many samples, which are one population per measurement; two evaluations a
                step).
            num_inference_steps (`int`, *optional*): number of noise levels; by default 17, 50, 1000 or 200, by the method,
                and 100 for the first two with sampler "scheduler".
            num_samples (`int`): samples per measurement; image `k` of measurement `b` is number `b * num_samples + k`.
            generator (`torch.Generator` or a list of B * num_samples): source of all randomness.
            latents (`torch.Tensor`, *optional*): unit noise (B * num_samples, channels, height, width) to start from.
            output_type (`str`): "pil", "np", "pt", or "latent" for the raw state in the data range.
            return_dict (`bool`): whether to return a `ScoreSdePipelineOutput` or a tuple of its fields.
            sampler (`str`, *optional*): "ode" solves the probability-flow ODE to third order, which is exact where the
                score is and needs few steps: the default of the first two methods. "scheduler" samples with
                the scheduler's own predictor and corrector; their noise corrects the errors of a trained network, so
                choose it for images, with `solver_iterations=1`.
            solver_tolerance (`float`), solver_iterations (`int`): of the linear system that moment matching solves at
                each step; an iteration costs one vector-Jacobian product through the network.
            callback_on_step_end (`Callable`, *optional*): called as `callback(pipe, i, timestep, {"latents": ...})`
                after each step; may return a dict with new `latents`.

        Returns:
            `images` and `nfe`: forward passes plus vector-Jacobian products through the network, each counted as one.

        Raises:
            TypeError, ValueError: for an argument out of its range, a measurement that does not fit the operator or that
                no image in [0, 1] has, or an `At` that is not the adjoint of `A`, before any sampling.
        """
        check_integer("num_samples", num_samples)
        walk = Walk(
            method,
            num_inference_steps,
            sampler,
            solver_tolerance,
            solver_iterations,
            generator,
            latents,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            num_samples,
        )
        self.check_problem(measurement, operator, noise_std)
        self.check_walk(walk, len(measurement) * num_samples, output_type)
        low, high = self.config.data_min, self.config.data_max
        y = measurement.to(self._execution_device, torch.float32)
        black = torch.full((len(y), *self.sample_shape), low, device=y.device)
        y = ((high - low) * y + operator.A(black)).repeat_interleave(num_samples, dim=0)
        x, nfe = self.restore(y, operator, float(noise_std) * (high - low), walk)
        self.maybe_free_model_hooks()
        output = ScoreSdePipelineOutput(self.to_images(x, output_type), nfe=nfe)
        return output if return_dict else (output.images, output.nfe)

    def check_problem(self, measurement: Any, operator: Any, noise_std: float) -> None:
        """Raises TypeError or ValueError unless this is a linear problem for images of this network."""
        if not isinstance(operator, LinearOperator):
            raise TypeError(f"operator must be a LinearOperator, got {type(operator).__name__}")
        check_finite("measurement", measurement)
        if measurement.ndim < 2 or measurement.numel() == 0:
            raise ValueError(
                f"measurement must hold at least one measurement (B, ...), got shape {tuple(measurement.shape)}"
            )
        check_number("noise_std", noise_std, 0)
        check_operator(operator, self.sample_shape, measurement)
        check_range(operator, self.sample_shape, measurement, noise_std)


def conditioned_network(score_fn: ScoreFunction, scheduler: SDEScheduler) -> Network:
    """A network whose score is `score_fn`, for `run_sampler` with this scheduler."""

    def network(x: Tensor, timestep: Tensor) -> Tensor:
        t = scheduler.state_time
        return scheduler.parameterization.output(scheduler.sde, score_fn(x, t), x, t)

    return network
