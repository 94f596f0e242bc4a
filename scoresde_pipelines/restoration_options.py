"""The options of the restoring pipelines, and the sampler that follows from them."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .image_sizes import TileSize
from .pipeline_base import Generator, StepCallback
from .quality import QUALITIES, choose_sampler
from .schedulers import ExponentialAdamsBashforth, SDEScheduler
from .schedulers.checks import check_choice, check_integer, check_number


DEFAULT_STEPS = {"moment_matching": 17, "pseudo_inverse": 50, "replacement": 1000, "twisted_smc": 200}
ODE_ITERATIONS, STOCHASTIC_ITERATIONS = 7, 2
DEFAULT_STOCHASTIC_STEPS = 100  # of the first two, with the scheduler's own sampler
SAMPLERS = ("ode", "scheduler")
FINEST_RATIO = 0.01
# With so few steps order four would amplify the linear solver's errors where the measurement noise is small.
ODE_ORDER = 3


@dataclass(frozen=True)
class RestorationOptions:
    """The options that the calls of all restoring pipelines share; see `ScoreSdeInverseProblemPipeline.__call__`."""

    method: str = "moment_matching"
    num_inference_steps: int | None = None
    num_samples: int = 1
    generator: Generator = None
    latents: Tensor | None = None
    sampler: str | None = None
    solver_tolerance: float = 0.003
    solver_iterations: int | None = None
    quality: str | None = None
    output_type: str = "pil"
    return_dict: bool = True
    callback_on_step_end: StepCallback | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    tile_size: TileSize = None
    tile_overlap: int | None = None
    tile_batch_size: int = 16

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> "RestorationOptions":
        """The options among the arguments of a pipeline's call, given as the `locals()` at its begin."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})

    def __post_init__(self) -> None:
        check_choice("method", self.method, DEFAULT_STEPS)
        check_choice("sampler", self.sampler, SAMPLERS, optional=True)
        check_integer("num_samples", self.num_samples)
        check_number("solver_tolerance", self.solver_tolerance, 0, 1, ends="[)")
        if self.solver_iterations is not None:
            check_integer("solver_iterations", self.solver_iterations)
        check_choice("quality", self.quality, QUALITIES, optional=True)
        if self.quality == "paper":
            object.__setattr__(self, "method", "replacement")

    @property
    def ode(self) -> bool:
        """Whether to solve the probability-flow ODE instead of following a scheduler."""
        if self.method == "twisted_smc":
            return False
        stochastic = self.method == "replacement" or self.quality is not None
        return (self.sampler or ("scheduler" if stochastic else "ode")) == "ode"

    @property
    def iterations(self) -> int:
        """Bound on the iterations of the linear system at each level: enough for Gaussian data at the default levels."""
        return self.solver_iterations or (ODE_ITERATIONS if self.ode else STOCHASTIC_ITERATIONS)

    def sampler_of(self, scheduler: SDEScheduler, data_std: float) -> tuple[SDEScheduler, int]:
        """The scheduler that samples, made of the pipeline's, and its number of noise levels."""
        steps = DEFAULT_STEPS[self.method] if self.num_inference_steps is None else self.num_inference_steps
        if self.ode:
            return posterior_scheduler(scheduler, data_std), steps
        if self.quality is None and self.method in ("replacement", "twisted_smc"):
            return scheduler, steps
        own = DEFAULT_STOCHASTIC_STEPS
        return choose_sampler(scheduler, self.quality, self.num_inference_steps, posterior=True, own_levels=own)


def posterior_scheduler(scheduler: SDEScheduler, data_std: float) -> SDEScheduler:
    """A copy of `scheduler` that solves the probability-flow ODE: third order, on a log-SNR grid.

    The grid ends where sigma / alpha is a hundredth of `data_std`, or earlier where the scheduler's own ends earlier.
    """
    solver = copy.copy(scheduler)
    finest = float(
        solver.sde.t_from_log_snr(
            torch.tensor(-2 * math.log(FINEST_RATIO * data_std), dtype=torch.float64, device="cpu")
        )
    )
    end = max(finest, scheduler.smallest_time)
    solver.register_to_config(timestep_spacing="log_snr", sampling_eps=end, prologue=False)
    solver.predictor, solver.corrector = ExponentialAdamsBashforth(ODE_ORDER), None
    return solver
