"""`python -m scoresde_pipelines.demo`: generates images with the pipelines that come inside the package, offline."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .pipeline_score_sde import ScoreSdePipeline
from .shipped import shipped
from .training.sampling import image_grid


# Noise levels that give good pictures in about a minute on two CPU cores (emoji: two network calls each).
STEPS = {"fashion-mnist-32-vp": 100, "emoji-32-ve": 75}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scoresde_pipelines.demo", description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"), help="where the pictures go")
    parser.add_argument("--batch_size", type=int, default=32, help="images per pipeline")
    parser.add_argument("--num_inference_steps", type=int, help="noise levels; default: chosen per pipeline")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name in shipped():
        pipe = ScoreSdePipeline.from_pretrained(shipped(name))
        steps = args.num_inference_steps or STEPS.get(name, 200)
        scheduler = pipe.scheduler
        print(f"\n{name}: {type(scheduler).__name__}, {scheduler.config.predictor} + {scheduler.config.corrector}")
        start = time.perf_counter()
        result = pipe(args.batch_size, steps, torch.Generator().manual_seed(args.seed), output_type="pt")
        seconds = time.perf_counter() - start
        picture = image_grid((result.images * 255).round().to(torch.uint8), columns=8)
        path = args.output_dir / f"{name}.png"
        picture.save(path)
        if sys.stdout.isatty():
            print(terminal_picture(picture))
        print(f"{args.batch_size} images, {result.nfe} network calls each, {seconds:.1f} s -> {path.resolve()}")


def terminal_picture(image: Image.Image, columns: int = 96) -> str:
    """The image as coloured half blocks, two pixels a character, for a terminal with 24-bit colour."""
    height = max(2, round(image.height * columns / image.width / 2) * 2)
    pixels = np.asarray(image.convert("RGB").resize((columns, height)))
    rows = []
    for y in range(0, height, 2):
        blocks = (_half_block(pixels[y, x], pixels[y + 1, x]) for x in range(columns))
        rows.append("".join(blocks) + "\x1b[0m")
    return "\n".join(rows)


def _half_block(top: np.ndarray, bottom: np.ndarray) -> str:
    return "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀".format(*top, *bottom)


if __name__ == "__main__":
    main()
