"""Deprecated names, from before conditions were functions that wrap a score function."""

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .classifier_guidance import ClassifierGuidance
from .moment_matching import COVARIANCES, MomentMatching, posterior_start
from .replacement import Replacement
from .score_function import ScoreFunction
from .sde import SDE


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is deprecated, and will be removed in the next release: use {new}", FutureWarning, stacklevel=3
    )


def _no_score(x: Tensor, t: Tensor) -> Tensor:
    raise TypeError("score_fn must be given to the call of a LinearPosterior, got none")


class LinearPosterior(MomentMatching):
    """Deprecated: `MomentMatching(score_fn, sde, operator, y, noise_std)`, which is itself a score function."""

    def __init__(self, sde: SDE, operator: Any, measurement: Tensor, *args: Any, data_std: float = 1.0, **kwargs: Any):
        _warn("LinearPosterior", "MomentMatching")
        super().__init__(_no_score, sde, operator, measurement, *args, data_std=data_std, **kwargs)  # type: ignore[misc]

    def __call__(self, score_fn: ScoreFunction, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        self.score_fn = score_fn
        return super().__call__(x, t)

    settle = MomentMatching.correct_final


def matched_prior(
    transform: Callable[[ScoreFunction, Tensor, Tensor], Tensor],
    score_fn: ScoreFunction,
    sde: SDE,
    x: Tensor,
    t: Tensor,
) -> Tensor:
    """Deprecated: `posterior_start(posterior, sde, x, t)`."""
    _warn("matched_prior", "posterior_start")
    return posterior_start(lambda x, t: transform(score_fn, x, t), sde, x, t)


__all__ = ["COVARIANCES", "ClassifierGuidance", "LinearPosterior", "Replacement", "matched_prior"]
