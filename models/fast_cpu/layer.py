"""The convolution layer that the networks are built from."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import conv3x3
from .layout import in_fast_layout, is_captured
from .packing import PACKED, convolve_packed
from .upsampling import convolve_nearest


MIN_NEAREST_PIXELS = 256  # from this size on, fewer products outweigh the making of the kernel


def make_convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1, padding: int | None = None, bias: bool = True
) -> nn.Conv2d:
    """A `size` x `size` convolution, by default one that keeps the size of the image."""
    return FastConv2d(in_channels, out_channels, size, stride, size // 2 if padding is None else padding, bias=bias)


class FastConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that on a CPU brings images to channels_last memory and computes 3x3 ones by `conv3x3`."""

    def forward(self, input: Tensor) -> Tensor:
        """`(B, C, H, W) -> (B, C', H', W')`."""
        input = in_fast_layout(input)
        if is_captured() or not self._is_3x3():
            return super().forward(input)
        packed = None if torch.is_grad_enabled() else PACKED.get(self)
        if packed is not None:
            return convolve_packed(input, self.weight, self.bias, packed)
        return conv3x3(input, self.weight, self.bias)

    def upsampled(self, x: Tensor, up: Callable[[Tensor], Tensor], nearest: bool) -> Tensor:
        """`self(up(x))` in fewer products, for a linear filter `up` that doubles the image.

        Args:
            x: (B, C, H, W).
            up: the filter.
            nearest: whether it is nearest neighbour.
        """
        if self._is_hooked() or self.weight.device != x.device:
            return self(up(x))
        if self.kernel_size == (1, 1) and self.stride == (1, 1):
            # A 1x1 convolution commutes with the filter; its bias does not, for outside of the image the filter reads zeros.
            h = up(F.conv2d(x, self.weight))
            return h if self.bias is None else h.add_(self.bias[:, None, None])
        if nearest and self._is_3x3() and x.device.type == "cpu" and x.shape[2] * x.shape[3] >= MIN_NEAREST_PIXELS:
            return convolve_nearest(x, self.weight, self.bias)
        return self(up(x))

    def _is_3x3(self) -> bool:
        same = (self.kernel_size, self.stride, self.padding, self.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        return same and self.groups == 1 and self.padding_mode == "zeros"

    def _is_hooked(self) -> bool:
        # Offloading and casting bring the weights in a hook around `forward`, which accelerate and diffusers replace.
        return "forward" in self.__dict__ or bool(self._forward_pre_hooks) or bool(self._forward_hooks)
