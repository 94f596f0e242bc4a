"""Moved to `training.evaluation`; this name works for one more release."""

import warnings
from collections.abc import Callable

import torch

from .evaluation.frechet import frechet_between, frechet_distance, moments


warnings.warn(
    "scoresde_pipelines.training.frechet moved to scoresde_pipelines.training.evaluation", FutureWarning, stacklevel=2
)

__all__ = ["extract_features", "frechet_distance", "image_distance", "moments"]


@torch.no_grad()
def extract_features(
    extractor: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, batch_size: int = 256
) -> torch.Tensor:
    """Features (N, D) of uint8 images (N, C, H, W), batch by batch."""
    return torch.cat([extractor(batch) for batch in images.split(batch_size)])


def image_distance(
    extractor: Callable[[torch.Tensor], torch.Tensor], images_1: torch.Tensor, images_2: torch.Tensor
) -> float:
    """The Frechet distance between two sets of uint8 images (N, C, H, W) in the feature space of `extractor`."""
    return frechet_between(extract_features(extractor, images_1), extract_features(extractor, images_2))
