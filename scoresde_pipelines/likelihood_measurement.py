"""Bits/dim of the images of a data set, row by row into a table: what `scoresde likelihood` runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm.auto import tqdm

from .likelihood_table import LikelihoodTable, Row
from .pipeline_likelihood import ScoreSdeLikelihoodPipeline
from .schedulers.probability_flow import ODEError
from .training.data import ImageFormat, ImageStore, ImageTable
from .training.data_report import DataReport, data_report
from .training.evaluation.real_images import open_split
from .training.seeding import likelihood_seed


def measure(
    pipe: ScoreSdeLikelihoodPipeline,
    images: ImageStore,
    table: LikelihoodTable,
    count: int,
    batch_size: int,
    seed: int,
    options: dict,
) -> None:
    """Fills in the rows 0 ... count - 1 that are missing; of these every process takes its share.

    The random numbers of an image follow from (seed, index): not from batches, processes or interruptions.
    """
    rank, world_size = _environment(_RANK, 0), _environment(_WORLD_SIZE, 1)
    finished = table.rows()
    left = [index for index in range(rank, count, world_size) if index not in finished]
    with tqdm(total=len(left), unit="image", disable=rank != 0) as bar, _counted(pipe.unet, bar):
        for start in range(0, len(left), batch_size):
            indices = left[start : start + batch_size]
            generators = [torch.Generator().manual_seed(likelihood_seed(seed, index)) for index in indices]
            try:
                result: Any = pipe(images[indices], generator=generators, **options)
            except ODEError as error:
                raise ODEError(f"images {indices[0]} to {indices[-1]}: {error}") from error
            for position, index in enumerate(indices):
                values = {name: float(result[name][position]) for name in _COLUMNS}
                table.append(Row(index=index, nfe=int(result.nfe[position]), **values, file=images.file(index)))
            bar.update(len(indices))
            bar.set_description_str(f"{table.summary(count)[0]:.4f} bits/dim")


@contextmanager
def _counted(network: torch.nn.Module, bar: Any) -> Iterator[None]:
    """Shows the number of network calls while an image is measured: it may take minutes."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        bar.set_postfix_str(f"{calls} network calls", refresh=False)
        bar.update(0)

    handle = network.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


_COLUMNS = ("bits_per_dim", "standard_error", "probe_error", "dequantization_error", "solver_error")


# Set by torchrun and `accelerate launch --multi_gpu`; by Intel's, Open and MVAPICH2 MPI.
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def _environment(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def open_images(data: str, split: str) -> tuple[ImageTable, DataReport]:
    """A data set, and what its images are.

    Raises:
        ValueError: there is neither such a file or folder nor such a data set of the Hub, no such split, or an image that
            cannot be read.
    """
    table = open_split(data, split, whole_if_unsplit=True)
    report = data_report(table)
    if report.broken:
        raise ValueError(f"data must hold images that can be read, got {report.broken[0]} in {data}")
    return table, report


def images_of_shape(table: ImageTable, fit: str, shape: tuple[int, int, int]) -> ImageStore:
    """A data set in the form of a model's images, `shape` (channels, height, width)."""
    channels, height, width = shape
    return ImageStore(table, ImageFormat((height, width), channels, fit), max_cached_gb=0)
