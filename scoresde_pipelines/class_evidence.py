"""Log-probabilities of classes given noisy or clean states, for a classifier with units of its own."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from .models import NoiseConditionalClassifier
from .models.image_preprocessing import ImagePreprocessing
from .schedulers import SDE
from .schedulers.sde import as_time, expand_to


def classifier_kind(classifier: Any) -> str:
    """ "noise" for a classifier of noisy images (ours), "clean" for one of `transformers`; raises TypeError otherwise."""
    config = getattr(classifier, "config", None)
    if isinstance(classifier, NoiseConditionalClassifier) or hasattr(config, "num_classes"):
        return "noise"
    if hasattr(config, "num_labels"):
        return "clean"
    raise TypeError(
        "classifier must be a NoiseConditionalClassifier, or a model of transformers for image classification "
        f"(AutoModelForImageClassification), got {type(classifier).__name__}"
    )


def noisy_log_prob(
    classifier: Any, sde: SDE, data_range: tuple[float, float]
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`(x, t, class_labels) -> log p(label | x_t = x)`, shape (B,), by a noise-conditional classifier.

    Args:
        classifier: called as `classifier(x / alpha, sigma / alpha).logits`, with states in its own range of data.
        sde: the SDE of the states.
        data_range: black and white of the states.
    """
    low, high = data_range
    config = classifier.config
    scale = (config.data_max - config.data_min) / (high - low)

    def log_prob(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        t = as_time(t)
        # Divided by alpha, every SDE is a VE SDE: a clean image plus white noise.
        noisy = (x / expand_to(sde.alpha(t), x) - low) * scale + config.data_min
        level = (scale * sde.noise_ratio(t)).to(x.device, x.dtype).expand(len(x))
        logits = classifier(noisy.to(classifier.dtype), level).logits.to(x.dtype)
        return functional.log_softmax(logits, dim=1).gather(1, class_labels[:, None])[:, 0]

    return log_prob


def clean_log_prob(
    classifier: Any, image_processor: Any, data_range: tuple[float, float]
) -> Callable[[Tensor, Tensor], Tensor]:
    """`(x0, class_labels) -> log p(label | x_0)`, shape (B,), by an image classifier of `transformers`.

    Args:
        classifier: called as `classifier(pixel_values=...).logits`.
        image_processor: of the classifier; what it does to images is done here to tensors.
        data_range: black and white of the states.
    """
    low, high = data_range
    preprocessing = ImagePreprocessing(image_processor)

    def log_prob(x0: Tensor, class_labels: Tensor) -> Tensor:
        pixels = preprocessing((x0 - low) / (high - low)).to(classifier.dtype)
        logits = classifier(pixel_values=pixels).logits.to(x0.dtype)
        return functional.log_softmax(logits, dim=1).gather(1, class_labels[:, None])[:, 0]

    return log_prob
