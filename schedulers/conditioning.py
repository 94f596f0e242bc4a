"""Deprecated names of conditions; each warns and will be removed in the next release.

`LinearPosterior` is now `MomentMatching`, which takes the prior's score function when it is made.
"""

import warnings
from typing import Any

from torch import Tensor

from .classifier_guidance import ClassifierGuidance
from .moment_matching import MomentMatching
from .operators import LinearOperator
from .replacement import Replacement
from .score_function import ScoreFunction
from .sde import SDE


__all__ = ["ClassifierGuidance", "LinearPosterior", "Replacement", "ScoreFunction", "matched_prior"]


class LinearPosterior(MomentMatching):
    """Deprecated: use `MomentMatching(score_fn, sde, operator, y, ...)`."""

    def __init__(self, sde: SDE, operator: LinearOperator, measurement: Tensor, *args: Any, **kwargs: Any):
        _warn("LinearPosterior", "MomentMatching(score_fn, sde, operator, y, ...)")
        super().__init__(_no_score, sde, operator, measurement, *args, **kwargs)

    def __call__(self, score_fn: ScoreFunction, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        self.score_fn = score_fn
        return super().__call__(x, t)

    def settle(self, x: Tensor) -> Tensor:
        """Deprecated: use `correct_final`."""
        return self.correct_final(x)


def matched_prior(transform: Any, score_fn: ScoreFunction, sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """Deprecated: use `MomentMatching.correct_start`."""
    _warn("matched_prior", "MomentMatching.correct_start")
    return x + sde.alpha(t) * sde.denoise(x, transform(score_fn, x, t), t)


def _no_score(x: Tensor, t: Tensor) -> Tensor:
    raise NotImplementedError("LinearPosterior takes its score function at every call")


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated: use {new}", FutureWarning, stacklevel=3)
