"""Resampling by a factor of two: box / nearest, or a short finite impulse response (FIR) filter against aliasing.

With a normalised separable filter `k` (default `[1, 3, 3, 1] / 8`, as in StyleGAN2 and section 4.1 of the paper):

* down: `y[n] = sum_j k[j] x[2 n + 1 - j + ...]`, a stride-2 depthwise convolution;
* up: `y[n] = 2 sum_i k[...] x[i]` on the zero-stuffed signal, a stride-2 transposed depthwise convolution.

Both take the image to be zero outside, and keep the mean of a constant image away from its border. All tensors are
`(B, C, H, W)`; the memory format of the input is kept.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .initialization import conv, initialize


def _depthwise(kernel: torch.Tensor, channels: int) -> torch.Tensor:
    """The 2-D filter `(L, L)` as depthwise weights `(C, 1, L, L)`."""
    return kernel.expand(channels, 1, *kernel.shape).contiguous()


def _fir_down(x: torch.Tensor, kernel: torch.Tensor, stride: int, extra: int) -> torch.Tensor:
    size = kernel.shape[0]
    total = size - 2 + extra
    front, back = (total + 1) // 2, total // 2
    weight = _depthwise(kernel.flip(0, 1).to(x.dtype), x.shape[1])
    if front != back:
        x, front = F.pad(x, (front, back, front, back)), 0
    return F.conv2d(x, weight, stride=stride, padding=front, groups=x.shape[1])


def _fir_up(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    size = kernel.shape[0]
    weight = _depthwise(4.0 * kernel.to(x.dtype), x.shape[1])
    start = size - 2 - (size - 1) // 2
    trim = size - 2 - start
    if start == trim:
        return F.conv_transpose2d(x, weight, stride=2, padding=start, groups=x.shape[1])
    height, width = 2 * x.shape[2], 2 * x.shape[3]
    full = F.conv_transpose2d(x, weight, stride=2, groups=x.shape[1])
    return full[:, :, start : start + height, start : start + width]


class FIRFilter(nn.Module):
    """A separable anti-aliasing filter of length `L >= 2`, with its two uses: `down` and `up`.

    Args:
        kernel: the `L` one-dimensional taps; they are normalised to sum 1.
    """

    kernel: torch.Tensor

    def __init__(self, kernel: Sequence[float]) -> None:
        super().__init__()
        taps = torch.tensor(kernel, dtype=torch.float64)
        square = torch.outer(taps, taps)
        self.register_buffer("kernel", (square / square.sum()).float(), persistent=False)

    def down(self, x: torch.Tensor, stride: int = 2, extra: int = 0) -> torch.Tensor:
        """Filter and keep every `stride`-th pixel: `(B, C, H, W) -> (B, C, H/2, W/2)`.

        `extra` more zeros are laid around the image for a convolution that follows without padding.
        """
        if x.device.type != "cpu":
            return _fir_down(x, self.kernel, stride, extra)
        # One-channel-per-group transposed convolutions (this one's backward) have no fast half-precision CPU kernel.
        with torch.autocast("cpu", enabled=False):
            full = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            return _fir_down(full, self.kernel, stride, extra).to(x.dtype)

    def up(self, x: torch.Tensor) -> torch.Tensor:
        """Interpolate to twice the size: `(B, C, H, W) -> (B, C, 2 H, 2 W)`."""
        if x.device.type != "cpu":
            return _fir_up(x, self.kernel)
        with torch.autocast("cpu", enabled=False):
            full = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            return _fir_up(full, self.kernel).to(x.dtype)


class BoxFilter(nn.Module):
    """The plain pair: 2 x 2 mean and nearest neighbour."""

    def down(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W) -> (B, C, H/2, W/2)`."""
        return F.avg_pool2d(x, 2)

    def up(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W) -> (B, C, 2 H, 2 W)`."""
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


def make_filter(fir: bool, kernel: Sequence[float]) -> FIRFilter | BoxFilter:
    """The filter a network resamples with."""
    return FIRFilter(kernel) if fir else BoxFilter()


def up_conv(filter: FIRFilter | BoxFilter, x: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """`layer(filter.up(x))`, by the layer's own way in fewer products where it has one (see `fast_cpu`)."""
    upsampled = getattr(layer, "upsampled", None)
    if upsampled is None:
        return layer(filter.up(x))
    return upsampled(x, filter.up, nearest=isinstance(filter, BoxFilter))


class Downsample(nn.Module):
    """Halve an image, with a 3x3 convolution if `with_conv`: strided (plain) or fused after the FIR filter.

    The plain convolution is padded by `padding` pixels on every side, or for 0 by one at the right and the bottom alone.
    """

    def __init__(
        self,
        filter: FIRFilter | BoxFilter,
        in_channels: int,
        out_channels: int,
        with_conv: bool,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.filter = filter
        padding = 0 if isinstance(filter, FIRFilter) else padding
        self.conv = conv(in_channels, out_channels, 3, stride=2, padding=padding) if with_conv else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W) -> (B, C', H/2, W/2)`."""
        if self.conv is None:
            return self.filter.down(x)
        if isinstance(self.filter, FIRFilter):
            return self.conv(self.filter.down(x, stride=1, extra=2))
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class _StuffedConv2d(nn.Conv2d):
    """Doubles an image by zeros between its pixels, then a 3x3 convolution, the FIR filter and the bias."""

    def forward(self, input: torch.Tensor, filter: FIRFilter) -> torch.Tensor:  # type: ignore[override]
        # A convolution of the zero-stuffed image is a transposed one with mirrored weights.
        stuffed = F.conv_transpose2d(input, self.weight.transpose(0, 1).flip(2, 3), stride=2)
        smooth = 4.0 * filter.down(stuffed, stride=1)
        assert self.bias is not None
        return smooth + self.bias.to(smooth.dtype).view(1, -1, 1, 1)


class Upsample(nn.Module):
    """Double an image, with a 3x3 convolution if `with_conv`: after nearest neighbour, or fused before the FIR filter."""

    def __init__(self, filter: FIRFilter | BoxFilter, in_channels: int, out_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.filter = filter
        self.conv: nn.Conv2d | None = None
        if with_conv and isinstance(filter, FIRFilter):
            self.conv = initialize(_StuffedConv2d(in_channels, out_channels, 3))
        elif with_conv:
            self.conv = conv(in_channels, out_channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W) -> (B, C', 2 H, 2 W)`."""
        if self.conv is None:
            return self.filter.up(x)
        if isinstance(self.filter, FIRFilter):
            return self.conv(x, self.filter)
        return up_conv(self.filter, x, self.conv)
