"""Log-probabilities of classes by either kind of classifier, of noisy or of clean images."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from .models.image_preprocessing import ImagePreprocessing
from .models.noise_conditional_classifier import NoiseConditionalClassifier


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
