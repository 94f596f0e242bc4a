"""A small classifier whose penultimate layer is the feature space of our Frechet distances.

Inception features describe photographs; gray garments at 32 px they do not. A network of 170,000 parameters that was
trained to tell the data's own classes apart sees what matters there, and evaluates 10,000 images in seconds on a CPU.

    python -m scoresde_pipelines.training.feature_classifier --train_data_dir fashion_mnist --image_fit pad \
        --channels 1 --output_dir classifier
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .data import ImageFormat, ImageStore, load_images
from .seeding import combined_seed


class FeatureClassifier(ModelMixin, ConfigMixin):  # type: ignore[misc]  # both name their config file
    """Four convolutions (the last three halve the resolution), a mean over the pixels, a feature layer, class scores.

    Args:
        in_channels: channels of the images.
        num_classes: number of classes.
        widths: channels of the convolutions.
        num_features: size of the penultimate layer, the feature space.
        sample_size, image_fit: how images are brought to size; see `data.ImageFormat`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        widths: tuple[int, ...] = (24, 48, 96, 128),
        num_features: int = 64,
        sample_size: int = 32,
        image_fit: str = "crop",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip((in_channels, *widths), widths)):
            layers += [nn.Conv2d(before, after, 3, 1 if index == 0 else 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.to_features = nn.Linear(widths[-1], num_features)
        self.head = nn.Linear(num_features, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images (B, C, H, W) -> float features (B, num_features)."""
        x = images.to(self.to_features.weight) / 127.5 - 1
        return self.to_features(self.body(x).mean(dim=(2, 3)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images (B, C, H, W) -> class scores (B, num_classes)."""
        return self.head(F.silu(self.features(images)))

    @property
    def image_format(self) -> ImageFormat:
        """The form of images that `features` expects."""
        return ImageFormat(self.config["sample_size"], self.config["in_channels"], self.config["image_fit"])


def shift_at_random(images: torch.Tensor, generator: torch.Generator, pixels: int = 2) -> torch.Tensor:
    """Moves a batch (B, C, H, W) by up to ``pixels`` in each direction; edges are repeated."""
    down, right = torch.randint(0, 2 * pixels + 1, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    padded = F.pad(images.float(), [pixels] * 4, mode="replicate")
    return padded[..., down : down + height, right : right + width]


def fit(
    classifier: FeatureClassifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    steps: int,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    flip: bool = False,
    seed: int = 0,
) -> None:
    """Trains with AdamW under a one-cycle schedule on batches drawn at random.

    Args:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,).
        flip: mirror half of the batches.
    """
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    classifier.train()
    for step in range(steps):
        generator = torch.Generator().manual_seed(combined_seed(seed, step))
        chosen = torch.randint(0, len(images), (batch_size,), generator=generator)
        batch = shift_at_random(images[chosen], generator)
        if flip and torch.rand((), generator=generator) < 0.5:
            batch = batch.flip(-1)
        loss = F.cross_entropy(classifier(batch), labels[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    classifier.eval()


@torch.no_grad()
def accuracy(classifier: FeatureClassifier, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images (N, C, H, W) whose best class is their label."""
    scores = torch.cat([classifier(batch) for batch in images.split(256)])
    return float((scores.argmax(dim=1) == labels).float().mean())


def labelled_images(
    train_data_dir: str, split: str, image_format: ImageFormat, label_column: str = "label"
) -> tuple[torch.Tensor, torch.Tensor]:
    """All images, uint8 (N, C, H, W), and labels, int64 (N,), of one split."""
    table = load_images(train_data_dir=train_data_dir, split=split)
    if label_column not in table.column_names:
        raise ValueError(f"label_column is {label_column!r}, but the data set has the columns {table.column_names}")
    images = ImageStore(table, image_format, max_cached_gb=float("inf")).cache
    assert images is not None
    return images, torch.tensor([int(label) for label in table[label_column]])


def main(argv: Sequence[str] | None = None) -> None:
    """Trains a classifier, prints its accuracy on the test split and saves it in half precision."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train_data_dir", required=True, help="folder with train and test parquet files")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3)
    parser.add_argument("--image_fit", choices=("crop", "pad"), default="crop")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--max_train_steps", type=int, default=1200)
    parser.add_argument("--train_batch_size", type=int, default=128)
    parser.add_argument("--random_flip", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    image_format = ImageFormat(args.resolution, args.channels, args.image_fit)
    train = labelled_images(args.train_data_dir, "train", image_format, args.label_column)
    test = labelled_images(args.train_data_dir, "test", image_format, args.label_column)
    torch.manual_seed(args.seed)
    classifier = FeatureClassifier(
        args.channels, int(train[1].max()) + 1, sample_size=args.resolution, image_fit=args.image_fit
    )
    classifier.to(memory_format=torch.channels_last)  # 1.4 x as fast on a CPU
    options = {"steps": args.max_train_steps, "batch_size": args.train_batch_size}
    fit(classifier, *train, **options, flip=args.random_flip, seed=args.seed)
    print(f"accuracy on the test split: {accuracy(classifier, *test):.4f}")
    classifier.to(torch.float16).save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
