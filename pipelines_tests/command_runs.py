"""Running commands in tests, and comparing what they write with the pictures of the Python API."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from scoresde_pipelines.cli import app


STEPS, COUNT, SEED = 3, 3, 11


def run(folder: Path, command: str, output: Path | None, *more: object, code: int = 0) -> str:
    words = [command, "--model", folder / "model", *([] if output is None else ["--output", output]), *more]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else " ".join(result.output.replace("│", " ").split())


def written(output: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(output.glob("0*.png"))]


def check(output: Path, images: list[Image.Image]) -> None:
    """The pictures are those of the Python API, and nothing else is there."""
    found = written(output)
    assert len(found) == len(images)
    for ours, theirs in zip(found, images):
        assert np.array_equal(ours, np.asarray(theirs))
    assert sorted(path.name for path in output.iterdir()) == [
        *(f"{k:04d}.png" for k in range(len(images))),
        "grid.png",
    ]
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def generators(count: int = COUNT) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(SEED + k) for k in range(count)]


def loaded(cls, folder: Path):
    pipe = cls.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    return pipe


RUN = ("--num-images", COUNT, "--seed", SEED, "--steps", STEPS, "--device", "cpu")
