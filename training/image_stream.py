"""Training images from a stream: batches of uint8 tensors, at every position those that an uninterrupted run has there.

Images have positions, from 0 on through all epochs. Which image is at a position follows from the data set, the seed and
the size of a block (`stream_order`), never from processes or threads. A bookmark is the beginning of a block with
its position: a run can go on at any position after it. What was read ahead is read again after a resume.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..schedulers.checks import check_flag, check_integer
from .image_format import ImageFormat
from .image_table import open_image
from .stream_labels import StreamLabels
from .stream_order import BlockShuffle, Row, check_place
from .stream_sources import column_value


logger = logging.getLogger(__name__)

AHEAD = 2  # batches that threads prepare
LISTED = 5  # broken images that are named


class StreamBatch(NamedTuple):
    """A batch of one process.

    Attributes:
        images: uint8, shape (B, C, H, W).
        labels: classes, int64, shape (B,), or None.
        bookmark: of a block that begins at or before the first of these images; JSON values.
    """

    images: Tensor
    labels: Tensor | None
    bookmark: dict[str, Any]


class ImageStream:
    """Formatted images and their classes from a stream.

    Args:
        stream: as `stream_sources.open_stream` opens it.
        image_format: size and channels.
        image_column: the column with the images.
        labels: how classes are read; None for images alone.
        block_size, seed: see `BlockShuffle`.
        skip_broken_images: leave out images that cannot be decoded, with a warning. Every process then decodes the
            images of all.
    """

    def __init__(
        self,
        stream: Any,
        image_format: ImageFormat,
        image_column: str,
        labels: StreamLabels | None = None,
        *,
        block_size: int,
        seed: int,
        skip_broken_images: bool = False,
    ) -> None:
        check_flag("skip_broken_images", skip_broken_images)
        self.format, self.column, self.labels, self.skip = image_format, image_column, labels, skip_broken_images
        self.order = BlockShuffle(stream, block_size, seed)
        self.broken = 0
        feature = stream.features[image_column]
        self._feature = type(feature)(mode=feature.mode)  # decodes

    def batches(
        self,
        batch_size: int,
        start: int = 0,
        bookmark: dict[str, Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 0,
    ) -> Iterator[StreamBatch]:
        """The batches of one process, without end: consecutive positions go to the processes in turn.

        Args:
            batch_size: images per batch and process.
            start: position of the first image of all processes.
            bookmark: of a batch at or before `start`; None reads from the beginning.
            rank, world_size: this process, and how many there are.
            num_threads: threads that decode, beside one that reads ahead; 0 decodes when a batch is asked for.

        Raises:
            ValueError: the stream is empty or breaks off, or an image or label cannot be read; it is named.
        """
        check_integer("batch_size", batch_size)
        rows = self._shares(batch_size, start, bookmark, rank, world_size)
        if num_threads == 0:
            for share in rows:
                yield self._batch(share, map)
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(num_threads) as decoders:
            # One thread alone reads: the order does not depend on which decodes first.
            def submit() -> Future[StreamBatch]:
                return reader.submit(lambda: self._batch(next(rows), decoders.map))

            waiting = deque(submit() for _ in range(AHEAD))
            while True:
                batch = waiting.popleft().result()
                waiting.append(submit())
                yield batch

    # ------------------------------------------------------------------ which images

    def _shares(
        self, batch_size: int, start: int, bookmark: dict[str, Any] | None, rank: int, world_size: int
    ) -> Iterator[tuple[dict[str, Any], list[Row]]]:
        """The rows of each batch of a process, with the bookmark of the first."""
        if bookmark is not None and bookmark["position"] > start:
            raise ValueError(f"the bookmark must lie at or before the position {start}, got {bookmark['position']}")
        share: list[Row] = []
        first: dict[str, Any] = {}
        for found, position, row in self._positions(bookmark):
            if position < start or (position - start) // batch_size % world_size != rank:
                continue
            first = first if share else found
            share.append(row)
            if len(share) == batch_size:
                yield first, share
                share = []

    def _positions(self, bookmark: dict[str, Any] | None) -> Iterator[tuple[dict[str, Any], int, Row]]:
        """Bookmark, position and row of each image, without those that are left out."""
        begin = bookmark or {}
        position, place, last_epoch = begin.get("position", 0), None, begin.get("epoch", 0)
        for block, row in self.order.read(bookmark):
            if block is not place:
                place, bookmark = block, {**block, "position": position}
            assert bookmark is not None
            usable = self._readable(row) if self.skip else row
            if usable is None:
                if bookmark["epoch"] > last_epoch + 1:
                    raise ValueError("the data set must hold at least one image that can be decoded, got none")
                continue
            last_epoch = bookmark["epoch"]
            yield bookmark, position, usable
            position += 1

    def _readable(self, row: Row) -> Row | None:
        """The row with its image decoded; None where that fails."""
        try:
            return row._replace(example={**row.example, self.column: self._decoded(row)})
        except ValueError as error:
            self.broken += 1
            if self.broken <= LISTED:
                logger.warning("left out: %s%s", error, "; others are not listed" if self.broken == LISTED else "")
            return None

    # ------------------------------------------------------------------ from rows to tensors

    def _batch(self, share: tuple[dict[str, Any], list[Row]], mapped: Callable[..., Iterable[Any]]) -> StreamBatch:
        bookmark, rows = share
        images = torch.from_numpy(np.stack(list(mapped(self._decoded, rows))))
        labels = None if self.labels is None else torch.tensor([self._label(row) for row in rows])
        return StreamBatch(images, labels, bookmark)

    def _decoded(self, row: Row) -> np.ndarray:
        value = row.example[self.column]
        if isinstance(value, np.ndarray):
            return value
        try:
            return self.format(open_image(value, self._feature))
        except Exception as error:  # a damaged file may raise nearly anything
            raise ValueError(f"{self._name(row)} cannot be read: {error}") from error

    def _label(self, row: Row) -> int:
        assert self.labels is not None
        try:
            return self.labels.of_example(row.example)
        except ValueError as error:
            raise ValueError(f"{self._name(row)}: {error}") from error

    def _name(self, row: Row) -> str:
        value = row.example[self.column]
        path = value.get("path") if isinstance(value, dict) else None
        key = path or column_value(row.example, "__key__")
        return f"image {row.row} of shard {row.shard}" + (f" ({key})" if key else "")


def check_bookmark(bookmark: Any, name: str = "stream") -> dict[str, Any] | None:
    """The bookmark of a checkpoint, if it has the form of one or is None; `name` is for the message.

    Raises:
        ValueError: it has not.
    """
    if bookmark is None:
        return None
    place = check_place(name, bookmark)
    check_integer(f"position in {name}", place.get("position"), 0, 2**63)
    return place
