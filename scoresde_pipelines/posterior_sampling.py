"""Samples of p(x | y) for a linear measurement y = A x + noise: what inpainting, colorization and the rest share."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .pipeline_base import Generator, SDEPipelineBase, StepCallback
from .schedulers import (
    ExponentialMultistep,
    LinearOperator,
    MomentMatching,
    Replacement,
    SDEScheduler,
    TwistedSMC,
    ancestral,
)
from .schedulers.checks import check_choice, check_integer, check_number


# Number of noise levels by method, with the default sampler; and with the scheduler's own, whose noise needs more.
DEFAULT_STEPS = {"moment_matching": 17, "pseudo_inverse": 50, "replacement": 1000, "twisted_smc": 200}
DEFAULT_STOCHASTIC_STEPS = 100
SAMPLERS = ("ode", "scheduler")
# The last noise level of the ODE, relative to half the range of the data.
FINEST_RATIO = 0.01
# At steps this large a fourth order would amplify what the linear solver leaves where the measurement is precise.
ODE_ORDER = 3


@dataclass(frozen=True, kw_only=True)
class PosteriorOptions:
    """How to sample; the arguments of the pipelines' calls that do not describe the problem."""

    method: str
    num_inference_steps: int | None
    num_samples: int
    sampler: str | None
    solver_tolerance: float
    solver_iterations: int
    generator: Generator
    latents: Tensor | None
    output_type: str
    callback: StepCallback | None = None
    callback_tensors: list[str] = field(default_factory=lambda: ["latents"])

    def __post_init__(self) -> None:
        check_choice("method", self.method, DEFAULT_STEPS)
        check_choice("sampler", self.sampler, SAMPLERS, optional=True)
        check_integer("num_samples", self.num_samples)
        check_number("solver_tolerance", self.solver_tolerance, 0, 1, ends="[)")
        check_integer("solver_iterations", self.solver_iterations)

    @property
    def steps(self) -> int:
        """Number of noise levels."""
        if self.num_inference_steps is not None:
            return self.num_inference_steps
        stochastic = not self.ode and self.method not in ("replacement", "twisted_smc")
        return DEFAULT_STOCHASTIC_STEPS if stochastic else DEFAULT_STEPS[self.method]

    @property
    def ode(self) -> bool:
        """Whether to solve the probability-flow ODE instead of sampling with the pipeline's scheduler."""
        if self.method == "twisted_smc":
            return False
        return (self.sampler or ("scheduler" if self.method == "replacement" else "ode")) == "ode"


class PosteriorPipeline(SDEPipelineBase):
    """A pipeline that draws images given a linear measurement of them.

    Args:
        unet, scheduler, data_min, data_max: as in `ScoreSdePipeline`: an unconditional model of the images.
    """

    @property
    def data_scale(self) -> float:
        """Half the range of the data."""
        return 0.5 * (self.config.data_max - self.config.data_min)

    def check_options(self, options: PosteriorOptions, count: int) -> None:
        """Raises ValueError or TypeError, naming the argument, before any work is done; `count` measurements."""
        self.check_inputs(
            count * options.num_samples,
            options.steps,
            options.generator,
            options.latents,
            options.output_type,
            options.callback_tensors,
        )

    def sample_posterior(
        self, measurement: Tensor, operator: LinearOperator, noise_std: float, options: PosteriorOptions
    ) -> tuple[Tensor, int]:
        """Draws one image for each measurement y = A x + noise.

        Args:
            measurement: (B, *M), in the units of the data range, as is `noise_std`.

        Returns:
            The images in the data range, (B, channels, height, width), and the number of network evaluations.
        """
        if options.method == "twisted_smc":
            return self._sample_populations(measurement, operator, noise_std, options)
        scheduler = ode_scheduler(self.scheduler, self.data_scale) if options.ode else self.scheduler
        x = self._start(scheduler, len(measurement), options)

        def draw(like: Tensor) -> Tensor:
            return randn_tensor(like.shape, generator=options.generator, device=like.device, dtype=like.dtype)

        known = Replacement(scheduler.sde, operator, measurement, draw)
        if options.method == "replacement":
            x = self._run(known(x, scheduler.times[0]), scheduler, options, constrain=known)
            return x, len(scheduler.timesteps)
        posterior = MomentMatching(
            scheduler.score_fn(self.network),
            scheduler.sde,
            operator,
            measurement,
            noise_std,
            options.method,
            data_std=self.data_scale,
            tolerance=options.solver_tolerance,
            max_iterations=options.solver_iterations,
        )
        if not scheduler.config.prologue:
            x = posterior.correct_start(x, scheduler.times[0])
        x = self._run(x, scheduler, options, score_fn=posterior)
        x = posterior.correct_final(x) if noise_std else known(x, torch.zeros(()))
        return x, posterior.evaluations

    def _sample_populations(
        self, measurement: Tensor, operator: LinearOperator, noise_std: float, options: PosteriorOptions
    ) -> tuple[Tensor, int]:
        """`sample_posterior` by twisted SMC: the samples of one measurement are one population."""
        scheduler = copy.copy(self.scheduler)
        scheduler.register_to_config(timestep_spacing="log_snr", prologue=False)
        scheduler.predictor, scheduler.corrector = ancestral, None
        x = self._start(scheduler, len(measurement), options)
        populations = len(measurement) // options.num_samples
        given = options.generator
        first = given[:: options.num_samples] if isinstance(given, list) else [given]

        def uniform() -> Tensor:
            each = populations // len(first)
            draws = (torch.rand(each, generator=g, device=g.device if g else "cpu") for g in first)
            return torch.cat([draw.cpu() for draw in draws])

        smc = TwistedSMC(
            scheduler.score_fn(self.network),
            scheduler.sde,
            operator,
            measurement,
            noise_std,
            ancestral,
            options.num_samples,
            self.data_scale,
            uniform,
        )
        x = self._run(smc.resample(x, scheduler.times[0]), scheduler, options, score_fn=smc, constrain=smc.resample)
        if noise_std == 0:
            x = Replacement(scheduler.sde, operator, measurement)(x, torch.zeros(()))
        return x, smc.evaluations

    def _start(self, scheduler: SDEScheduler, count: int, options: PosteriorOptions) -> Tensor:
        scheduler.set_timesteps(options.steps, device=self._execution_device)
        return self.prepare_latents(count, options.generator, options.latents, scheduler)

    def _run(self, x: Tensor, scheduler: SDEScheduler, options: PosteriorOptions, **settings: Any) -> Tensor:
        return self.run_sampler(
            x,
            options.generator,
            callback=options.callback,
            callback_tensors=options.callback_tensors,
            scheduler=scheduler,
            **settings,
        )


def ode_scheduler(scheduler: SDEScheduler, data_scale: float) -> SDEScheduler:
    """A copy of `scheduler` that solves the probability-flow ODE: third order, on a log-SNR grid.

    The grid ends where sigma / alpha is a hundredth of `data_scale`, or earlier where the scheduler's own ends earlier.
    """
    solver = copy.copy(scheduler)
    log_snr = torch.tensor(-2 * math.log(FINEST_RATIO * data_scale), dtype=torch.float64)
    end = max(float(solver.sde.t_from_log_snr(log_snr)), scheduler.smallest_time)
    solver.register_to_config(timestep_spacing="log_snr", sampling_eps=end, prologue=False)
    solver.predictor, solver.corrector = ExponentialMultistep(ODE_ORDER), None
    return solver
