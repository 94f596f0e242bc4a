"""What the probability-flow ODE measures: bits/dim with error bars, latent codes, and images made from codes."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .models import packed_filters
from .pipeline_base import OUTPUT_TYPES, PIL_MODES, Generator, SDEPipelineBase
from .pipeline_output import ScoreSdeLikelihoodOutput, ScoreSdePipelineOutput
from .schedulers.dequantization import DEQUANTIZATIONS, LogMass, PixelCells, combine
from .schedulers.divergence import Divergence
from .schedulers.likelihood import LogLikelihood, log_likelihood, spawn_generators
from .schedulers.probability_flow import solve_probability_flow


Images = Image.Image | Sequence[Image.Image] | np.ndarray | Tensor


class ScoreSdeLikelihoodPipeline(SDEPipelineBase):
    """Bits/dim and latent codes of images (paper section 4.3) under any score model of this package or diffusers.

    Args:
        unet: a network called as `unet(sample, timestep).sample`: `NCSNpp`, `DDPMpp`, any `UNet2DModel`.
        scheduler: a `VESDEScheduler`, `VPSDEScheduler` or `SubVPSDEScheduler`; a stock scheduler is converted by its
            configuration.
        data_min, data_max (`float`, *optional*): the values that black and white had in training.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdeLikelihoodPipeline, ScoreSdePipeline, shipped
    >>> folder = shipped("fashion-mnist-32-vp")
    >>> images = ScoreSdePipeline.from_pretrained(folder)(batch_size=2, num_inference_steps=20).images
    >>> pipe = ScoreSdeLikelihoodPipeline.from_pretrained(folder)
    >>> output = pipe(images, tolerance=1e-3)
    >>> bits, error = output.bits_per_dim, output.standard_error
    ```
    """

    def __call__(
        self,
        images: Images,
        dequantization: str = "uniform",
        num_dequantizations: int = 1,
        importance_weighted: bool = False,
        divergence: str | Divergence = "hutchinson",
        num_probes: int = 1,
        tolerance: float = 1e-5,
        generator: Generator = None,
        class_labels: Tensor | None = None,
        eps: float | None = None,
        levels: int | None = 256,
        official_cells: bool = False,
        return_dict: bool = True,
    ) -> ScoreSdeLikelihoodOutput | tuple:
        """Measures images.

        Args:
            images: PIL images; arrays (B, H, W, C) or tensors (B, C, H, W) of integer pixels or of values in [0, 1];
                with `levels=None`, a tensor (B, *D) of continuous data in the model's own range.
            dequantization (`str`): "uniform" (the paper's), "truncated_normal" or "none"; see `docs/likelihood.md`.
            num_dequantizations (`int`): draws per image; their mean is reported.
            importance_weighted (`bool`): report the tighter bound from the mean of the draws' probabilities.
            divergence: "hutchinson", "hutchinson_shared" (the official estimator), "exact" or a `Divergence`.
            num_probes (`int`): probes per image and quadrature node.
            tolerance (`float`): error per step of the ODE solver.
            generator (`torch.Generator` or a list of them): source of all randomness; with a list of B generators an
                image depends on its own alone.
            class_labels (`torch.Tensor`, *optional*): labels (B,) of a class-conditional network.
            eps (`float`, *optional*): smallest time; by default 1e-5, or the first index of a network trained on a table.
            levels (`int` or `None`): number of pixel values; `None` for continuous data, whose bits/dim are those of
                the density in the model's range.
            official_cells (`bool`): tile the range as the official evaluation does, (255 x + u) / 256.
            return_dict (`bool`): whether to return a `ScoreSdeLikelihoodOutput` or a tuple of its fields.

        Raises:
            ValueError, TypeError: for an argument out of its range, before any work is done.
            ODEError: if the solver gives up on an image.
        """
        _check_draws(dequantization, num_dequantizations)
        centres, width = self._centres(images, levels, official_cells)
        draws = self._draws(
            centres,
            width,
            dequantization if levels is not None else "none",
            num_dequantizations,
            spawn_generators(generator, len(centres)),
            self._eps(eps),
            {} if class_labels is None else {"class_labels": class_labels.to(centres.device)},
            {"divergence": divergence, "num_probes": num_probes, "tolerance": tolerance},
        )
        weights, single_draw_errors, results = zip(*draws)
        mass = combine(
            torch.stack([w.double().cpu() for w in weights]),
            torch.stack([r.probe_error.cpu() for r in results]),
            torch.stack([r.solver_error.cpu() for r in results]),
            noisy=dequantization != "none" and levels is not None,
            importance_weighted=importance_weighted,
            single_draw_errors=torch.stack(single_draw_errors),
        )
        self.maybe_free_model_hooks()
        output = _to_output(mass, results, centres[0].numel(), self.scheduler.sde.prior_std)
        return output if return_dict else output.to_tuple()

    def _draws(
        self,
        centres: Tensor,
        width: float,
        dequantization: str,
        count: int,
        generators: list[torch.Generator],
        eps: float,
        condition: dict[str, Tensor],
        options: dict,
    ) -> list[tuple[Tensor, Tensor, LogLikelihood]]:
        # Of each draw: log p - log q, what it says of its own spread, both in nats, (B,), and the rest.
        draws = []
        with packed_filters(self.unet):
            for _ in range(count):
                noisy = DEQUANTIZATIONS[dequantization](self.scheduler.sde, centres.cpu(), width, eps, generators)
                x = noisy.x.to(centres.device, torch.float32)
                result = log_likelihood(
                    self._score,
                    self.scheduler.sde,
                    x,
                    generator=generators,
                    eps=noisy.t,
                    data_std=self._data_std,
                    condition=condition,
                    **options,
                )
                with torch.no_grad():
                    score = self._score(x, torch.full((len(x),), noisy.t, device=x.device, dtype=x.dtype), **condition)
                result.nfe += 1
                draws.append((result.log_prob.cpu() - noisy.log_q, noisy.single_draw_error(score), result))
        return draws

    # ------------------------------------------------------------------ latent codes

    def encode(
        self,
        images: Images,
        tolerance: float = 1e-5,
        class_labels: Tensor | None = None,
        eps: float | None = None,
        levels: int | None = 256,
    ) -> Tensor:
        """Latent codes of images (B, *D), in units of the prior's standard deviation: for the model's own data, unit noise.

        Arguments as in `__call__`. The codes go into `decode`, and as `latents` into `ScoreSdePipeline`.
        """
        x, _ = self._centres(images, levels, False)
        codes = self._flow(x.float(), self._eps(eps), self.scheduler.sde.T, tolerance, class_labels)[0]
        return codes / self.scheduler.sde.prior_std

    def decode(
        self,
        latents: Tensor,
        tolerance: float = 1e-5,
        temperature: float = 1.0,
        output_type: str = "pil",
        class_labels: Tensor | None = None,
        eps: float | None = None,
    ) -> ScoreSdePipelineOutput:
        """Images of latent codes; the inverse of `encode` within the solver's tolerance.

        Args:
            latents (`torch.Tensor`): codes (B, *D) in units of the prior's standard deviation.
            tolerance (`float`): error per step of the ODE solver.
            temperature (`float`): what the codes are multiplied by: below 1 towards the mode of the prior.
            output_type (`str`): "pil", "np", "pt", or "latent" for values in the model's own range.
            class_labels, eps: as in `__call__`.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {OUTPUT_TYPES}, got {output_type!r}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
        sde = self.scheduler.sde
        x = latents.to(self._execution_device, torch.float32) * (temperature * sde.prior_std)
        x, nfe = self._flow(x, sde.T, self._eps(eps), tolerance, class_labels)
        return ScoreSdePipelineOutput(self.to_images(x, output_type), nfe=nfe)

    def interpolate(
        self, first: Images, second: Images, num_images: int = 8, tolerance: float = 1e-5, output_type: str = "pil"
    ) -> ScoreSdePipelineOutput:
        """A row of `num_images` images from `first` to `second` (one image each), spherically between their codes."""
        if not isinstance(num_images, int) or num_images < 2:
            raise ValueError(f"num_images must be an integer of at least 2, got {num_images!r}")
        codes = [self.encode(image, tolerance) for image in (first, second)]
        if len(codes[0]) != 1 or len(codes[1]) != 1:
            raise ValueError(f"first and second must be one image each, got {len(codes[0])} and {len(codes[1])}")
        path = spherical_path(codes[0][0], codes[1][0], num_images)
        return self.decode(path, tolerance, output_type=output_type)

    # ------------------------------------------------------------------ inside

    def _score(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        return self.scheduler.score_fn(self.network, **condition)(x, t)

    def _flow(
        self, x: Tensor, start: float, end: float, tolerance: float, class_labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        condition = {} if class_labels is None else {"class_labels": class_labels.to(x.device)}
        with packed_filters(self.unet):
            solution = solve_probability_flow(
                self._score,
                self.scheduler.sde,
                x,
                start,
                end,
                tolerance=tolerance,
                data_std=self._data_std,
                condition=condition,
            )
        self.maybe_free_model_hooks()
        return solution.x, solution.nfe

    @property
    def _data_std(self) -> float:
        # Natural images fill about a quarter of their range; the solver's variables need no better.
        return 0.25 * (self.config.data_max - self.config.data_min)

    def _eps(self, eps: float | None) -> float:
        if eps is not None:
            return eps
        return self.scheduler.smallest_time if self.scheduler.time_convention == "index" else 1e-5

    def _centres(self, images: Images, levels: int | None, official_cells: bool) -> tuple[Tensor, float]:
        # Images in the model's range, (B, *D) float64, and the width of a pixel's cell there.
        device = self._execution_device
        if levels is None:
            if not isinstance(images, Tensor) or not images.is_floating_point():
                raise TypeError(f"levels=None takes a floating-point tensor, got {type(images).__name__}")
            return images.to(device, torch.float64), 1.0
        cells = PixelCells(self.config.data_min, self.config.data_max, levels, official_cells)
        pixels = to_pixels(images, levels, self.sample_shape[0])
        if tuple(pixels.shape[1:]) != tuple(self.sample_shape):
            raise ValueError(f"images must have shape (B, {self.sample_shape}), got {tuple(pixels.shape)}")
        return cells.centres(pixels).to(device), cells.width


def to_pixels(images: Images, levels: int, channels: int) -> Tensor:
    """PIL images, arrays (B, H, W, C) or tensors (B, C, H, W) as int64 pixels (B, C, H, W) from 0 to levels - 1.

    Raises:
        TypeError, ValueError: for anything else, and for floating-point values outside of [0, 1].
    """
    if isinstance(images, Image.Image):
        images = [images]
    if not isinstance(images, np.ndarray | Tensor):
        mode = PIL_MODES.get(channels)
        if mode is None or not images or not all(isinstance(image, Image.Image) for image in images):
            raise TypeError(f"images must be PIL images (of {sorted(PIL_MODES)} channels), an array or a tensor")
        images = np.stack([np.atleast_3d(np.asarray(image.convert(mode))) for image in images])
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1)
    if images.is_floating_point():
        if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):
            raise ValueError(
                f"floating-point images must lie in [0, 1], got {float(images.min()):.4g} to {float(images.max()):.4g}"
            )
        images = (images * (levels - 1)).round()
    return images.to("cpu", torch.int64)


def spherical_path(first: Tensor, second: Tensor, count: int) -> Tensor:
    """`count` points (count, *D) from `first` to `second` along the great circle between them; norms blend linearly."""
    a, b = first.flatten().double(), second.flatten().double()
    lengths = torch.stack([a.norm(), b.norm()])
    angle = torch.arccos((a @ b / lengths.prod()).clamp(-1, 1))
    share = torch.linspace(0, 1, count, dtype=torch.float64, device=a.device)[:, None]
    if float(torch.sin(angle)) < 1e-6:
        path = (1 - share) * a + share * b
    else:
        direction = torch.sin((1 - share) * angle) * (a / lengths[0]) + torch.sin(share * angle) * (b / lengths[1])
        path = direction / torch.sin(angle) * ((1 - share) * lengths[0] + share * lengths[1])
    return path.to(first.dtype).reshape(count, *first.shape)


def _check_draws(dequantization: str, count: int) -> None:
    if dequantization not in DEQUANTIZATIONS:
        raise ValueError(f"dequantization must be one of {sorted(DEQUANTIZATIONS)}, got {dequantization!r}")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"num_dequantizations must be an integer of at least 1, got {count!r}")


def _to_output(
    mass: LogMass, results: Sequence[LogLikelihood], dimensions: int, prior_std: float
) -> ScoreSdeLikelihoodOutput:
    bits = dimensions * math.log(2)
    return ScoreSdeLikelihoodOutput(
        bits_per_dim=-mass.value / bits,
        standard_error=mass.standard_error / bits,
        latents=results[0].latents / prior_std,
        nfe=torch.stack([result.nfe for result in results]).sum(0),
        probe_error=mass.probe_error / bits,
        dequantization_error=mass.dequantization_error / bits,
        solver_error=mass.solver_error / bits,
    )
