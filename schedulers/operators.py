"""Measurements of images: what is known in inpainting, colorization, super-resolution and deblurring.

Known pixels and gray values are coordinates in an orthonormal basis. A mask keeps the shape of the image and has zeros
where nothing is known, so A = At is a projection.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .checks import as_real, check_integer, check_number, check_numbers, check_state, check_values
from .inference_mode import ordinary
from .linear_operator import LinearOperator
from .transfers import to_device


class MaskOperator(LinearOperator):
    """Known pixels: A x = known x, zero elsewhere.

    Args:
        known: 1 or True where the pixel is known; any shape that broadcasts to (B, *D).
    """

    gram = 1.0
    nonnegative = True

    def __init__(self, known: Tensor):
        values = check_values("known", as_real("known", known))
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
            return x * to_device(self.known, x.device, x.dtype).broadcast_to(x.shape)
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
        weights = torch.tensor(self.weights, device="cpu", dtype=x.dtype)
        return to_device(weights, x.device).reshape(-1, 1, 1)

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
        kernel = check_values("kernel", as_real("kernel", kernel))
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
        weight = ordinary(to_device(kernel, x.device, x.dtype)).expand(x.shape[1], 1, *kernel.shape)
        return functional.conv2d(padded, weight, groups=x.shape[1])

    def A(self, x: Tensor) -> Tensor:
        return self._correlate("x", x, self.kernel)

    def At(self, y: Tensor) -> Tensor:
        return self._correlate("y", y, self.kernel.flip(0, 1))


def _check_images(name: str, x: Any) -> Tensor:
    if check_state(name, x).ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"{name} must have shape (B, C, H, W), got {tuple(x.shape)}")
    return x
