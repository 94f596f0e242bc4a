"""A divergence estimator whose probes are given, to compare with recorded results."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_pipelines.schedulers.divergence import Divergence, Function, quadratic_forms


class GivenProbes(Divergence):
    """Hutchinson's estimate with probes of your own, shared along the path.

    Args:
        probes: (K, B, *D) with independent entries of mean 0 and variance 1.
    """

    shared_probes = True

    def __init__(self, probes: Tensor):
        self.probes = probes

    def begin(self, x: Tensor, generators: Sequence[torch.Generator]) -> None:
        if self.probes.shape[1:] != x.shape:
            raise ValueError(
                f"probes must have shape (K, {', '.join(map(str, x.shape))}), got {tuple(self.probes.shape)}"
            )

    def __call__(self, function: Function, z: Tensor, rows: Tensor) -> Tensor:
        return quadratic_forms(function, z, self.probes[:, rows.to(self.probes.device)])
