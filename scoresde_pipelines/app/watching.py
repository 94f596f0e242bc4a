"""Sampling runs that are watched: pictures and counts while they go on."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..pipeline_base import SDEPipelineBase
from ..training.sampling import image_grid
from ..viz.grids import to_bytes
from ..viz.trajectories import preview


SHOWN = 384  # pixels: small images are enlarged to about this width, each pixel a square
INTERVAL = 0.1  # seconds between two pictures of a sampling run


@dataclass(frozen=True)
class Progress:
    """What is seen of a sampling run.

    Args:
        picture: the images so far, in a grid.
        count: steps made so far; of the final images, the network calls that each took.
        seconds: since the start.
        done: whether these are the final images.
    """

    picture: Image.Image
    count: int
    seconds: float
    done: bool = False

    def __str__(self) -> str:
        return f"{self.count} network calls, {self.seconds:.1f} s" if self.done else f"step {self.count} ..."


class Stopped(Exception):
    """Ends a sampling run that nobody watches any more."""


def watch(
    pipe: Any, options: dict[str, Any], seed: int, place: tuple[slice, slice] = (slice(None), slice(None))
) -> Iterator[Progress]:
    """Runs a pipeline in a thread of its own and yields what is there every tenth of a second, at the end its images.

    Where the caller stops iterating, the run ends at its next step. Of the images rows and columns `place` are shown.
    """
    pipe.set_progress_bar_config(disable=True)
    news: queue.Queue[Progress | BaseException] = queue.Queue()
    stop, start, last = threading.Event(), time.perf_counter(), [0.0]

    def on_step(running: SDEPipelineBase, i: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if stop.is_set():
            raise Stopped
        now = time.perf_counter()
        if now - last[0] > INTERVAL:
            last[0] = now
            news.put(Progress(grid(preview(running, timestep, tensors["latents"])[(..., *place)]), i + 1, now - start))
        return {}

    def run() -> None:
        try:
            generator = torch.Generator().manual_seed(int(seed))
            output: Any = pipe(**options, generator=generator, output_type="pt", callback_on_step_end=on_step)
            calls = round(float(torch.as_tensor(output.nfe, dtype=torch.float64).mean()))
            news.put(Progress(grid(output.images[(..., *place)]), calls, time.perf_counter() - start, done=True))
        except BaseException as error:
            news.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            item = news.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if item.done:
                return
    finally:
        stop.set()


def grid(images: Tensor) -> Image.Image:
    """Images in [0, 1], (B, C, H, W), as one enlarged picture."""
    return enlarged(image_grid(to_bytes(images), scale=1))


def enlarged(image: Image.Image) -> Image.Image:
    """A picture with each pixel as a square, about `SHOWN` wide."""
    factor = max(1, round(SHOWN / image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
