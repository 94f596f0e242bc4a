"""`scoresde likelihood`: bits/dim of a data set under a model, as a table that grows row by row."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm.auto import tqdm

from .likelihood_table import LikelihoodTable, Row
from .pipeline_likelihood import ScoreSdeLikelihoodPipeline
from .schedulers.checks import check_device, check_integer
from .schedulers.dequantization import DEQUANTIZATIONS
from .schedulers.divergence import DIVERGENCES
from .schedulers.probability_flow import ODEError
from .training.data import ImageFormat, ImageStore, load_images


def likelihood(
    model: Annotated[str, typer.Option(help="Pipeline folder, Hub id, or the name of a shipped pipeline.")],
    data: Annotated[str, typer.Option(help="Folder or parquet file of images, or a Hub data set.")],
    output: Annotated[Path, typer.Option(help="Table to write or to go on with: .csv or .jsonl.")],
    split: Annotated[
        str, typer.Option(help="Split of the data set; of a folder without splits all images are read.")
    ] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Measure the first so many images only.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; results do not depend on it.")] = 16,
    fit: Annotated[str, typer.Option(help="'crop' or 'pad' to the model's resolution.")] = "crop",
    dequantization: Annotated[str, typer.Option(help=f"One of {', '.join(DEQUANTIZATIONS)}.")] = "uniform",
    num_dequantizations: Annotated[int, typer.Option(min=1, help="Draws of dequantization noise per image.")] = 1,
    importance_weighted: Annotated[bool, typer.Option(help="Tighter bound from several draws.")] = False,
    divergence: Annotated[str, typer.Option(help=f"One of {', '.join(DIVERGENCES)}.")] = "hutchinson",
    num_probes: Annotated[int, typer.Option(min=1, help="Probes per image and quadrature node.")] = 1,
    tolerance: Annotated[float, typer.Option(help="Error per step of the ODE solver.")] = 1e-5,
    official_cells: Annotated[
        bool, typer.Option(help="Dequantize as (255 x + u) / 256, like the official code.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Together with an image's index it decides all randomness.")] = 0,
    device: Annotated[str | None, typer.Option(help="Where to compute; the best there is by default.")] = None,
) -> None:
    """Mean bits/dim of a data set with its standard error. Run it again to go on after an interruption.

    On several processes, with or without GPUs:
    accelerate launch --multi_gpu --num_processes 2 -m scoresde_pipelines.cli likelihood ...
    """
    _check_choice("fit", fit, ("crop", "pad"))
    _check_choice("dequantization", dequantization, DEQUANTIZATIONS)
    _check_choice("divergence", divergence, DIVERGENCES)
    if not 0 < tolerance < 1:
        raise typer.BadParameter(f"tolerance must lie between 0 and 1, got {tolerance}")
    settings = {
        "model": model,
        "data": data,
        "split": split,
        "fit": fit,
        "dequantization": dequantization,
        "num_dequantizations": num_dequantizations,
        "importance_weighted": importance_weighted,
        "divergence": divergence,
        "num_probes": num_probes,
        "tolerance": tolerance,
        "official_cells": official_cells,
        "seed": seed,
    }
    with named("device"):
        place = check_device("device", _device(device))
    with named("seed"):
        check_integer("seed", seed, 0, 2**31 - 1)
    with named("model"):
        pipe = ScoreSdeLikelihoodPipeline.from_pretrained(not_empty(model)).to(place)
    with named("split"):
        not_empty(split)
    with named("data"):
        images = _open_images(not_empty(data), split, fit, pipe.sample_shape)
    with named("output"):
        table = LikelihoodTable(output, {**settings, "weights": fingerprint(pipe.unet)})
    count = len(images) if limit is None else min(limit, len(images))
    options = {name: settings[name] for name in _PIPELINE_OPTIONS}
    try:
        measure(pipe, images, table, count, batch_size, seed, options)
    except ODEError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    mean, standard_error, done = table.summary(count)
    if done >= count:
        typer.echo(f"{mean:.4f} +- {standard_error:.4f} bits/dim over {done} images of {data} ({split}): {output}")


_PIPELINE_OPTIONS = (
    "dequantization",
    "num_dequantizations",
    "importance_weighted",
    "divergence",
    "num_probes",
    "tolerance",
    "official_cells",
)


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
    with tqdm(total=len(left), unit="image", disable=rank != 0) as bar:
        for start in range(0, len(left), batch_size):
            indices = left[start : start + batch_size]
            generators = [torch.Generator().manual_seed(seed * 2**32 + index) for index in indices]
            try:
                result: Any = pipe(images[indices], generator=generators, **options)
            except ODEError as error:
                raise ODEError(f"images {indices[0]} to {indices[-1]}: {error}") from error
            for position, index in enumerate(indices):
                values = {name: float(result[name][position]) for name in _COLUMNS}
                table.append(Row(index=index, nfe=int(result.nfe[position]), **values))
            bar.update(len(indices))
            bar.set_postfix_str(f"{table.summary(count)[0]:.4f} bits/dim")


_COLUMNS = ("bits_per_dim", "standard_error", "probe_error", "dequantization_error", "solver_error")


# Set by torchrun and `accelerate launch --multi_gpu`; by Intel's, Open and MVAPICH2 MPI.
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def _environment(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def fingerprint(network: torch.nn.Module) -> str:
    """Sixteen hexadecimal digits of the network's weights: a table must not be continued with other weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise typer.BadParameter(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _device(name: str | None) -> str:
    if name is not None:
        return name
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return "cpu"


def not_empty(text: str) -> str:
    """`text`, unless it is empty, which raises ValueError."""
    if not text.strip():
        raise ValueError(f"must not be empty, got {text!r}")
    return text


@contextmanager
def named(option: str) -> Iterator[None]:
    """A context whose errors of the user's input end the command with the name of the option that caused them."""
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        raise typer.BadParameter(str(error), param_hint=f"--{option.replace('_', '-')}") from error


def _open_images(data: str, split: str, fit: str, shape: tuple[int, int, int]) -> ImageStore:
    channels, height, width = shape
    source = {"train_data_dir": data} if Path(data).exists() else {"dataset_name": data}
    table = load_images(**source, split=split, whole_if_unsplit=True)
    return ImageStore(table, ImageFormat((height, width), channels, fit), max_cached_gb=0)
