"""Linear systems of a batch whose matrix is a function of a state."""

from collections.abc import Callable

import torch
from torch import Tensor

from .sde import expand_to


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each sample, shape (B,), for tensors (B, *M)."""
    return (a * b).flatten(1).sum(1)


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], y: Tensor, tolerance: float = 1e-6, max_iterations: int = 200
) -> Tensor:
    """The solution v of matrix(v) = y for a symmetric positive semi-definite matrix and `y` (B, *M) in its range.

    Every sample stops by itself, when its residual is below `tolerance` times |y|.
    """
    solution, residual, direction = 0 * y, y, y  # 0 * y: NaN and infinity of `y` stay visible
    square = inner(y, y)
    goal = tolerance**2 * square
    for _ in range(max_iterations):
        active = square > goal
        if not bool(active.any()):
            break
        image = matrix(direction)
        step = square / inner(direction, image).clamp_min(torch.finfo(y.dtype).tiny)
        step = step.masked_fill(~active, 0.0)  # `where` with a number would copy it to the device
        solution = solution + expand_to(step, y) * direction
        residual = residual - expand_to(step, y) * image
        before, square = square, inner(residual, residual)
        direction = residual + expand_to((square / before).masked_fill(~active, 0.0), y) * direction
    return solution
