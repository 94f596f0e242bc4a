"""Bits/dim of the two shipped models on their held-out test splits, and how they move with what one chooses.

    python benchmarks/bits_per_dim.py --fashion-mnist FOLDER --emoji FOLDER

prints the README's table and writes `benchmarks/results/bits_per_dim.json`. The first `--images` test images are measured
at the base setting (uniform dequantization, one draw, tolerance 1e-3, one probe a node), the first `--paired` of them at
each other setting: differences are of the same images, dequantized from the same seeds. About eight minutes on one idle CPU
thread; `scoresde likelihood` measures whole splits, row by row, on any number of processes.
"""

import argparse
import math
import time
from typing import Any

import torch
from result_file import save
from torch import Tensor

from scoresde_pipelines import ScoreSdeLikelihoodPipeline, shipped
from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images


BASE: dict[str, Any] = {"dequantization": "uniform", "tolerance": 1e-3}
SETTINGS: dict[str, dict[str, Any]] = {
    "no dequantization": {"dequantization": "none"},
    "truncated normal": {"dequantization": "truncated_normal"},
    "uniform, mean of 4": {"num_dequantizations": 4},
    "uniform, 4 importance weighted": {"num_dequantizations": 4, "importance_weighted": True},
    "official cells": {"official_cells": True},
    "tolerance 1e-2": {"tolerance": 1e-2},
    "tolerance 1e-4": {"tolerance": 1e-4},
}
MODELS = {"fashion-mnist-32-vp": "pad", "emoji-32-ve": "crop"}


def measure(pipe: ScoreSdeLikelihoodPipeline, pixels: Tensor, **options: Any) -> tuple[Tensor, float, float]:
    """Bits/dim (B,), mean evaluations per image, and CPU seconds per image."""
    begin = time.process_time()
    generators = [torch.Generator().manual_seed(index) for index in range(len(pixels))]
    output = pipe(pixels, generator=generators, **{**BASE, **options})
    seconds = (time.process_time() - begin) / len(pixels)
    return output.bits_per_dim, float(output.nfe.double().mean()), seconds


def summary(values: Tensor) -> dict[str, float]:
    return {"mean": float(values.mean()), "standard_error": float(values.std() / math.sqrt(len(values)))}


def measure_model(pipe: ScoreSdeLikelihoodPipeline, pixels: Tensor, paired: int) -> dict[str, dict[str, float]]:
    """The base setting, and the differences of all others from it; one line of the table each."""
    parts = [measure(pipe, part) for part in pixels.split(8)]
    base = torch.cat([bits for bits, _, _ in parts])
    figures = {"base": {**summary(base), "images": len(base), "nfe": parts[0][1], "seconds": parts[0][2]}}
    print(
        f"| base: uniform, 1 draw, tolerance 1e-3 | {_cell(figures['base'])} | {len(base)} | {parts[0][1]:.0f} |",
        flush=True,
    )
    for name, options in SETTINGS.items():
        bits, nfe, seconds = measure(pipe, pixels[:paired], **options)
        figures[name] = {**summary(bits - base[:paired]), "images": paired, "nfe": nfe, "seconds": seconds}
        print(f"| {name} | {_cell(figures[name], '+')} | {paired} | {nfe:.0f} |", flush=True)
    return figures


def _cell(figures: dict[str, float], sign: str = "") -> str:
    return f"{figures['mean']:{sign}.4f} +- {figures['standard_error']:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", required=True, help="folder with test images")
    parser.add_argument("--emoji", required=True, help="folder with test images")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--paired", type=int, default=4)
    arguments = parser.parse_args()
    figures = {}
    for (name, fit), data in zip(MODELS.items(), (arguments.fashion_mnist, arguments.emoji)):
        pipe = ScoreSdeLikelihoodPipeline.from_pretrained(shipped(name))
        channels, side, _ = pipe.sample_shape
        table = load_images(train_data_dir=data, split="test")
        store = ImageStore(table, ImageFormat(side, channels, fit), max_cached_gb=0)
        print(f"\n`{name}`\n\n| setting | bits/dim, or change of it | images | NFE |\n|---|---|---|---|")
        figures[name] = measure_model(pipe, store[list(range(arguments.images))], arguments.paired)
    print("\nwritten to", save("bits_per_dim", figures).name)


if __name__ == "__main__":
    main()
