"""`python -m scoresde_pipelines.demo`: generates images with the pipelines that come inside the package, offline."""

import argparse
import sys
import time
from pathlib import Path

from .training.program_end import end_at_once, run_program


if __name__ == "__main__":
    end_at_once()

import numpy as np
import torch
from PIL import Image

from .pipeline_class_conditional import ScoreSdeClassConditionalPipeline
from .schedulers.checks import check_integer
from .training.destinations import check_writable
from .training.durable_files import save_picture
from .training.model_names import shipped
from .training.sampling import image_grid
from .training.script import USER_ERRORS


NUM_INFERENCE_STEPS = 50  # noise levels: good pictures in about half a minute on two CPU cores


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scoresde_pipelines.demo", description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"), help="where the pictures go")
    parser.add_argument("--batch_size", type=int, default=36, help="images per pipeline, one class after the other")
    parser.add_argument("--num_inference_steps", type=int, default=NUM_INFERENCE_STEPS, help="noise levels")
    parser.add_argument("--guidance_scale", type=float, default=1.0, help="above 1: more typical, less varied images")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    check_integer("batch_size", args.batch_size)
    check_integer("seed", args.seed, 0, 2**63 - 1)
    check_writable("output_dir", args.output_dir)
    for name in shipped():
        pipe = ScoreSdeClassConditionalPipeline.from_pretrained(shipped(name))
        scheduler, classes = pipe.scheduler, pipe.num_classes
        print(f"\n{name}: {type(scheduler).__name__}, {scheduler.config.predictor}; classes {', '.join(pipe.labels)}")
        start = time.perf_counter()
        result = pipe(
            [index % classes for index in range(args.batch_size)],
            args.guidance_scale,
            args.num_inference_steps,
            generator=torch.Generator().manual_seed(args.seed),
            output_type="pt",
        )
        seconds = time.perf_counter() - start
        picture = image_grid((result.images * 255).round().to(torch.uint8), columns=classes)
        path = args.output_dir / f"{name}.png"
        save_picture(path, picture)
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
    run_program(main, USER_ERRORS)
