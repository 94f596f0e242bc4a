"""Training images: from an opened data set to batches of uint8 tensors.

Images are decoded once into one uint8 tensor while that fits into memory (60,000 images of 32 x 32 are 60 MB) and on
demand beyond that. Their order is a pure function of (seed, position), so that a run that is resumed at any step, on any
number of processes, continues with exactly the images of an uninterrupted run.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..schedulers.checks import (
    as_real,
    check_flag,
    check_instance,
    check_integer,
    check_number,
    check_numbers,
    check_values,
)
from .image_format import ImageFormat
from .image_sources import load_images
from .image_table import ImageRows, ImageTable, find_image_column
from .interruption import ignore_signals


__all__ = [
    "ImageFormat",
    "ImageStore",
    "ImageTable",
    "ShuffledBatches",
    "find_image_column",
    "image_batches",
    "load_images",
    "to_data_range",
    "to_uint8",
]

logger = logging.getLogger(__name__)


class ImageStore(Dataset):
    """Formatted images by index: a list of indices gives a uint8 tensor (len, channels, height, width).

    Args:
        dataset: the opened data set.
        image_format: size and channels.
        image_column: see `find_image_column`.
        max_cached_gb: decode everything at once into memory if it takes no more than this many GB.
        skip_broken_images: leave out images that cannot be decoded, with a warning. They are found by decoding all images
            once, here, also where they do not fit into memory.

    Attributes:
        kept: the row of the data set behind each index, for its labels.
        broken: "image 7 (cat.png): reason" for each image left out.

    Raises:
        ValueError: there is no image, or one cannot be decoded; names its row and file.
    """

    def __init__(
        self,
        dataset: ImageTable,
        image_format: ImageFormat,
        image_column: str | None = None,
        max_cached_gb: float = 4.0,
        skip_broken_images: bool = False,
    ) -> None:
        if not isinstance(image_format, ImageFormat):
            raise TypeError(f"image_format must be an ImageFormat, got {type(image_format).__name__}")
        check_flag("skip_broken_images", skip_broken_images)
        check_number("max_cached_gb", max_cached_gb, 0)
        if len(dataset) == 0:
            raise ValueError("the data set must hold at least one image, got none")
        self.dataset, self.format = dataset, image_format
        self.column = find_image_column(dataset, image_column)
        self.rows = ImageRows(dataset, self.column)
        self.kept: Sequence[int] = range(len(dataset))
        self.broken: list[str] = []
        self.cache: torch.Tensor | None = None
        if len(dataset) * np.prod(image_format.shape) <= max_cached_gb * 1e9:
            self.cache = self._decode_all(
                skip_broken_images, torch.empty(len(dataset), *image_format.shape, dtype=torch.uint8)
            )
        elif skip_broken_images:
            self._decode_all(True, None)

    def file(self, index: int) -> str:
        """The name of an image's file without its folder; empty where it has none."""
        return Path(self.rows.path(self.kept[index]) or "").name

    def _decode_all(self, skip_broken_images: bool, cache: torch.Tensor | None) -> torch.Tensor | None:
        kept: list[int] = []
        for row in range(len(self.dataset)):
            try:
                image = self._decode_row(row)
            except ValueError as error:
                if not skip_broken_images:
                    raise
                self.broken.append(str(error))
                continue
            if cache is not None:
                cache[len(kept)] = torch.from_numpy(image)
            kept.append(row)
        if self.broken:
            logger.warning("%d of %d images are left out: %s", len(self.broken), len(self.dataset), self.broken[:5])
            self.kept = kept
        if not kept:
            raise ValueError(f"the data set must hold at least one image that can be decoded, got {self.broken[0]}")
        return None if cache is None else cache[: len(kept)]

    def _decode_row(self, row: int) -> np.ndarray:
        try:
            return self.format(self.rows[row])
        except Exception as error:  # a damaged file may raise nearly anything
            raise ValueError(f"{self.rows.name(row)} cannot be read: {error}") from error

    def select(self, indices: Sequence[int]) -> Self:
        """A store of these images alone."""
        chosen = copy.copy(self)
        chosen.kept = [self.kept[index] for index in indices]
        chosen.cache = None if self.cache is None else self.cache[torch.as_tensor(indices)]
        return chosen

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, indices: Sequence[int]) -> torch.Tensor:
        if isinstance(indices, int):
            return self[[indices]][0]
        if self.cache is not None:
            return self.cache[torch.as_tensor(indices)]
        return torch.from_numpy(np.stack([self._decode_row(self.kept[index]) for index in indices]))


class ShuffledBatches(Sampler):
    """An endless stream of index batches: epoch after epoch, each in its own order, sliced among processes.

    The stream is a fixed sequence of image indices; `start` is the number of images that all processes together
    have consumed. No image is dropped at the end of an epoch.

    Args:
        num_images: size of the data set.
        batch_size: images per batch and process.
        seed: fixes the order.
        start: position in the stream, in images.
        rank, world_size: this process, and how many there are.
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.num_images = check_integer("num_images", num_images)
        self.batch_size = check_integer("batch_size", batch_size)
        self.seed, self.start = check_integer("seed", seed, 0, 2**63), check_integer("start", start, 0, 2**63)
        self.world_size = check_integer("world_size", world_size)
        self.rank = check_integer("rank", rank, 0, self.world_size - 1)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, self.num_images)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
        return int(self._order[offset])

    def __iter__(self) -> Iterator[list[int]]:
        position = self.start + self.rank * self.batch_size
        while True:
            yield [self._index(position + k) for k in range(self.batch_size)]
            position += self.world_size * self.batch_size


def image_batches(
    store: ImageStore, stream: ShuffledBatches, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[torch.Tensor]:
    """Endless iterator over uint8 batches (B, C, H, W) in the order of `stream`."""
    # A generator of its own: the loader would otherwise draw from the global one.
    generator = torch.Generator().manual_seed(stream.seed)
    loader = DataLoader(
        store,
        batch_size=None,
        sampler=stream,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=generator,
        worker_init_fn=ignore_signals,
    )
    return iter(loader)


def _check_images(images: torch.Tensor, data_range: tuple[float, float]) -> list[float]:
    check_instance("images", images, torch.Tensor)
    check_values("images", as_real("images", images))
    if images.is_floating_point() and not bool(images.float().isfinite().all()):
        raise ValueError("images must be finite, got NaN or infinity")
    low, high = ends = check_numbers("data_range", data_range, count=2)
    if not low < high:
        raise ValueError(f"data_range must be two increasing numbers, got {low} and {high}")
    return ends


def to_data_range(images: torch.Tensor, data_range: tuple[float, float]) -> torch.Tensor:
    """uint8 images as float32 in `data_range` (0 -> its lower end, 255 -> its upper end)."""
    low, high = _check_images(images, data_range)
    return (images.float() * ((high - low) / 255)).add_(low)


def to_uint8(images: torch.Tensor, data_range: tuple[float, float]) -> torch.Tensor:
    """Float images in `data_range` as uint8, clipped and rounded."""
    low, high = _check_images(images, data_range)
    return ((images.float() - low) * (255 / (high - low))).round_().clamp_(0, 255).to(torch.uint8)
