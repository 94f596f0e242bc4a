"""What each metric sees: known defects of real images, in standard errors of the metric.

    python benchmarks/metric_sensitivity.py --data fashion_mnist

A set of N real images is compared with as many others, once as it is and once with a defect. The figure of a defect is the
change of the metric, divided by the metric's standard error for the set without it: below 2 nobody would see the defect.

    noise      Gaussian noise of standard deviation 6 of 255, on every pixel
    blur       Gaussian blur of 0.7 pixels
    classes    two of ten classes are missing
    collapse   20 images, each repeated N / 20 times
    copies     exact copies of training images; the other sets hold none of them

Features are cached, so a second run takes seconds. About ten minutes on one core, most of it EfficientNet.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import result_file
import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_pipelines.evaluation import shipped_classifiers
from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images
from scoresde_pipelines.training.evaluation import (
    CopyThreshold,
    Estimate,
    FeatureExtractor,
    ImageSelection,
    frechet_estimates,
    inception_score,
    kernel_distance,
    load_features,
    precision_recall,
    real_features,
)


MISSING = (0, 7)  # T-shirts and sneakers
COLLAPSED = 20
POOL = 1000
CLEAN = 1300  # train images that are no "training images": after two classes are taken away, POOL remain


def noise(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) with noise of standard deviation 6."""
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images.float() + 6 * drawn).round().clamp(0, 255).byte()


def blur(images: Tensor, sigma: float = 0.7) -> Tensor:
    """uint8 (N, C, H, W) blurred by a Gaussian of 5 x 5 pixels."""
    line = torch.exp(-torch.arange(-2.0, 3.0).square() / (2 * sigma**2))
    kernel = (line[:, None] * line / line.sum() ** 2).expand(images.shape[1], 1, 5, 5)
    padded = F.pad(images.float(), [2, 2, 2, 2], mode="replicate")
    return F.conv2d(padded, kernel, groups=images.shape[1]).round().byte()


def open_images(data: str, split: str, count: int) -> tuple[Tensor, Tensor]:
    """A random choice of images, uint8 (count, 1, 32, 32), and their labels."""
    table = load_images(train_data_dir=data, split=split)
    chosen = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:count].tolist()
    table = table.select(chosen)
    store = ImageStore(table, ImageFormat(32, 1, "pad"), max_cached_gb=0)
    return store[list(range(count))], torch.tensor(table["label"])


def features_of(extractor: FeatureExtractor, images: Tensor, label: str) -> Tensor:
    """Features (N, D), from the cache where they are known."""
    return real_features(extractor, ImageSelection(images, range(len(images)), label))


def defective_sets(extractor: FeatureExtractor, data: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Features of `POOL` images by defect ("none" is the first), of the reference and of the training images."""
    train, labels = open_images(data, "train", CLEAN + POOL)
    test, _ = open_images(data, "test", POOL)
    everything = features_of(extractor, train, "train images")
    clean, training = everything[:POOL], everything[CLEAN:]
    kept = everything[:CLEAN][~torch.isin(labels[:CLEAN], torch.tensor(MISSING))]
    assert len(kept) >= POOL
    sets = {
        "none": clean,
        "noise": features_of(extractor, noise(train[:POOL]), "noisy images"),
        "blur": features_of(extractor, blur(train[:POOL]), "blurred images"),
        "classes": kept[:POOL],
        "copies": training,
    }
    return sets, features_of(extractor, test, "test images"), training


def measure(
    extractor: FeatureExtractor, generated: Tensor, reference: Tensor, threshold: CopyThreshold
) -> dict[str, Estimate]:
    """All figures of features (N, D)."""
    found = {"kid": kernel_distance(generated, reference), **frechet_estimates(generated, reference)}
    found.update(precision_recall(generated, reference))
    if extractor.has_logits:
        with torch.no_grad():
            found["is"] = inception_score(extractor.logits(generated))
    return {**found, "nn": threshold.copies(generated)}


def sensitivity(extractor: FeatureExtractor, data: str, count: int) -> dict[str, dict[str, float]]:
    """metric -> defect -> change in standard errors, averaged over the disjoint sets of `count` images."""
    sets, reference, training = defective_sets(extractor, data)
    parts: dict[str, list[dict[str, Estimate]]] = {}
    for place in range(0, POOL - count + 1, count):
        compared = reference[place : place + count]
        threshold = CopyThreshold.measure(compared, training)
        chosen = {name: features[place : place + count] for name, features in sets.items()}
        chosen["collapse"] = chosen["none"][:COLLAPSED].repeat(math.ceil(count / COLLAPSED), 1)[:count]
        for name, features in chosen.items():
            parts.setdefault(name, []).append(measure(extractor, features, compared, threshold))
    return {metric: _changes(parts, metric) for metric in parts["none"][0]}


def _changes(parts: dict[str, list[dict[str, Estimate]]], metric: str) -> dict[str, float]:
    clean = [found[metric] for found in parts["none"]]
    error = math.sqrt(sum(estimate.se**2 for estimate in clean) / len(clean))
    value = sum(estimate.value for estimate in clean) / len(clean)
    changes = {"value": value, "se": error}
    for name, found in parts.items():
        if name != "none":
            change = sum(part[metric].value for part in found) / len(found) - value
            changes[name] = change / error if error > 0 else math.nan
    return changes


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train and test images of 28 x 28 and labels")
    parser.add_argument("--features", nargs="+", default=["fashion-mnist-32", "efficientnet-lite0"])
    parser.add_argument("--counts", nargs="+", type=int, default=[200, 1000])
    args = parser.parse_args(argv)
    figures: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for name in args.features:
        extractor = load_features(name, shipped_classifiers())
        label = name if not Path(name).is_dir() else Path(name).name
        figures[label] = {str(count): sensitivity(extractor, args.data, count) for count in args.counts}
        for count, metrics in figures[label].items():
            print(f"\n{label}, {count} images\n| metric | real images | {' | '.join(list(metrics['kid'])[2:])} |")
            for metric, found in metrics.items():
                changes = " | ".join(f"{value:.1f}" for value in list(found.values())[2:])
                print(f"| {metric} | {found['value']:.4g} +- {found['se']:.2g} | {changes} |")
    result_file.save("metric_sensitivity", figures)


if __name__ == "__main__":
    main()
