"""What the cards of the shipped models state beside KID: solutions of the ODE in the data's range, and class accuracy.

python benchmarks/shipped_models.py
"""

import argparse
from pathlib import Path

import torch

import scoresde_pipelines
from scoresde_pipelines import ScoreSdeClassConditionalPipeline, ScoreSdePipeline
from scoresde_pipelines.models import FeatureClassifier
from scoresde_pipelines.training.model_names import shipped


CLASSIFIER = Path(scoresde_pipelines.__file__).parent / "shipped_classifiers" / "fashion-mnist-32"
EXCESS, SHARE = 0.1, 0.02  # of the range, of the values


def out_of_range(name: str, seeds: range) -> int:
    """How many solutions of the ODE leave the data's range by more than a tenth in over 2 % of their values."""
    pipe = ScoreSdePipeline.from_pretrained(name)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = pipe(len(seeds), ode_tolerance=1e-3, generator=generators, output_type="latent").images
    low, high = pipe.config.data_min, pipe.config.data_max
    margin = EXCESS * (high - low)
    share = ((x < low - margin) | (x > high + margin)).float().flatten(1).mean(1)
    return int((share > SHARE).sum())


@torch.no_grad()
def accuracy(guidance_scale: float, count: int, calls: int) -> float:
    """The share of generated Fashion-MNIST images that the shipped classifier gives the class asked for."""
    pipe = ScoreSdeClassConditionalPipeline.from_pretrained("fashion-mnist-32-vp")
    pipe.set_progress_bar_config(disable=True)
    classifier = FeatureClassifier.from_pretrained(CLASSIFIER).eval()
    labels = torch.arange(count) % pipe.num_classes
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    images = pipe(labels, guidance_scale, calls, generator=generators, output_type="pt").images
    found = classifier((images * 255).round().to(torch.uint8))
    return float((found.argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ode_images", type=int, default=64)
    parser.add_argument("--class_images", type=int, default=200)
    args = parser.parse_args()
    for name in shipped():
        seeds = range(1000, 1000 + args.ode_images)
        print(f"{name}: {out_of_range(name, seeds)} of {len(seeds)} ODE solutions out of the data's range")
    for scale in (1.0, 2.0):
        print(f"guidance scale {scale:g}: accuracy {accuracy(scale, args.class_images, 50):.3f}")


if __name__ == "__main__":
    main()
