r"""The protocol of a linear measurement y = A x + noise.

An operator is two functions, `A` and its adjoint `At`, defined by <A x, y> = <x, At y>. Where the rows of A are
orthogonal and of one length, A At = g I on the range of A, the operator has `gram = g` and a linear system takes one
division; otherwise conjugate gradients solve it, without a network call.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .checks import check_generator, check_instance, check_number, check_state, check_values
from .linear_systems import conjugate_gradients
from .sde import LARGEST_SIGMA


class LinearOperator:
    """A linear measurement; a subclass implements `A` and `At`.

    `gram` may be set to the number g with A At = g I on the range of A, and `nonnegative` to True where every measured
    value is a sum of pixels with weights of at least 0: an impossible measurement is then found before sampling.

    Example: every second row of the image.

    ```python
    class EverySecondRow(LinearOperator):
        def A(self, x):
            return x[:, :, ::2]

        def At(self, y):
            x = y.new_zeros(len(y), y.shape[1], 2 * y.shape[2], y.shape[3])
            x[:, :, ::2] = y
            return x
    ```
    """

    gram: float | None = None
    nonnegative = False

    def A(self, x: Tensor) -> Tensor:
        """The measurement (B, *M) of a state `x` (B, *D), without noise."""
        raise NotImplementedError(f"{type(self).__name__} must implement A(x)")

    def At(self, y: Tensor) -> Tensor:
        """The adjoint of A: (B, *M) to (B, *D)."""
        raise NotImplementedError(f"{type(self).__name__} must implement At(y)")

    def measure(self, x: Tensor, noise_std: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """A x + noise_std n with n ~ N(0, I) in the range of A."""
        noise_std = check_number("noise_std", noise_std, 0, LARGEST_SIGMA)
        generator = check_generator("generator", generator)
        y = self.A(check_state("x", x, 2))
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        if self.gram is not None:
            return y + noise_std / math.sqrt(self.gram) * self.A(noise)
        return y + noise_std * torch.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)

    def solve(self, y: Tensor, variance: float | Tensor, noise_variance: float) -> Tensor:
        """(variance A At + noise_variance I)^-1 y, for `y` (B, *M) in the range of A."""
        check_state("y", y, 2)
        variance = _variance(variance, y)
        noise_variance = check_number("noise_variance", noise_variance, 0)
        if self.gram is not None:
            return y / (variance * self.gram + noise_variance)
        check_values("y", y)
        return conjugate_gradients(lambda v: variance * apply(self, "A", apply(self, "At", v)) + noise_variance * v, y)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """At (A At)^-1 y: the smallest state (B, *D) whose measurement is `y`."""
        return self.At(self.solve(y, 1.0, 0.0))

    def rows(self, index: Tensor, ndim: int) -> "LinearOperator":
        """The operator of the samples `index` (b,) alone; itself, unless it differs from sample to sample.

        Args:
            index: which samples of the batch.
            ndim: of the measurement, the batch included.
        """
        return self

    def __matmul__(self, inner: "LinearOperator") -> "Composition":
        """`outer @ inner` measures the measurement: x -> outer.A(inner.A(x))."""
        return Composition(self, inner)


class Composition(LinearOperator):
    """One operator after another: A = outer.A inner.A.

    Args:
        outer: applied last.
        inner: applied to the image.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        check_instance("outer", outer, LinearOperator)
        check_instance("inner", inner, LinearOperator)
        self.outer, self.inner = outer, inner
        self.nonnegative = outer.nonnegative and inner.nonnegative

    def rows(self, index: Tensor, ndim: int) -> "LinearOperator":
        return Composition(self.outer.rows(index, ndim), self.inner.rows(index, ndim))

    def A(self, x: Tensor) -> Tensor:
        return apply(self.outer, "A", apply(self.inner, "A", x, "inner"), "outer")

    def At(self, y: Tensor) -> Tensor:
        return apply(self.inner, "At", apply(self.outer, "At", y, "outer"), "inner")


def apply(operator: LinearOperator, method: str, value: Tensor, name: str = "operator") -> Tensor:
    """`operator.A` or `operator.At` at `value`, with an error that names the argument `name` where it fails.

    Raises:
        TypeError, ValueError: if the method returns no floating-point tensor, or cannot be applied.
    """
    try:
        result = getattr(operator, method)(value)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"{name} {type(operator).__name__}.{method} cannot be applied to shape {tuple(value.shape)}: {error}"
        ) from error
    if not isinstance(result, Tensor) or not result.is_floating_point():
        raise TypeError(
            f"{name} {type(operator).__name__}.{method} must return a floating-point tensor, "
            f"got {type(result).__name__}"
        )
    return result


def _variance(variance: Any, y: Tensor) -> float | Tensor:
    """A variance that is a number, or a tensor of one number for each sample in the dimensions of `y`, (B, 1, ...)."""
    if not isinstance(variance, Tensor) or variance.ndim == 0:
        return check_number("variance", variance, 0)
    check_state("variance", variance)
    if variance.ndim != y.ndim or variance.numel() not in (1, len(y)) or len(variance) != variance.numel():
        raise ValueError(f"variance must be a number or of shape (B, 1, ...), got {tuple(variance.shape)}")
    return variance
