"""Score functions `(x, t) -> score` that hold something for each sample of a batch: labels, measurements.

The adaptive solvers evaluate some samples of a batch and not others. They call the score function's method `rows` to get its
part for these samples; a function without this method holds nothing per sample.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from .checks import check_function, describe, shown
from .inference_mode import ordinary


#: The score of a model: `(x, t) -> grad log p_t(x)`, for states `x` (B, *D) and the SDE's time `t`, shape () or (B,).
#: A model with a condition (a class label) takes it by name: `(x, t, class_labels=...)`.
ScoreFunction = Callable[..., Tensor]
Condition = TypeVar("Condition")


class PerSample:
    """A function with tensors (B, ...) bound to it by name, one row for each sample.

    Args:
        function: a score `(x, t, **values) -> (B, *D)`, or a log-probability `(x, t, **values)` or `(x0, **values) -> (B,)`.
        values: tensors (B, ...), for example `class_labels`.

    Example:

    ```python
    score_fn = PerSample(labelled_score, class_labels=torch.tensor([3, 7]))
    ```
    """

    def __init__(self, function: Callable[..., Tensor], **values: Tensor):
        check_function("function", function)
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.ndim < 1:
                raise TypeError(f"{name} must be a tensor (B, ...), got {type(value).__name__}")
        self.function, self.values = function, values

    def __call__(self, *arguments: Tensor) -> Tensor:
        """The function at its arguments, `x` (B, *D) and mostly `t`, () or (B,), with the values of all its samples."""
        values = {name: ordinary(value) for name, value in self.values.items()}  # the function may be differentiated
        return self.function(*arguments, **values)

    def rows(self, index: Tensor) -> "PerSample":
        """The same for the samples `index` (b,) alone."""
        chosen = {name: value[index.to(value.device)] for name, value in self.values.items()}
        return PerSample(select_rows(self.function, index), **chosen)


def with_condition(score_fn: ScoreFunction, condition: Any) -> ScoreFunction:
    """`score_fn` with the tensors (B, ...) of a mapping `condition` bound to it by name.

    Raises:
        TypeError: for a `condition` that is neither None nor such a mapping.
    """
    if condition is None:
        return score_fn
    if not isinstance(condition, Mapping) or not all(isinstance(name, str) for name in condition):
        raise TypeError(f"condition must be a mapping of names to tensors (B, ...), got {type(condition).__name__}")
    for name, value in condition.items():
        if not isinstance(value, Tensor) or value.ndim < 1:
            raise TypeError(f"condition[{shown(name)}] must be a tensor (B, ...), got {type(value).__name__}")
    return PerSample(score_fn, **condition) if condition else score_fn


def select_rows(score_fn: Any, index: Tensor) -> Any:
    """`score_fn` for the samples `index` (b,) of its batch: by its method `rows` where it has one, else itself."""
    return score_fn.rows(index) if hasattr(score_fn, "rows") else score_fn


def part(condition: Condition, index: Tensor, *names: str) -> Condition:
    """`condition` with its functions of these names for the samples `index` (b,) alone."""
    chosen = copy.copy(condition)
    for name in names:
        setattr(chosen, name, select_rows(getattr(condition, name), index))
    return chosen


def evaluations_of(score_fn: Any, t: Tensor | None = None) -> int:
    """Network evaluations of one call of `score_fn` at the time `t` (0-dim), or without it at the time with most.

    By its method `evaluations` where it has one, else one.
    """
    counted = getattr(score_fn, "evaluations", None)
    return counted(t) if callable(counted) else 1


def check_score(score: Any, x: Tensor, name: str = "score_fn") -> Tensor:
    """`score`, if it is what a score function must return at `x` (B, *D): a floating-point tensor of this shape, beside `x`.

    Raises:
        TypeError, ValueError: for anything else.
    """
    if not isinstance(score, Tensor) or not score.is_floating_point():
        raise TypeError(f"{name} must return a floating-point tensor, got {describe(score)}")
    if score.shape != x.shape:
        raise ValueError(f"{name} must return the shape of x, {tuple(x.shape)}, got {tuple(score.shape)}")
    if score.device != x.device or score.layout != x.layout:
        raise ValueError(
            f"{name} must return a tensor like x, {x.layout} on {x.device}, got {score.layout} on {score.device}"
        )
    return score


def check_log_prob(log_prob: Any, x: Tensor) -> Tensor:
    """`log_prob`, if it is what a log-probability must return at `x` (B, *D): floating-point numbers (B,).

    Raises:
        TypeError, ValueError: for anything else.
    """
    if not isinstance(log_prob, Tensor) or not log_prob.is_floating_point():
        raise TypeError(f"log_prob must return a floating-point tensor (B,), got {describe(log_prob)}")
    if log_prob.shape != x.shape[:1]:
        raise ValueError(f"log_prob must return shape ({len(x)},), got {tuple(log_prob.shape)}")
    return log_prob
