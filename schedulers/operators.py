r"""Linear measurements y = A x + noise of an image: what is known in inpainting, colorization, super-resolution, deblurring.

An operator is two functions, `A` and its adjoint `At`, defined by <A x, y> = <x, At y>. Where the rows of A are
orthogonal and of one length, A At = g I on the range of A, the operator has `gram = g` and a linear system takes one
division; otherwise conjugate gradients solve it, without a network call. Inpainting and colorization are of the first kind:
the known values are coordinates in an orthonormal basis.

A mask keeps the shape of the image and has zeros where nothing is known, so A = At is a projection.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .checks import check_generator, check_instance, check_integer, check_number, check_numbers, check_state
from .inference_mode import ordinary
from .sde import LARGEST_SIGMA, expand_to


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
        if y.is_meta:
            raise TypeError("y must be a tensor with values, got one on the device meta")
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


class MaskOperator(LinearOperator):
    """Known pixels: A x = known x, zero elsewhere.

    Args:
        known: 1 or True where the pixel is known; any shape that broadcasts to (B, *D).
    """

    gram = 1.0
    nonnegative = True

    def __init__(self, known: Tensor):
        values = _real_tensor("known", known)
        self.known = values != 0
        if not bool((self.known == values).all()):
            raise ValueError("known must hold zeros and ones or booleans alone: a pixel is known or it is not")
        if not bool(self.known.any()):
            raise ValueError("known must be 1 somewhere, got a mask without a known pixel")

    def rows(self, index: Tensor, ndim: int) -> "LinearOperator":
        if self.known.ndim < ndim or len(self.known) == 1:
            return self
        selected = copy.copy(self)
        selected.known = self.known[index.to(self.known.device)]
        return selected

    def A(self, x: Tensor) -> Tensor:
        return self._keep("x", x)

    def At(self, y: Tensor) -> Tensor:
        return self._keep("y", y)

    def _keep(self, name: str, x: Tensor) -> Tensor:
        check_state(name, x, 2)
        try:
            return x * self.known.to(x.device, x.dtype).broadcast_to(x.shape)
        except RuntimeError as error:
            raise ValueError(
                f"known of shape {tuple(self.known.shape)} must broadcast to {name} of shape {tuple(x.shape)}"
            ) from error


class GrayOperator(LinearOperator):
    """The gray image: A x = sum_c w_c x_c, of shape (B, 1, H, W).

    With w in an orthonormal basis of the channels, its coordinate along w is the known one (paper appendix I.2, whose
    basis begins with (1, 1, 1) / sqrt 3, the equal weights of the default).

    Args:
        weights: one number per channel; by default 1/3 each. (0.299, 0.587, 0.114) is Pillow's conversion to "L".
    """

    def __init__(self, weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)):
        self.weights = tuple(check_numbers("weights", weights))
        self.gram = sum(w * w for w in self.weights)
        self.nonnegative = min(self.weights, default=0.0) >= 0
        if not 0 < self.gram < math.inf:
            raise ValueError(f"weights must have squares with a finite sum above zero, got {self.weights}")

    def _column(self, x: Tensor) -> Tensor:
        return torch.tensor(self.weights, device=x.device, dtype=x.dtype).reshape(-1, 1, 1)

    def A(self, x: Tensor) -> Tensor:
        _check_images("x", x)
        if x.shape[1] != len(self.weights):
            raise ValueError(f"weights of {len(self.weights)} channels must fit x of shape {tuple(x.shape)}")
        return (self._column(x) * x).sum(1, keepdim=True)

    def At(self, y: Tensor) -> Tensor:
        return self._column(_check_images("y", y)) * y


class AveragePoolOperator(LinearOperator):
    """Super-resolution: A x is the mean of each `factor` x `factor` block, (B, C, H / factor, W / factor).

    Args:
        factor: the ratio of the two resolutions.
    """

    nonnegative = True

    def __init__(self, factor: int):
        self.factor = check_integer("factor", factor)
        self.gram = 1 / self.factor**2

    def A(self, x: Tensor) -> Tensor:
        _check_images("x", x)
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(f"factor {self.factor} must divide the sides of x of shape {tuple(x.shape)}")
        return functional.avg_pool2d(x, self.factor)

    def At(self, y: Tensor) -> Tensor:
        spread = _check_images("y", y).repeat_interleave(self.factor, dim=-1).repeat_interleave(self.factor, dim=-2)
        return spread / self.factor**2


class BlurOperator(LinearOperator):
    """Convolution with a kernel, of each channel separately; the image is continued periodically beyond its edges.

    Args:
        kernel: (k, l) with odd sides, smaller than the image; correlated with the image, as in `torch.conv2d`.
    """

    def __init__(self, kernel: Tensor):
        if not isinstance(kernel, Tensor):
            raise TypeError(f"kernel must be a tensor, got {type(kernel).__name__}")
        kernel = _real_tensor("kernel", kernel)
        if not bool(kernel.isfinite().all()) or not bool(kernel.any()):
            raise ValueError(f"kernel must hold finite numbers, not all zero, got {kernel!r}")
        if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
            raise ValueError(f"kernel must be a matrix with odd sides, got shape {tuple(kernel.shape)}")
        self.kernel, self.nonnegative = kernel, bool((kernel >= 0).all())

    @classmethod
    def gaussian(cls, std: float, size: int | None = None) -> "BlurOperator":
        """A Gaussian kernel of sum 1 with standard deviation `std` in pixels; `size` is 6 std + 1 by default."""
        std = check_number("std", std, 0, 1e6, ends="(]")
        if size is not None and check_integer("size", size, most=10**6) % 2 == 0:
            raise ValueError(f"size must be odd, got {size!r}")
        half = (size if size is not None else 2 * math.ceil(3 * std) + 1) // 2
        profile = torch.exp(-0.5 * (torch.arange(-half, half + 1, dtype=torch.float64, device="cpu") / std) ** 2)
        profile = profile / profile.sum()
        return cls(profile[:, None] * profile)

    def _correlate(self, name: str, x: Tensor, kernel: Tensor) -> Tensor:
        _check_images(name, x)
        if x.shape[-2] < kernel.shape[0] or x.shape[-1] < kernel.shape[1]:
            raise ValueError(f"kernel of shape {tuple(kernel.shape)} must fit into {name} of shape {tuple(x.shape)}")
        up, left = kernel.shape[0] // 2, kernel.shape[1] // 2
        padded = functional.pad(x, (left, left, up, up), mode="circular")
        weight = ordinary(kernel.to(x)).expand(x.shape[1], 1, *kernel.shape)
        return functional.conv2d(padded, weight, groups=x.shape[1])

    def A(self, x: Tensor) -> Tensor:
        return self._correlate("x", x, self.kernel)

    def At(self, y: Tensor) -> Tensor:
        return self._correlate("y", y, self.kernel.flip(0, 1))


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


def _check_images(name: str, x: Any) -> Tensor:
    if check_state(name, x).ndim != 4:
        raise ValueError(f"{name} must have shape (B, C, H, W), got {tuple(x.shape)}")
    return x


def _variance(variance: Any, y: Tensor) -> float | Tensor:
    """A variance that is a number, or a tensor of one number for each sample in the dimensions of `y`, (B, 1, ...)."""
    if not isinstance(variance, Tensor) or variance.ndim == 0:
        return check_number("variance", variance, 0)
    check_state("variance", variance)
    if variance.ndim != y.ndim or variance.numel() not in (1, len(y)) or len(variance) != variance.numel():
        raise ValueError(f"variance must be a number or of shape (B, 1, ...), got {tuple(variance.shape)}")
    return variance


def _real_tensor(name: str, values: Any) -> Tensor:
    """`values` as a dense tensor of real numbers with values."""
    try:
        # With a default device, `as_tensor` would move tensors there.
        values = values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor of real numbers, got {type(values).__name__}") from error
    if values.is_complex() or values.layout != torch.strided or values.is_meta:
        raise TypeError(
            f"{name} must be a dense tensor of real numbers, got {values.layout} {values.dtype} on {values.device}"
        )
    return values


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
        step = torch.where(active, square / inner(direction, image).clamp_min(torch.finfo(y.dtype).tiny), 0.0)
        solution = solution + expand_to(step, y) * direction
        residual = residual - expand_to(step, y) * image
        before, square = square, inner(residual, residual)
        direction = residual + expand_to(torch.where(active, square / before, 0.0), y) * direction
    return solution
