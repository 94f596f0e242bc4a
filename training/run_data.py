"""The data set that the arguments of a run name: opened as a whole or, with `--streaming`, as a stream."""

import argparse
from typing import Any

import torch

from .data import ImageStore
from .image_sources import load_images
from .image_stream import ImageStream
from .image_table import find_image_column
from .run_settings import data_fingerprint
from .stream_labels import StreamLabels
from .stream_sources import FIRST_IMAGES, first_rows, open_stream


def open_table(args: argparse.Namespace, split: str, first: int = FIRST_IMAGES) -> Any:
    """A split as a `datasets.Dataset`; with `--streaming` its first rows."""
    if args.streaming:
        return first_rows(open_stream(*_location(args, split)), first)
    return load_images(*_location(args, split))


def make_image_stream(
    args: argparse.Namespace, table: Any, images: ImageStore, labels: StreamLabels | None
) -> ImageStream:
    """The training images with `--streaming`, of which `table` and `images` are the first."""
    return ImageStream(
        open_stream(*_location(args, args.split)),
        images.format,
        find_image_column(table, args.image_column),
        labels,
        block_size=args.shuffle_buffer,
        seed=args.seed,
        skip_broken_images=args.skip_broken_images,
    )


def data_set_name(images: ImageStore, labels: torch.Tensor | None, stream: ImageStream | None) -> str:
    """What a resumed run compares: see `data_fingerprint`; of a stream the number of shards and the first images."""
    data = data_fingerprint(images, labels)
    return data if stream is None else f"stream of {stream.order.num_shards} shards, the first {data}"


def _location(args: argparse.Namespace, split: str) -> tuple[Any, ...]:
    return args.dataset_name, args.dataset_config_name, args.train_data_dir, split, args.cache_dir
