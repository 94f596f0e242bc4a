"""The table of metrics: name -> function of features. Add one's own by passing a larger table to `evaluate_grid`."""

from collections.abc import Callable, Mapping

from torch import Tensor

from .class_scores import inception_score
from .estimate import Estimate
from .frechet import frechet_estimates
from .kid import kernel_distance
from .neighbours import precision_recall


# (generated features (n, D), real features (m, D), class scores of the generated images (n, classes)) -> figures
Metric = Callable[[Tensor, Tensor, "Tensor | None"], dict[str, Estimate]]


def _kid(generated: Tensor, real: Tensor, logits: Tensor | None) -> dict[str, Estimate]:
    return {"kid": kernel_distance(generated, real)}


def _fd(generated: Tensor, real: Tensor, logits: Tensor | None) -> dict[str, Estimate]:
    return frechet_estimates(generated, real)


def _is(generated: Tensor, real: Tensor, logits: Tensor | None) -> dict[str, Estimate]:
    assert logits is not None  # checked before the first image
    return {"is": inception_score(logits)}


def _pr(generated: Tensor, real: Tensor, logits: Tensor | None) -> dict[str, Estimate]:
    return precision_recall(generated, real)


METRICS: Mapping[str, Metric] = {"kid": _kid, "fd": _fd, "is": _is, "pr": _pr}
# Measured from more than features: the likelihood of real images, and the training images' nearest neighbours.
OTHER_METRICS = ("bpd", "nn")
HIGHER_IS_BETTER = ("is", "precision", "recall", "density", "coverage")
