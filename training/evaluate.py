"""Replaced by `scoresde evaluate` (docs/evaluation.md); works for one more release.

How close a pipeline's images are to held-out data: the Frechet distance in the feature space of a small classifier.

    python -m scoresde_pipelines.training.evaluate --pretrained_model_name_or_path runs/fashion --train_data_dir \
        fashion_mnist --classifier scoresde_pipelines/shipped_classifiers/fashion-mnist-32 --num_images 2000

Prints one JSON object. `generated` is the distance of N generated images to the test split, `real` that of N
training images to the same split: what a perfect model would score. Both are biased alike, by their N.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from .program_end import end_at_once, run_program


if __name__ == "__main__":
    end_at_once()

import torch

from ..models.config_checks import height_and_width
from .data import ImageStore, load_images
from .durable_files import save_picture
from .evaluation.frechet import frechet_between
from .feature_classifier import FeatureClassifier
from .image_format import ImageFormat
from .pipeline_folder import Components, load_pipeline_folder
from .sampling import image_grid, sample
from .script import USER_ERRORS


warnings.warn(
    "scoresde_pipelines.training.evaluate is replaced by `scoresde evaluate` and scoresde_pipelines.evaluate",
    FutureWarning,
    stacklevel=2,
)


def generate(components: Components, count: int, batch_size: int, steps: int, seed: int, device: str) -> torch.Tensor:
    """`count` images as uint8 (count, C, H, W); image k is the one of seed `seed + k`."""
    config = components.unet.config
    height, width = height_and_width(config.sample_size)
    batches = []
    for first in range(0, count, batch_size):
        shape = (min(batch_size, count - first), config.in_channels, height, width)
        batches.append(sample(components, shape, num_inference_steps=steps, seed=seed + first, device=device))
        print(f"{first + shape[0]}/{count} images", flush=True)
    return torch.cat(batches)


def real_images(train_data_dir: str, split: str, classifier: FeatureClassifier, count: int | None) -> torch.Tensor:
    """uint8 images of a split in the classifier's form: all, or `count` of them chosen at random (seed 0)."""
    table = load_images(train_data_dir=train_data_dir, split=split)
    if count is not None and count < len(table):
        table = table.select(torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:count].tolist())
    form = ImageFormat(*(classifier.config[key] for key in ("sample_size", "in_channels", "image_fit")))
    images = ImageStore(table, form, max_cached_gb=1e9).cache
    assert images is not None
    return images


@torch.no_grad()
def compare(
    classifier: FeatureClassifier, generated: torch.Tensor, train: torch.Tensor, test: torch.Tensor
) -> dict[str, float]:
    """Distances of generated and of training images to the test images, all uint8 (N, C, H, W)."""
    features = {
        name: torch.cat([classifier.features(batch) for batch in images.split(256)])
        for name, images in (("generated", generated), ("real", train), ("test", test))
    }
    return {name: round(frechet_between(features[name], features["test"]), 4) for name in ("generated", "real")}


def main(argv: Sequence[str] | None = None) -> None:
    """Generates, compares, prints."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--pretrained_model_name_or_path", required=True, help="pipeline: a folder or Hub id")
    parser.add_argument("--train_data_dir", required=True, help="folder with the train and test splits")
    parser.add_argument("--classifier", required=True, help="folder of a FeatureClassifier")
    parser.add_argument("--num_images", type=int, default=2000)
    parser.add_argument("--num_inference_steps", type=int, default=200)
    parser.add_argument("--predictor", help="instead of the scheduler's own")
    parser.add_argument("--corrector", help="instead of the scheduler's own; none switches it off")
    parser.add_argument("--eval_batch_size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--grid", type=Path, help="save a picture of the first 64 images")
    args = parser.parse_args(argv)
    if args.num_images < 2:
        parser.error(f"--num_images must be at least 2, got {args.num_images}")
    classifier = FeatureClassifier.from_pretrained(args.classifier).float().eval()
    components = load_pipeline_folder(args.pretrained_model_name_or_path)
    changes = {name: value for name in ("predictor", "corrector") if (value := getattr(args, name)) is not None}
    changes = {name: None if value == "none" else value for name, value in changes.items()}
    components.scheduler = type(components.scheduler).from_config(components.scheduler.config, **changes)
    components.unet.float().to(args.device).eval()
    started = time.monotonic()
    images = generate(
        components, args.num_images, args.eval_batch_size, args.num_inference_steps, args.seed, args.device
    )
    seconds = time.monotonic() - started
    if args.grid:
        save_picture(args.grid, image_grid(images[:64]))
    train = real_images(args.train_data_dir, "train", classifier, args.num_images)
    test = real_images(args.train_data_dir, "test", classifier, None)
    result = {"frechet_distance": compare(classifier, images, train, test), "num_images": len(images)}
    print(json.dumps({**result, "test_images": len(test), "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    run_program(main, USER_ERRORS)
