"""Bits/dim of few held-out images while a network trains, with the same noise at every call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...models import packed_filters
from ...schedulers.dequantization import PixelCells, uniform
from ...schedulers.likelihood import log_likelihood
from ..class_embedding import null_label
from ..pipeline_loading import Components
from ..seeding import likelihood_seed
from .estimate import Estimate, mean_estimate


TOLERANCE = 1e-3  # of `scoresde likelihood`


class FewImageBits:
    """The bound on bits/dim with uniform dequantization (paper, section 4.3): figure and noise of `scoresde likelihood`.

    The network computes in float32. A class-conditional one is told "no class".

    Args:
        images: uint8, shape (N, C, H, W).
        rows: where they lie in their data set; an image's noise is a function of its row and the seed.
        batch_size: images at a time; figures do not depend on it.
        seed: that of `scoresde likelihood --seed` with the same noise.

    Raises:
        ValueError: there are no images, or not one row for each.
    """

    def __init__(self, images: Tensor, rows: Sequence[int], batch_size: int = 16, seed: int = 0) -> None:
        if len(images) == 0 or len(images) != len(rows):
            raise ValueError(f"images must be some, with a row for each, got {len(images)} with {len(rows)} rows")
        self.images, self.batch_size = images, batch_size
        self.seeds = [likelihood_seed(seed, row) for row in rows]

    def __call__(self, components: Components, device: torch.device | str = "cpu") -> Estimate:
        """Their mean in bits/dim and its standard error over the images.

        Args:
            components: the network, in evaluation mode on `device`, its scheduler and the range of its data.

        Raises:
            ODEError: the ODE of an image cannot be solved.
        """
        with packed_filters(components.unet), torch.autocast(torch.device(device).type, enabled=False):
            parts = [
                self._measure(components, slice(start, start + self.batch_size), device)
                for start in range(0, len(self.images), self.batch_size)
            ]
        return mean_estimate(torch.cat(parts))

    def _measure(self, components: Components, part: slice, device: torch.device | str) -> Tensor:
        scheduler, cells = components.scheduler, PixelCells(*components.data_range)
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds[part]]
        centres = cells.centres(self.images[part])
        noisy = uniform(scheduler.sde, centres, cells.width, scheduler.likelihood_eps, generators)
        classes = components.class_names is not None
        told = {"class_labels": torch.tensor([null_label(components.unet)], device=device)} if classes else {}
        found = log_likelihood(
            scheduler.score_fn(components.unet, **told),
            scheduler.sde,
            noisy.x.to(device, torch.float32),
            tolerance=TOLERANCE,
            generator=generators,
            sampling_eps=noisy.t,
            data_std=scheduler.data_std_in(components.data_range),
        )
        nats = noisy.log_q - found.log_prob.cpu()
        return nats / (centres[0].numel() * torch.log(torch.tensor(2.0, dtype=torch.float64)))
