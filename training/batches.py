"""The batches of a run: which images, in which order, with which random numbers.

All of them are functions of (seed, update, position of the image in the data stream).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from ..schedulers.transfers import to_device
from .class_sampling import BalancedBatches
from .data import ImageStore, ShuffledBatches, image_batches
from .image_stream import ImageStream
from .seeding import ImageDraws, combined_seed, stratified


@dataclass
class Batch:
    """What one process trains on in one accumulation step.

    Attributes:
        images: uint8, shape (B, C, H, W), on the device, mirrored with `--random_flip`.
        labels: classes, int64, shape (B,), or None.
        u: uniforms in [0, 1) for the times, float64, shape (B,), on the CPU: Apple GPUs have no float64.
        draws: further random numbers of these images.
        bookmark: the place in the stream after this batch; see `image_stream`.
    """

    images: Tensor
    labels: Tensor | None
    u: Tensor
    draws: ImageDraws
    bookmark: dict[str, Any] | None = None


class Pictures(NamedTuple):
    """Images of a batch as they are read: uint8 on the CPU, their classes, and the place in the stream after them."""

    images: Tensor
    labels: Tensor | None
    bookmark: dict[str, Any] | None = None


class BatchSource:
    """Makes the batches of this process.

    Args:
        args: see `arguments.parse_args`.
        accelerator: of the run.
        images: the data, of a stream its first images.
        labels: classes of the images, int64, shape (N,), or None.
        stream: the data where they are streamed.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        accelerator: Accelerator,
        images: ImageStore,
        labels: Tensor | None,
        stream: ImageStream | None,
    ) -> None:
        self.args, self.accelerator = args, accelerator
        self.images, self.labels, self.stream = images, labels, stream

    @property
    def images_per_update(self) -> int:
        """Images of one update, of all processes and accumulation steps."""
        args = self.args
        return args.train_batch_size * self.accelerator.num_processes * args.gradient_accumulation_steps

    def indices(self, start: int) -> ShuffledBatches:
        """The indices of the batches of this process, from position `start` of the data stream on."""
        args, accelerator = self.args, self.accelerator
        place = (args.train_batch_size, args.seed, start, accelerator.process_index, accelerator.num_processes)
        if getattr(args, "class_sampling", "natural") == "balanced":
            assert self.labels is not None
            return BalancedBatches(self.labels, *place)
        return ShuffledBatches(len(self.images), *place)

    def read(self, start: int, bookmark: dict[str, Any] | None = None) -> Iterator[Pictures]:
        """Images of this process from position `start` on, without end; `bookmark` is that place in a stream."""
        pinned, workers = self.accelerator.device.type == "cuda", self.args.dataloader_num_workers
        if self.stream is not None:
            return self._read_stream(self.stream, start, bookmark, pinned, workers)
        loaded, labels = image_batches(self.images, self.indices(start), workers, pinned), self.labels
        return (
            Pictures(images, None if labels is None else labels[indices])
            for images, indices in zip(loaded, self.indices(start))
        )

    def _read_stream(
        self, stream: ImageStream, start: int, bookmark: dict[str, Any] | None, pinned: bool, threads: int
    ) -> Iterator[Pictures]:
        place = (start, bookmark, self.accelerator.process_index, self.accelerator.num_processes)
        for batch in stream.batches(self.args.train_batch_size, *place, num_threads=threads):
            images = batch.images.pin_memory() if pinned else batch.images
            yield Pictures(images, batch.labels, batch.bookmark)

    def next_batch(self, pictures: Iterator[Pictures], update: int, micro: int, images_seen: int) -> Batch:
        """The next batch of `pictures`, and seeds torch's generator for the dropout of the network.

        Args:
            pictures: from `read`.
            update: number of the update.
            micro: accumulation step within it.
            images_seen: position in the data stream where the update begins.
        """
        args, accelerator = self.args, self.accelerator
        device, process = accelerator.device, accelerator.process_index
        torch.manual_seed(combined_seed(args.seed, update, micro, process))
        images, labels, bookmark = next(pictures)
        first = (micro * accelerator.num_processes + process) * args.train_batch_size
        draws = ImageDraws(args.seed, images_seen + first, len(images))
        u = draws.time
        if getattr(args, "time_sampling", "stratified") == "stratified":
            u = stratified(u, args.seed, update, first, self.images_per_update)
        images = images.to(device, non_blocking=True)
        if args.random_flip:
            mirrored = to_device(draws.flip < 0.5, device).reshape(-1, 1, 1, 1)
            images = torch.where(mirrored, images.flip(-1), images)
        return Batch(images, None if labels is None else to_device(labels, device), u, draws, bookmark)
