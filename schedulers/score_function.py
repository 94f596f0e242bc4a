"""Score functions, and what a condition that wraps one needs.

A score function is `(x, t) -> grad log p_t(x)`: states `x` (B, *D), the SDE's time `t`, shape () or (B,), a score in the
shape of `x`. `scheduler.score_fn(network)` is one, an analytic model has one, and **a condition is made of another one**:
`ClassifierGuidance(score_fn, ...)`, `MomentMatching(score_fn, ...)`. All of them serve the scheduler's loop, the
probability-flow ODE, the likelihood and a loop of your own alike.

A condition that holds one value per sample (labels, measurements) also has a method `rows(index)`: the same condition for
the samples `index` alone. The ODE solver finishes samples one by one and asks for those that are left.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


#: `(x, t) -> score`. A network that knows classes takes them by name: `(x, t, class_labels=...)`.
ScoreFunction = Callable[..., Tensor]


def rows_of(function: Any, index: Tensor) -> Any:
    """`function` for the samples `index` (b,) of the batch alone: `function.rows(index)` where it has such a method."""
    return function.rows(index) if hasattr(function, "rows") else function


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` of per-sample values (B, ...); one value for all samples stays."""
    return values if len(values) == 1 else values[index.to(values.device)]


def differentiable_state(x: Tensor) -> tuple[Tensor, bool]:
    """`x` as a tensor whose gradient can be taken, and whether the result is to be differentiated once more.

    It is where the caller has gradients enabled and `x` is part of a graph, as in a likelihood; otherwise the graph ends at
    a new leaf.
    """
    again = torch.is_grad_enabled() and x.requires_grad
    return (x, True) if again else (x.detach().requires_grad_(), False)


def check_function(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is callable."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}")


def check_labels(name: str, labels: Any) -> Tensor:
    """`labels`, if they are integers of shape (B,); raises TypeError otherwise."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1 or not len(labels):
        raise TypeError(f"{name} must be an integer tensor of shape (B,), got {labels!r}")
    return labels
