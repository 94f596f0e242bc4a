"""Batches in which every class is equally frequent."""

import numpy as np
from torch import Tensor

from .data import ShuffledBatches


class BalancedBatches(ShuffledBatches):
    """An endless stream of index batches, K consecutive images of which hold each of the K classes once.

    Within its class each image is used once before any is used again. The index at a position is a function of
    (seed, position), as in `ShuffledBatches`.

    Args:
        labels: class of each image, int64 in [0, K), shape (N,). Classes without an image are left out.
        batch_size, seed, start, rank, world_size: see `ShuffledBatches`.
    """

    def __init__(
        self, labels: Tensor, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(len(labels), batch_size, seed, start, rank, world_size)
        values = labels.numpy()
        self._members = [np.flatnonzero(values == label) for label in np.unique(values)]
        self._permutations: dict[int, tuple[int, np.ndarray]] = {}

    def _permutation(self, owner: int, turn: int, count: int) -> np.ndarray:
        """A permutation of `count` that is a function of (seed, owner, turn); the newest of each owner is kept."""
        if owner not in self._permutations or self._permutations[owner][0] != turn:
            self._permutations[owner] = turn, np.random.default_rng([self.seed, 1, owner, turn]).permutation(count)
        return self._permutations[owner][1]

    def _index(self, position: int) -> int:
        count = len(self._members)
        turn, offset = divmod(position, count)
        label = int(self._permutation(count, turn, count)[offset])
        members = self._members[label]
        epoch, place = divmod(turn, len(members))
        return int(members[self._permutation(label, epoch, len(members))[place]])
