r"""The Frechet distance between two sets of images, in the feature space of any network.

For two Gaussians it is the squared 2-Wasserstein distance (Dowson & Landau 1982; Heusel et al. 2017 call it FID with
Inception features):

    d^2 = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

Estimated from N samples it is biased upwards by about trace(C) / N, so compare figures at the same N only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), in float64.

    Raises:
        ValueError: ``features`` is not a matrix of at least two rows.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features has shape {tuple(features.shape)}, expected (N, D) with N >= 2")
    features = features.double()
    return features.mean(dim=0), torch.atleast_2d(torch.cov(features.T))


def frechet_distance(
    mean_1: torch.Tensor, covariance_1: torch.Tensor, mean_2: torch.Tensor, covariance_2: torch.Tensor
) -> float:
    """The (squared) Frechet distance between two Gaussians, computed in float64.

    Args:
        mean_1, mean_2: shape (D,).
        covariance_1, covariance_2: symmetric and positive semidefinite, shape (D, D); singular ones are fine.
    """
    mean_1, covariance_1, mean_2, covariance_2 = (v.double() for v in (mean_1, covariance_1, mean_2, covariance_2))
    values, vectors = torch.linalg.eigh(covariance_1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    # The middle matrix is symmetric, so the trace of its root is the sum of the roots of its eigenvalues.
    cross = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp_min(0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace() - 2 * cross
    return max(0.0, float(distance))


@torch.no_grad()
def extract_features(
    extractor: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, batch_size: int = 256
) -> torch.Tensor:
    """Features (N, D) of uint8 images (N, C, H, W), batch by batch."""
    return torch.cat([extractor(batch) for batch in images.split(batch_size)])


def image_distance(
    extractor: Callable[[torch.Tensor], torch.Tensor], images_1: torch.Tensor, images_2: torch.Tensor
) -> float:
    """The Frechet distance between two sets of uint8 images (N, C, H, W) in the feature space of ``extractor``."""
    statistics = (moments(extract_features(extractor, images)) for images in (images_1, images_2))
    return frechet_distance(*next(statistics), *next(statistics))
