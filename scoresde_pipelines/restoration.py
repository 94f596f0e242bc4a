"""What the restoring pipelines share: from a measurement y = A x + noise to samples of p(x | y)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .image_fit import fit_images, inside, measured_inside
from .pipeline_base import SDEPipelineBase
from .pipeline_output import ScoreSdePipelineOutput
from .restoration_options import DEFAULT_STEPS, RestorationOptions, posterior_scheduler
from .schedulers import (
    LinearOperator,
    MomentMatching,
    Replacement,
    SDEScheduler,
    TwistedSMC,
    ancestral,
    posterior_start,
)
from .schedulers.checks import Generator
from .schedulers.inference_mode import ordinary
from .schedulers.score_function import ScoreFunction


@dataclass(frozen=True)
class LinearProblem:
    """A measurement y = A x + noise of images x.

    Attributes:
        measurement: y, (B, *M).
        operator: A.
        noise_std: standard deviation of the noise.
        shape: channels, height and width of the images.
    """

    measurement: Tensor
    operator: LinearOperator
    noise_std: float
    shape: tuple[int, int, int]


class LinearInversePipeline(SDEPipelineBase):
    """Base class of the pipelines that restore images from a linear measurement.

    Args:
        unet, scheduler, data_min, data_max: as in `ScoreSdePipeline`: an unconditional model of the images.
    """

    def size_at(self, options: RestorationOptions) -> tuple[int, int] | None:
        """The size that images are restored in, or None where it is their own: with tiles, and neither side given.

        Raises:
            TypeError, ValueError: for a size at which the network does not run.
        """
        height, width = options.height, options.width
        _, *size = self.shape_at(height, width, options.tile_size, options.tile_overlap)
        return None if options.tile_size is not None and height is None and width is None else (size[0], size[1])

    def shape_of(self, images: Tensor, options: RestorationOptions, scale: int = 1) -> tuple[int, int, int]:
        """Channels, height and width of the result for `images` (B, C, H, W), smaller than it by `scale`; checked."""
        height, width = (side * scale for side in images.shape[-2:])
        return self.shape_at(height, width, options.tile_size, options.tile_overlap)

    def check_options(
        self, options: RestorationOptions, num_measurements: int, shape: tuple[int, int, int] | None = None
    ) -> None:
        """Raises TypeError or ValueError, naming the argument, before any work is done; `shape` is that of an image."""
        _, steps = options.sampler_of(self.scheduler, self.data_std)
        self.check_inputs(num_measurements * options.num_samples, steps, options, shape)

    def solve(
        self,
        problem: LinearProblem,
        options: RestorationOptions,
        place: tuple[slice, slice] = (slice(None), slice(None)),
    ) -> ScoreSdePipelineOutput | tuple:
        """Checks the options, draws `num_samples` images for each measurement, and returns them as the options say.

        Args:
            problem: its measurement and `noise_std` are those of images with values in [0, 1].
            options: of the call.
            place: rows and columns of the images that are returned; of "latent" all are.
        """
        self.check_options(options, len(problem.measurement), problem.shape)
        low, high = self.config.data_min, self.config.data_max
        y = ordinary(problem.measurement).to(self._execution_device, torch.float32)
        black = torch.full((len(y), *problem.shape), low, device=y.device)
        y = ((high - low) * y + problem.operator.A(black)).repeat_interleave(options.num_samples, dim=0)
        scaled = replace(problem, measurement=y, noise_std=float(problem.noise_std) * (high - low))
        x, nfe = self.restore(scaled, options)
        self.maybe_free_model_hooks()
        x = x if options.output_type == "latent" else x[..., place[0], place[1]]
        return self.output(self.to_images(x, options.output_type), nfe, options)

    def solve_fitted(
        self,
        images: Tensor,
        operator: LinearOperator,
        noise_std: float,
        options: RestorationOptions,
        size: tuple[int, int] | None,
        resize: str | None,
        scale: int = 1,
    ) -> ScoreSdePipelineOutput | tuple:
        """`solve` for images whose measurements are smaller than they are by `scale`, fitted to `size` by `resize`.

        The border of "pad" is not measured, and not returned.

        Args:
            images: the measurements (B, C, H, W), in [0, 1].
            size: height and width of a measurement; None where it is that of `images`.
        """
        sides = (images.shape[-2], images.shape[-1])
        size = sides if size is None else size
        fitted = fit_images(images, size, resize)
        rows, columns = place = inside(sides, size, resize)
        large = slice(rows.start * scale, rows.stop * scale), slice(columns.start * scale, columns.stop * scale)
        measured = measured_inside(operator, place, size)
        problem = LinearProblem(fitted, measured, noise_std, self.shape_of(fitted, options, scale))
        return self.solve(problem, options, large)

    def restore(self, problem: LinearProblem, options: RestorationOptions) -> tuple[Tensor, int]:
        """Draws one image for each measurement of a problem in the units of the data range.

        Returns:
            The images in the data range, (B, channels, height, width), and the number of network evaluations.
        """
        measurement, operator, noise_std = problem.measurement, problem.operator, problem.noise_std
        with self.running():
            if options.method == "twisted_smc":
                return self._particles(problem, options)
            own, steps = options.sampler_of(self.scheduler, self.data_std)
            scheduler = self.plan(steps, own)
            known = Replacement(scheduler.sde, operator, measurement, _draw_from(options.generator))
            x = self.prepare_latents(len(measurement), options.generator, options.latents, scheduler, problem.shape)
            if options.method == "replacement":
                x = known(x, scheduler.times[0]) if not scheduler.config.prologue else x
                score_fn = self._on_tiles(self.scheduler, options)
                return self.run_sampler(x, scheduler, score_fn, options, known), len(scheduler.times)
            posterior = MomentMatching(
                self._on_tiles(scheduler, options),
                scheduler.sde,
                operator,
                measurement,
                noise_std,
                covariance=options.method,
                data_std=self.data_std,
                tolerance=options.solver_tolerance,
                max_iterations=options.iterations,
            )
            if not scheduler.config.prologue:
                x = posterior_start(posterior, scheduler.sde, x, scheduler.levels[0])
            x = self.run_sampler(x, scheduler, posterior, options)
            x = posterior.correct_final(x) if noise_std else known(x, torch.zeros((), device="cpu"))
            return x, posterior.evaluations

    def _on_tiles(self, scheduler: SDEScheduler, options: RestorationOptions) -> ScoreFunction:
        return self.tiled(scheduler.score_fn(self.network), options)

    def _particles(self, problem: LinearProblem, options: RestorationOptions) -> tuple[Tensor, int]:
        """`restore` by twisted SMC: the samples of one measurement are one population."""
        measurement, operator, noise_std = problem.measurement, problem.operator, problem.noise_std
        own = posterior_scheduler(self.scheduler, self.data_std)
        own.register_to_config(sampling_eps=self.scheduler.smallest_time)
        own.predictor = ancestral
        scheduler = self.plan(options.num_inference_steps or DEFAULT_STEPS["twisted_smc"], own)
        populations = len(measurement) // options.num_samples
        generator = options.generator
        first = generator[:: options.num_samples] if isinstance(generator, list) else [generator]

        def uniform() -> Tensor:
            each = populations // len(first)
            draws = (torch.rand(each, generator=g, device=g.device if g else "cpu") for g in first)
            return torch.cat([draw.cpu() for draw in draws])

        twisted = TwistedSMC(
            self._on_tiles(scheduler, options),
            scheduler.sde,
            operator,
            measurement,
            noise_std,
            options.num_samples,
            data_std=self.data_std,
            uniform=uniform,
        )
        x = self.prepare_latents(len(measurement), generator, options.latents, scheduler, problem.shape)
        x = twisted.resample(x, scheduler.times[0])
        x = self.run_sampler(x, scheduler, twisted, options, twisted.resample)
        if noise_std == 0:
            x = Replacement(scheduler.sde, operator, measurement)(x, torch.zeros((), device="cpu"))
        return x, twisted.evaluations


def _draw_from(generator: Generator) -> Callable[[Tensor], Tensor]:
    def draw(like: Tensor) -> Tensor:
        return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)

    return draw
