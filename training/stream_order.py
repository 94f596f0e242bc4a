"""The order in which a stream is read: a function of the data set, the seed and the size of a block.

In every epoch the shards are read one after the other in an order of their own. Their examples are taken in blocks of N,
which do not end at the end of a shard, and each block is permuted. Both orders are permutations by `numpy` from
(seed, epoch) and (seed, epoch, block).

A shuffle buffer of `datasets` is not restored from a saved state: a run that is stopped would lose what it holds. Here the
state at the beginning of a block is enough: the block is read again, and its permutation is known.
"""

import importlib.metadata
import json
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np

from ..schedulers.checks import check_integer


PLACE_NUMBERS = ("epoch", "block", "shard", "shard_row")


class Row(NamedTuple):
    """An example, and where it is: the row in the shard, both counted from 0 in the order of the data set."""

    shard: int
    row: int
    example: dict[str, Any]


class ShardRows:
    """The examples of one epoch, shard by shard, from a place on.

    Args:
        stream: a `datasets.IterableDataset`.
        order: permutation of its shards.
        place: where to begin; see `BlockShuffle.read`.
    """

    def __init__(self, stream: Any, order: np.ndarray, place: dict[str, Any]) -> None:
        self.stream, self.order, self._start = stream, order, place
        self._shard, self._row, self._part = place["shard"], place["shard_row"], None

    def __iter__(self) -> Iterator[Row]:
        from datasets.distributed import split_dataset_by_node

        for number in range(self._shard, len(self.order)):
            self._shard, shard = number, int(self.order[number])
            # As many nodes as shards: each has one.
            self._part = split_dataset_by_node(self.stream, rank=shard, world_size=len(self.order))
            for example in self._examples():
                self._row += 1
                yield Row(shard, self._row - 1, example)
            self._row = 0

    def _examples(self) -> Iterator[dict[str, Any]]:
        """The rest of a shard: from the state, or by passing over rows where another version of `datasets` wrote it."""
        assert self._part is not None
        skipped = self._row
        if self._row and self._start["state"] is not None and self._start["datasets"] == _version():
            self._part.load_state_dict(self._start["state"])
            skipped = 0
        yield from islice(self._part, skipped, None)

    def place(self) -> dict[str, Any]:
        """The place after the last example, as JSON values."""
        state = json.loads(json.dumps(self._part.state_dict())) if self._part is not None and self._row else None
        return {"shard": self._shard, "shard_row": self._row, "state": state, "datasets": _version()}


class BlockShuffle:
    """An endless stream of examples, epoch after epoch, each in its own order.

    Holds `block_size` examples: for each one that is given out, one of the next block is read.

    Args:
        stream: a `datasets.IterableDataset`.
        block_size: examples that are permuted together.
        seed: fixes the order.
    """

    def __init__(self, stream: Any, block_size: int, seed: int) -> None:
        self.stream = stream
        self.block_size = check_integer("block_size", block_size)
        self.seed = check_integer("seed", seed, 0, 2**63)
        self.num_shards = int(stream.n_shards)

    def read(self, place: dict[str, Any] | None = None) -> Iterator[tuple[dict[str, Any], Row]]:
        """Examples, each with the place of its block, from the beginning of a block on.

        Args:
            place: the block to begin with: JSON values as they are given here; None for the first.

        Raises:
            ValueError: the stream is empty or breaks off.
        """
        start = place or {"epoch": 0, "block": 0, **self._beginning()}
        for epoch in count(start["epoch"]):
            empty = True
            for item in self._epoch(start):
                empty = False
                yield item
            if empty and start is place:
                raise ValueError(f"the place in the stream must lie before the end of the data set, got {place!r}")
            if empty:
                raise ValueError("the data set must hold at least one image, got none")
            start = {"epoch": epoch + 1, "block": 0, **self._beginning()}

    def _beginning(self) -> dict[str, Any]:
        return {"shard": 0, "shard_row": 0, "state": None, "datasets": _version()}

    def _epoch(self, place: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Row]]:
        epoch = place["epoch"]
        # The third number tells the shards, 0, from the blocks, which count from 1.
        shards = np.random.default_rng([self.seed, epoch, 0]).permutation(self.num_shards)
        source = ShardRows(self.stream, shards, place)
        rows = _unbroken(source)
        block: list[Row | None] = list(islice(rows, self.block_size))
        while block:
            following: list[Row | None] = []
            after = {"epoch": epoch, "block": place["block"] + 1, **source.place()}
            for index in np.random.default_rng([self.seed, epoch, place["block"] + 1]).permutation(len(block)):
                yield place, _taken(block, int(index))
                following.extend(islice(rows, 1))
            place, block = after, following


def _taken(block: list[Row | None], index: int) -> Row:
    row, block[index] = block[index], None
    assert row is not None
    return row


def _unbroken(source: ShardRows) -> Iterator[Row]:
    try:
        yield from source
    except Exception as error:  # a damaged file may raise nearly anything
        place = source.place()
        shard = int(source.order[place["shard"]])
        raise ValueError(f"shard {shard} of the stream breaks off after row {place['shard_row']}: {error}") from error


def _version() -> str:
    return importlib.metadata.version("datasets")


def check_place(name: str, place: Any) -> dict[str, Any]:
    """`place` if it has the form of a place in a stream.

    Raises:
        ValueError: it has not.
    """
    numbers = [place.get(key) for key in PLACE_NUMBERS] if isinstance(place, dict) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{name} must be a place in a stream with {', '.join(PLACE_NUMBERS)}, got {place!r}")
    if not isinstance(place.get("state"), dict | None) or not isinstance(place.get("datasets"), str):
        raise ValueError(f"{name} must hold the state of a stream and the version of datasets, got {place!r}")
    return place
