"""What the pipelines that generate images without a measurement share: options, autoguidance, the two ways of sampling."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .call_options import CallOptions
from .pipeline_base import SDEPipelineBase, check_tolerance
from .pipeline_output import ScoreSdePipelineOutput
from .quality import choose_sampler, stable_under_guidance
from .schedulers.adaptive_restart import MOST_RESTARTS, solve_with_restarts
from .schedulers.checks import Generator, check_integer
from .schedulers.score_function import ScoreFunction, evaluations_of
from .weak_guidance import WeakGuidance, check_weak_guidance


@dataclass(frozen=True)
class GenerationOptions(CallOptions):
    """The options that the calls of the generating pipelines share; see `ScoreSdePipeline.__call__`."""

    ode_tolerance: float | None = None
    num_restarts: int = 0
    weak_unet: Any = None
    weak_guidance_scale: float | None = None
    weak_guidance_interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ode_tolerance is not None:
            check_tolerance("ode_tolerance", self.ode_tolerance)
        if check_integer("num_restarts", self.num_restarts, 0, MOST_RESTARTS) and self.ode_tolerance is None:
            raise ValueError(
                f"num_restarts must be 0 without ode_tolerance, got {self.num_restarts}: predictor='restart' restarts"
            )


class GeneratingPipeline(SDEPipelineBase):
    """Base class of the pipelines that generate images; arguments as in `ScoreSdePipeline`."""

    def check_weak(
        self, weak_unet: Any, scale: float | None, interval: tuple[float, float] | None
    ) -> WeakGuidance | None:
        """`check_weak_guidance` with the pipeline's modules."""
        self.check_modules()
        return check_weak_guidance(weak_unet, scale, interval, self.unet, self.scheduler, self._execution_device)

    def check_guidance(self, options: GenerationOptions) -> tuple[WeakGuidance | None, tuple[int, int, int]]:
        """The weak network's guidance, and channels, height and width of an image; checked.

        Raises:
            TypeError, ValueError: for a weak network that does not fit, or a size at which a network does not run.
        """
        weak = self.check_weak(options.weak_unet, options.weak_guidance_scale, options.weak_guidance_interval)
        return weak, self.shape_at(options.height, options.width, options.tile_size, options.tile_overlap, weak)

    def generate(
        self,
        score_fn: ScoreFunction,
        batch_size: int,
        options: GenerationOptions,
        shape: tuple[int, int, int],
        weak: WeakGuidance | None,
        guidance_scale: float = 1.0,
    ) -> ScoreSdePipelineOutput | tuple:
        """Checks the other options, samples and returns `batch_size` images as the options say.

        Args:
            score_fn: `(x, t) -> score`, of whole images or of tiles, guided as it is to be.
            shape, weak: as `check_guidance` returns them.
            guidance_scale: of a class.
        """
        sampler, levels = choose_sampler(self.scheduler, options.quality, options.num_inference_steps)
        sampler = stable_under_guidance(sampler, guidance_scale)
        self.check_inputs(batch_size, levels, options, shape)
        whole = self.tiled(score_fn, options)
        nfe: int | Tensor
        with self.running(weak):
            x = self.prepare_latents(batch_size, options.generator, options.latents, shape=shape)
            if options.ode_tolerance is not None:
                x, nfe = self.solve_ode(x, options.ode_tolerance, whole, options.num_restarts, options.generator)
                nfe = nfe * evaluations_of(score_fn)  # within an interval: where the scale acts, and so at most
            else:
                scheduler = self.plan(levels, sampler)
                x = self.run_sampler(x, scheduler, whole, options)
                nfe = sum(evaluations_of(score_fn, t) for t in scheduler.times)
        self.maybe_free_model_hooks()
        return self.output(self.to_images(x, options.output_type, weak), nfe, options)

    def solve_ode(
        self,
        latents: Tensor,
        tolerance: float,
        score_fn: ScoreFunction | None = None,
        num_restarts: int = 0,
        generator: Generator = None,
    ) -> tuple[Tensor, Tensor]:
        """From `prepare_latents` to denoised images by the probability-flow ODE, and the evaluations of each, (B,).

        Args:
            latents: the start.
            tolerance: error of the solver.
            score_fn: `(x, t) -> score` with t of shape (B,), instead of the network's score.
            num_restarts, generator: as in `solve_with_restarts`.
        """
        sde, end = self.scheduler.sde, self.scheduler.smallest_time
        score_fn = score_fn or self.score_fn()
        solution = solve_with_restarts(
            score_fn,
            sde,
            latents * (sde.prior_std / self.scheduler.init_noise_sigma),
            sde.T,
            end,
            num_restarts=num_restarts,
            generator=generator,
            tolerance=float(tolerance),
            data_std=self.data_std,
        )
        t = torch.full((len(latents),), end, dtype=latents.dtype, device=latents.device)
        return sde.denoise(solution.x, score_fn(solution.x, t), t), solution.nfe + 1
