"""How a command runs: a model is loaded, an error ends it with one line, and pictures are written whole or not at all.

Importing it needs no torch, so that `--help` is quick.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from .samplers import SAMPLERS, with_sampler


GRID = "grid.png"
LOG_INTERVAL = 5.0  # seconds between two states of a bar that goes into a file


@dataclass
class Work:
    """A run of a command; errors before `started` are bad arguments (exit code 2), later ones failures (1)."""

    started: bool = False
    calls: list[float] = field(default_factory=list)

    def step(self, pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """The callback of a sampling run: arguments have been found good."""
        self.started = True
        return {}

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns exceptions into a message on stderr and an exit code."""
        try:
            yield
        except (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError) as error:
            text, memory = str(error), lacks_memory(error)
            if memory:
                reason = text.splitlines()[0] if text else type(error).__name__
                text = f"memory must hold the pictures of a batch: make fewer at a time, or smaller ones ({reason})"
            if not self.started and not memory:
                raise typer.BadParameter(text) from error
            typer.secho(f"error: {text}", fg="red", err=True)
            raise typer.Exit(1) from error


def lacks_memory(error: BaseException) -> bool:
    """Whether an error is that of an allocation, on a CPU or a GPU."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextmanager
def named(option: str) -> Iterator[None]:
    """A context whose errors of the user's input end the command with the name of the option that caused them."""
    try:
        yield
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        raise typer.BadParameter(str(error), param_hint=f"--{option.replace('_', '-')}") from error


def best_device(name: str | None) -> str:
    """The device of this name, or the best there is; of several GPUs the one of this process (LOCAL_RANK).

    Raises:
        ValueError: for a device that this machine does not have.
    """
    import torch

    from .schedulers.checks import check_device

    if name is not None:
        return str(check_device("device", name))
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_pipeline(pipeline: str, model: str, device: str | None, dtype: str = "float32") -> Any:
    """A pipeline of this package by the name of its class, on a device.

    Raises:
        ValueError, OSError, RuntimeError: there is no such model.
    """
    from .training.model_names import check_hub_name

    check_hub_name(model)  # before torch is imported, which takes seconds
    import torch

    import scoresde_pipelines

    kwargs = {} if dtype == "float32" else {"torch_dtype": getattr(torch, dtype)}
    place = best_device(device)
    return getattr(scoresde_pipelines, pipeline).from_pretrained(model, **kwargs).to(place)


def load_weak(model: str, pipe: Any) -> Any:
    """The network of a model, or of a training checkpoint, on the device and in the dtype of a pipeline.

    Raises:
        ValueError: no such model, or more than one.
    """
    from .evaluation_models import load_weak_network

    network = load_weak_network(model).to(pipe.device)
    return network if network.dtype == pipe.unet.dtype else network.to(pipe.unet.dtype)


def set_sampler(pipe: Any, sampler: str) -> dict[str, Any]:
    """Gives a pipeline the settings of a sampler; returns those of the pipeline's call."""
    pipe.scheduler, options = with_sampler(pipe.scheduler, sampler, SAMPLERS[sampler])
    return options


def check_output(folder: Path, overwrite: bool, pictures: Sequence[Path] = (), count: int = 0) -> None:
    """Refuses a folder that is a file, or holds anything and may not be overwritten, or one of the pictures that are read.

    Args:
        pictures: that are read; 0000.png and so on, `count` of them, and grid.png will be written.
    """
    from .training.durable_files import holds_files

    written = {GRID, *(_file_name(k) for k in range(count))}
    for path in pictures:
        if path.name in written and path.resolve().parent == folder.resolve():
            raise ValueError(f"output must not be the folder of {str(path)!r}, which would be replaced")

    if folder.is_file() or (folder.is_dir() and holds_files(folder) and not overwrite):
        raise ValueError(f"output must be a new or an empty folder, got {str(folder)!r}: name another, or --overwrite")


def in_batches(
    work: Work, count: int, batch_size: int, seed: int, call: Callable[[range, list[Any]], Any], pipe: Any
) -> list[Any]:
    """All pictures of a run; picture k has the generator of `seed + k`, whatever the batches."""
    import torch

    pictures: list[Any] = []
    pace = 0.1 if sys.stderr.isatty() else LOG_INTERVAL
    for first in range(0, count, batch_size):
        indices = range(first, min(first + batch_size, count))
        name = f"images {first + 1}-{indices[-1] + 1} of {count}"
        pipe.set_progress_bar_config(desc=name, unit="call", mininterval=pace)
        output = call(indices, [torch.Generator().manual_seed(seed + k) for k in indices])
        work.started = True
        pictures += output.images
        work.calls += torch.as_tensor(output.nfe, dtype=torch.float64).expand(len(output.images)).tolist()
    return pictures


def write_pictures(pictures: Sequence[Any], folder: Path, columns: int | None = None) -> list[Path]:
    """Writes 0000.png, 0001.png, ... and grid.png; each file appears whole, and all after the last one is made."""
    import numpy as np
    import torch

    from .training.durable_files import filled_folder
    from .training.sampling import image_grid

    pixels = torch.from_numpy(np.stack([np.atleast_3d(np.asarray(picture)) for picture in pictures]))
    named = {_file_name(k): picture for k, picture in enumerate(pictures)}
    named[GRID] = image_grid(pixels.permute(0, 3, 1, 2), columns)
    intact = f"the pictures in {folder} are as they were"
    with filled_folder(folder, "the pictures", intact, GRID) as staged:
        for name, picture in named.items():
            picture.save(staged / name)
    return [folder / name for name in named]


def _file_name(k: int) -> str:
    return f"{k:04d}.png"


def report(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The result of a command on stdout, for a program or for a person."""
    typer.echo(json.dumps(result) if as_json else text)


@dataclass
class PictureRun:
    """The options that every command with pictures as its result has."""

    model: str
    output: Path
    seed: int
    device: str | None
    dtype: str
    batch_size: int
    overwrite: bool
    json: bool

    def __call__(
        self,
        pipeline: str,
        count: int,
        prepare: Callable[[Any, Work], Callable[[range, list[Any]], Any]],
        columns: int | None = None,
        pictures: Sequence[Path] = (),
    ) -> None:
        """Loads a pipeline, lets `prepare(pipe, work)` return the call for a batch, and writes what it makes.

        `pictures` are read, and must not be replaced.
        """
        work, start = Work(), time.perf_counter()
        with named("output"):
            check_output(self.output, self.overwrite, pictures, count)
        with work.errors():
            typer.echo(f"loading {self.model}", err=True)
            pipe = load_pipeline(pipeline, self.model, self.device, self.dtype)
            call = prepare(pipe, work)
            made = in_batches(work, count, self.batch_size, self.seed, call, pipe)
            files = [str(path) for path in write_pictures(made, self.output, columns)]
        seconds, calls = time.perf_counter() - start, sum(work.calls) / len(work.calls)
        found = {"model": self.model, "images": files[:-1], "grid": files[-1], "seed": self.seed}
        found |= {"network_calls": calls, "seconds": round(seconds, 3)}
        noun = "image" if len(made) == 1 else "images"
        text = f"{len(made)} {noun}, {calls:g} network calls each, {seconds:.1f} s: {self.output}"
        report(found, self.json, text)
