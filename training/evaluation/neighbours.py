r"""What nearest neighbours in feature space say: fidelity, diversity, and copies of training images.

With r_i the distance of real image i to its k-th nearest real neighbour (and likewise for generated images),

    precision   share of generated images inside any ball (real i, r_i)        (Kynkaanniemi et al. 2019)
    recall      share of real images inside any ball of the generated images
    density     mean number of balls (real i, r_i) around a generated image, divided by k   (Naeem et al. 2020)
    coverage    share of balls (real i, r_i) that hold a generated image

Precision and recall are what papers quote. One outlier with a huge ball raises them, and their value for real against
real depends on N; density and coverage do not have the first fault, and real against real they are near 1 and
1 - 2^-k. So all four are measured, from the same distances.

Standard errors are those of the mean over images, with the balls held fixed.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .estimate import Estimate, mean_estimate


NEIGHBOURS = 5
BLOCK = 1024
COPY_QUANTILE = 0.01


def precision_recall(generated: Tensor, real: Tensor, k: int = NEIGHBOURS) -> dict[str, Estimate]:
    """Precision, recall, density and coverage of features (n, D) against real ones (m, D).

    Raises:
        ValueError: not more than `k` images in one of the sets.
    """
    for name, features in (("generated", generated), ("real", real)):
        if len(features) <= k:
            raise ValueError(f"{name} must have more than {k} rows, got {len(features)}")
    real_radius, generated_radius = kth_distance(real, k), kth_distance(generated, k)
    balls = torch.zeros(
        len(generated), dtype=torch.float64, device=real.device
    )  # of real images, around each generated one
    recalled, covered = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    for start in range(0, len(generated), BLOCK):
        block = slice(start, start + BLOCK)
        distances = _distances(generated[block], real)
        inside = distances <= real_radius
        balls[block] = inside.double().sum(dim=1)
        covered |= inside.any(dim=0)
        recalled |= (distances <= generated_radius[block, None]).any(dim=0)
    return {
        "precision": mean_estimate((balls > 0).double()),
        "recall": mean_estimate(recalled),
        "density": mean_estimate(balls / k),
        "coverage": mean_estimate(covered),
    }


def kth_distance(features: Tensor, k: int) -> Tensor:
    """Distance of each row (N, D) to its k-th nearest other row, shape (N,), float64."""
    found = []
    for start in range(0, len(features), BLOCK):
        distances = _distances(features[start : start + BLOCK], features)
        distances.diagonal(start).fill_(-1.0)  # itself: the smallest, whatever rounding says
        found.append(distances.kthvalue(k + 1, dim=1).values)
    return torch.cat(found)


def nearest(features: Tensor, training: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The `count` nearest training features (M, D) of each row (N, D): distances and indices, both (N, count)."""
    found = [
        _distances(block, training).topk(min(count, len(training)), dim=1, largest=False)
        for block in features.split(BLOCK)
    ]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


@dataclass(frozen=True)
class CopyThreshold:
    """How near to a training image a held-out image comes by chance: the 1 % quantile of these distances.

    Args:
        held_out: features (N, D) of images that were not trained on.
        training: features (M, D) of the training images.
    """

    training: Tensor
    distance: float

    @classmethod
    def measure(cls, held_out: Tensor, training: Tensor) -> Self:
        """From features of images that were not trained on, (N, D), and of the training images, (M, D)."""
        return cls(training, float(nearest(held_out, training)[0][:, 0].quantile(COPY_QUANTILE)))

    def copies(self, generated: Tensor) -> Estimate:
        """Share of images (N, D) nearer to a training image than 99 % of the held-out images: about 0.01 without copies."""
        return mean_estimate(nearest(generated, self.training)[0][:, 0] <= self.distance)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double())
