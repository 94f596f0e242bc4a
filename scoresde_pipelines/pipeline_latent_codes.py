"""Latent codes of images by the probability-flow ODE: images to codes, codes to images, and paths between images."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from .image_inputs import images_to_pixels
from .pipeline_base import SDEPipelineBase, check_tolerance
from .pipeline_output import ScoreSdePipelineOutput
from .schedulers.checks import check_finite, check_integer, check_number, check_values, shown
from .schedulers.dequantization import PixelCells
from .schedulers.inference_mode import ordinary
from .schedulers.probability_flow import solve_probability_flow
from .schedulers.score_function import ScoreFunction


SMALLEST_TIME = 1e-9  # the noise of earlier times is lost in single precision
LARGEST_TEMPERATURE = 1e3


class LatentCodePipeline(SDEPipelineBase):
    """A pipeline that follows the probability-flow ODE between images and latent codes (paper section 4.3, appendix D)."""

    def encode(
        self,
        images: Any,
        tolerance: float = 1e-5,
        class_labels: Any = None,
        sampling_eps: float | None = None,
        levels: int | None = 256,
        eps: float | None = None,
    ) -> Tensor:
        """Latent codes of images (B, *D), in units of the prior's standard deviation: for the model's own data, unit noise.

        Arguments as in `ScoreSdeLikelihoodPipeline.__call__`. The codes go into `decode`, and as `latents` into
        `ScoreSdePipeline`.
        """
        self.check_flow(tolerance)
        x, _ = self.centres(images, levels)
        end = self.scheduler.sde.T
        codes = self._flow(x, self.start_time(sampling_eps, eps), end, tolerance, class_labels)[0]
        return codes / self.scheduler.sde.prior_std

    def decode(
        self,
        latents: Tensor,
        tolerance: float = 1e-5,
        temperature: float = 1.0,
        output_type: str = "pil",
        class_labels: Any = None,
        sampling_eps: float | None = None,
        eps: float | None = None,
    ) -> ScoreSdePipelineOutput:
        """Images of latent codes; the inverse of `encode` within the solver's tolerance.

        Args:
            latents (`torch.Tensor`): codes (B, *D) in units of the prior's standard deviation.
            tolerance (`float`): error per step of the ODE solver.
            temperature (`float`): what the codes are multiplied by: below 1 towards the mode of the prior.
            output_type (`str`): "pil", "np", "pt", or "latent" for values in the model's own range.
            class_labels, sampling_eps: as in `encode`.
        """
        self.check_flow(tolerance, output_type)
        temperature = check_number("temperature", temperature, 0, LARGEST_TEMPERATURE)
        sde = self.scheduler.sde
        x = self._continuous(latents, "latents") * (temperature * sde.prior_std)
        x, nfe = self._flow(x, sde.T, self.start_time(sampling_eps, eps), tolerance, class_labels)
        return ScoreSdePipelineOutput(self.to_images(x, output_type), nfe=nfe)

    def interpolate(
        self, first: Any, second: Any, num_images: int = 8, tolerance: float = 1e-5, output_type: str = "pil"
    ) -> ScoreSdePipelineOutput:
        """A row of `num_images` images from `first` to `second` (one image each), spherically between their codes."""
        check_integer("num_images", num_images, 2)
        self.check_flow(tolerance, output_type)
        pairs = [self.centres(image, 256, name=name)[0] for name, image in (("first", first), ("second", second))]
        if len(pairs[0]) != 1 or len(pairs[1]) != 1:
            raise ValueError(f"first and second must be one image each, got {len(pairs[0])} and {len(pairs[1])}")
        codes, _ = self._flow(torch.cat(pairs), self.start_time(), self.scheduler.sde.T, tolerance, None)
        codes = codes / self.scheduler.sde.prior_std
        path = spherical_path(codes[0], codes[1], num_images)
        return self.decode(path, tolerance, output_type=output_type)

    # ------------------------------------------------------------------ inputs

    def check_flow(self, tolerance: float, output_type: str = "np", return_dict: bool = True) -> None:
        """Raises TypeError or ValueError, naming the argument, before any work is done."""
        self.check_modules()
        check_tolerance("tolerance", tolerance)
        self.check_output(output_type, return_dict)

    def centres(
        self, images: Any, levels: int | None, official_cells: bool = False, name: str = "images"
    ) -> tuple[Tensor, float]:
        """Images in the model's range, (B, *D) float64 on the CPU, and the width of a pixel's cell there.

        Args:
            images: as in `ScoreSdeLikelihoodPipeline.__call__`.
            levels: number of pixel values; `None` takes a tensor as it is, with width 1.
            official_cells: see `PixelCells`.
            name: of the argument, for errors.
        """
        if levels is None:
            return self._continuous(images, name).cpu().double(), 1.0
        cells = PixelCells(self.config.data_min, self.config.data_max, levels, official_cells)
        channels, height, width = self.sample_shape
        pixels = images_to_pixels(images, channels, (height, width), levels, name)
        return cells.centres(pixels), cells.width

    def _continuous(self, x: Any, name: str) -> Tensor:
        # A finite floating-point batch (B, *D); one sample alone becomes a batch of one.
        check_values(name, check_finite(name, x, torch.float32))
        shape = tuple(self.sample_shape)
        batch = x[None] if tuple(x.shape) == shape else x
        if tuple(batch.shape[1:]) != shape or len(batch) == 0:
            raise ValueError(
                f"{name} must have shape (B, {', '.join(map(str, shape))}) with B >= 1, got {tuple(x.shape)}"
            )
        return batch

    def start_time(self, sampling_eps: float | None = None, eps: float | None = None) -> float:
        """The smallest time: the one given, else 1e-5, or the first index of a network trained on a table.

        `eps` is the deprecated name of `sampling_eps`.
        """
        if eps is not None:
            warnings.warn("eps is called sampling_eps; eps leaves with the next release", FutureWarning, stacklevel=3)
            sampling_eps = eps
        if sampling_eps is None:
            return float(self.scheduler.likelihood_eps)
        return check_number("sampling_eps", sampling_eps, SMALLEST_TIME, self.scheduler.sde.T, ends="[)")

    def _checked_labels(self, class_labels: Any, count: int) -> Tensor:
        try:
            labels = torch.as_tensor(class_labels, device=self._execution_device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"class_labels must be integers, got {shown(class_labels)}") from error
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"class_labels must be integers, got dtype {labels.dtype}")
        if tuple(labels.shape) != (count,):
            raise ValueError(f"class_labels must have one label per image, ({count},), got {tuple(labels.shape)}")
        classes = getattr(self.unet.config, "num_class_embeds", None) or math.inf
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"class_labels must lie in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}"
            )
        return labels.long()

    # ------------------------------------------------------------------ the flow

    def conditioned_score_fn(self, class_labels: Any, count: int) -> ScoreFunction:
        """The score function, given checked `class_labels` (count,) or `None`."""
        if class_labels is None:
            return self.score_fn()
        return self.labelled_score_fn(self._checked_labels(class_labels, count))

    def _flow(self, x: Tensor, start: float, end: float, tolerance: float, class_labels: Any) -> tuple[Tensor, Tensor]:
        score_fn = self.conditioned_score_fn(class_labels, len(x))
        with self.running():
            sde, x = self.scheduler.sde, ordinary(x).to(self._execution_device, torch.float32)
            solution = solve_probability_flow(
                score_fn, sde, x, start, end, tolerance=float(tolerance), data_std=self.data_std
            )
        self.maybe_free_model_hooks()
        return solution.x, solution.nfe


def spherical_path(first: Tensor, second: Tensor, count: int) -> Tensor:
    """`count` points (count, *D) from `first` to `second` along the great circle between them; norms blend linearly."""
    a, b = first.flatten().cpu().double(), second.flatten().cpu().double()
    lengths = torch.stack([a.norm(), b.norm()])
    angle = torch.arccos((a @ b / lengths.prod()).clamp(-1, 1))
    share = torch.linspace(0, 1, count, dtype=torch.float64, device="cpu")[:, None]
    if float(torch.sin(angle)) < 1e-6:
        path = (1 - share) * a + share * b
    else:
        direction = torch.sin((1 - share) * angle) * (a / lengths[0]) + torch.sin(share * angle) * (b / lengths[1])
        path = direction / torch.sin(angle) * ((1 - share) * lengths[0] + share * lengths[1])
    return path.to(first.dtype).to(first.device).reshape(count, *first.shape)
