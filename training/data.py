"""Training images: from the Hub, a folder or parquet files to batches of uint8 tensors.

Images are decoded once into one uint8 tensor while that fits into memory (60,000 images of 32 x 32 are 60 MB) and on
demand beyond that. The order in which they are visited is a pure function of (seed, position), so that a run that is
resumed at any step, on any number of processes, goes on with exactly the images it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from .interruption import ignore_signals


MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ImageTable(Protocol):
    """What is needed of a data set: a `datasets.Dataset` or any sequence of ``{"image": PIL.Image}``."""

    column_names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def load_images(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_data_dir: str | None = None,
    split: str = "train",
    cache_dir: str | None = None,
) -> Any:
    """Opens a data set with the `datasets` library; returns a `datasets.Dataset`.

    Args:
        dataset_name: a Hub id, or a local folder that `datasets` understands.
        train_data_dir: a parquet file, a folder with parquet files (those whose names start with ``split`` where
            there are such), or a folder of images.
        split: "train", "test", ...

    Raises:
        ValueError: neither or both sources are given, or nothing is there.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError("training reads its images with the `datasets` library: pip install datasets") from error
    if (dataset_name is None) == (train_data_dir is None):
        raise ValueError("give either dataset_name (a Hub id) or train_data_dir (a folder or parquet file), not both")
    if dataset_name is not None:
        return load_dataset(dataset_name, dataset_config_name, split=split, cache_dir=cache_dir)
    path = Path(str(train_data_dir))
    if not path.exists():
        raise ValueError(f"train_data_dir is {train_data_dir!r}, which does not exist")
    parquet = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if parquet:
        files = [str(file) for file in parquet if file.name.startswith(split)] or [str(file) for file in parquet]
        return _with_images(load_dataset("parquet", data_files={split: files}, split=split, cache_dir=cache_dir))
    return load_dataset("imagefolder", data_dir=str(path), split=split, cache_dir=cache_dir)


def _with_images(table: Any) -> Any:
    """Parquet files that `datasets` did not write hold encoded images as bare ``{"bytes": ...}``: makes them images."""
    from datasets import Image as ImageFeature

    for name, feature in table.features.items():
        if isinstance(feature, dict) and "bytes" in feature:
            table = table.cast_column(name, ImageFeature())
    return table


def find_image_column(dataset: ImageTable, image_column: str | None = None) -> str:
    """The column that holds images: the one named, else "image", "img", or the first whose values are images."""
    names = list(dataset.column_names)
    if image_column is not None:
        if image_column not in names:
            raise ValueError(f"image_column is {image_column!r}, but the data set has the columns {names}")
        return image_column
    first = dataset[0]
    candidates = ["image", "img", *names]
    for name in candidates:
        if name in names and isinstance(first[name], Image.Image):
            return name
    raise ValueError(f"no column of {names} holds images; name it with image_column")


@dataclass(frozen=True)
class ImageFormat:
    """How a picture becomes a (channels, resolution, resolution) array.

    Attributes:
        resolution: side in pixels.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        fit: "crop" resizes the shorter side to the resolution and crops the centre; "pad" keeps an image that fits at
            its own size (a larger one is shrunk to fit) and centres it on a background.
        pad_value: the background for "pad", 0 (black) to 255.
    """

    resolution: int
    channels: int
    fit: str = "crop"
    pad_value: int = 0

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise ValueError(f"channels is {self.channels}, expected one of {sorted(MODES)}")
        if self.fit not in ("crop", "pad"):
            raise ValueError(f"fit is {self.fit!r}, expected 'crop' or 'pad'")
        if self.resolution < 1:
            raise ValueError(f"resolution is {self.resolution}, expected a positive number of pixels")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.resolution, self.resolution

    def __call__(self, image: Image.Image) -> np.ndarray:
        """A picture of any size and mode as uint8, shape (channels, resolution, resolution)."""
        image = image.convert(MODES[self.channels])
        side = min(image.size) if self.fit == "crop" else max(max(image.size), self.resolution)
        if side != self.resolution:
            width, height = (max(1, round(length * self.resolution / side)) for length in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        pixels = np.asarray(image).reshape(image.height, image.width, self.channels).transpose(2, 0, 1)
        return self._centre(pixels)

    def _centre(self, pixels: np.ndarray) -> np.ndarray:
        """Crops or pads (C, H, W) to the resolution, around the centre."""
        canvas = np.full(self.shape, self.pad_value, dtype=np.uint8)
        spans = [_overlap(length, self.resolution) for length in pixels.shape[1:]]
        (source_y, target_y), (source_x, target_x) = spans
        canvas[:, target_y, target_x] = pixels[:, source_y, source_x]
        return canvas


def _overlap(source: int, target: int) -> tuple[slice, slice]:
    """The centred common part of two lengths, as slices into either."""
    length = min(source, target)
    start, offset = (source - length) // 2, (target - length) // 2
    return slice(start, start + length), slice(offset, offset + length)


class ImageStore(Dataset):
    """Formatted images by index: a list of indices gives a uint8 tensor (len, channels, resolution, resolution).

    Args:
        dataset: the opened data set.
        image_format: size and channels.
        image_column: see `find_image_column`.
        max_cached_gb: decode everything at once into memory if it takes no more than this many GB.
    """

    def __init__(
        self,
        dataset: ImageTable,
        image_format: ImageFormat,
        image_column: str | None = None,
        max_cached_gb: float = 4.0,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("the data set is empty")
        self.dataset, self.format = dataset, image_format
        self.column = find_image_column(dataset, image_column)
        size = len(dataset) * image_format.channels * image_format.resolution**2
        self.cache = self._decode(range(len(dataset))) if size <= max_cached_gb * 1e9 else None

    def _decode(self, indices: Sequence[int]) -> torch.Tensor:
        images = np.empty((len(indices), *self.format.shape), dtype=np.uint8)
        for position, index in enumerate(indices):
            images[position] = self.format(self.dataset[index][self.column])
        return torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, indices: Sequence[int]) -> torch.Tensor:
        return self._decode(indices) if self.cache is None else self.cache[torch.as_tensor(indices)]


class ShuffledBatches(Sampler):
    """An endless stream of index batches: epoch after epoch, each in its own order, sliced among processes.

    The stream is a fixed sequence of image indices; ``start`` is the number of images that all processes together
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
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.start, self.rank, self.world_size = start, rank, world_size
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
    """Endless iterator over uint8 batches (B, C, H, W) in the order of ``stream``."""
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


def to_data_range(images: torch.Tensor, data_range: tuple[float, float]) -> torch.Tensor:
    """uint8 images as float32 in ``data_range`` (0 -> its lower end, 255 -> its upper end)."""
    low, high = data_range
    return images.float().mul_((high - low) / 255).add_(low)


def to_uint8(images: torch.Tensor, data_range: tuple[float, float]) -> torch.Tensor:
    """Float images in ``data_range`` as uint8, clipped and rounded."""
    low, high = data_range
    return ((images.float() - low) * (255 / (high - low))).round_().clamp_(0, 255).to(torch.uint8)


def random_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirrors each image of a batch (B, C, H, W) with probability one half."""
    flip = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flip.reshape(-1, 1, 1, 1), images.flip(-1), images)
