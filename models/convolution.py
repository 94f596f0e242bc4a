"""The networks' convolutions: `torch.nn.Conv2d`, except that a CPU computes 3x3 ones by the faster of two algorithms.

`packed_filters` holds the filters of a network in the memory layout of that algorithm while the weights do not change, as
in a sampling loop. Else each call lays them out anew, which weighs most where images are few and small.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from . import winograd


# Winograd's transforms pay from so many channels, pixels and products (without the nine taps) on.
MIN_CHANNELS, MIN_PIXELS, MIN_PRODUCTS = 24, 1024, 1 << 26
PACKED_SHARE = 0.5  # of these pixels and products is enough with packed filters
CAN_PACK = (
    platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
)


def make_convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1, padding: int | None = None, bias: bool = True
) -> nn.Conv2d:
    """A ``size`` x ``size`` convolution, by default one that keeps the size of the image."""
    padding = size // 2 if padding is None else padding
    if (size, stride, padding) == (3, 1, 1):
        return Conv3x3(in_channels, out_channels, bias)
    return nn.Conv2d(in_channels, out_channels, size, stride, padding, bias=bias)


def in_reach(layer: nn.Module, x: Tensor) -> bool:
    """Whether ``layer`` is a plain convolution with its weights beside ``x``: neither an adapter's nor offloaded."""
    return type(layer) in (nn.Conv2d, Conv3x3) and layer.weight.device == x.device


class Conv3x3(nn.Conv2d):
    """`torch.nn.Conv2d(in_channels, out_channels, 3, padding=1)`, on a CPU by `conv3x3`."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C', H, W)``."""
        return self.convolve(input, self.bias)

    def convolve(self, input: Tensor, bias: Tensor | None) -> Tensor:
        """`forward` with another bias (C',)."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return conv3x3(input, self.weight, bias)
        packed = _PACKED.get(self)
        if packed is None or not _suits(input, self.weight) or self.weight.is_inference():
            return conv3x3(input, self.weight, bias)
        fast = _pays(input, self.out_channels, PACKED_SHARE)
        if fast not in packed or packed[fast].is_stale(self.weight):
            packed[fast] = PackedFilters(self.weight, input.shape, fast)
        return _Convolution.apply(input, self.weight, bias, packed[fast])


@contextmanager
def packed_filters(network: nn.Module) -> Iterator[None]:
    """Within it, calls of ``network`` without gradients on a CPU keep the filters of their 3x3 convolutions packed.

    For loops over calls in which the weights do not change (changes in place and by `load_state_dict` are noticed, those
    through ``.data`` are not). Takes up to three times the memory of these weights. Outputs are those without it, up to
    rounding; on other devices and in other dtypes it does nothing.
    """
    layers = network.modules() if CAN_PACK else ()
    added: dict[Conv3x3, dict[bool, PackedFilters]] = {
        layer: {} for layer in layers if isinstance(layer, Conv3x3) and layer not in _PACKED
    }
    _PACKED.update(added)
    try:
        yield
    finally:
        for layer in added:
            _PACKED.pop(layer, None)


class PackedFilters:
    """3x3 filters in the memory layout that the CPU's convolution works in.

    Args:
        weight: (C', C, 3, 3).
        shape: of typical images (B, C, H, W).
        fast: whether for Winograd's algorithm.
    """

    def __init__(self, weight: Tensor, shape: torch.Size, fast: bool) -> None:
        self.out_channels, self.fast = len(weight), fast
        self.state = weight.data_ptr(), weight._version
        if fast:
            shape = torch.Size([*shape[:2], shape[2] // 4, shape[3]])
            pairs = winograd.transform_filters(weight.detach())
            self.filters = [(_pack(g, (0, 1), shape), _pack(h, (0, 1), shape)) for g, h in pairs]
        else:
            self.whole = _pack(weight.detach(), (1, 1), shape)

    def is_stale(self, weight: Tensor) -> bool:
        """Whether ``weight`` has changed since."""
        return self.state != (weight.data_ptr(), weight._version)

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution (B, C', H, W) of images (B, C, H, W)."""
        if self.fast:
            return winograd.convolve(x, self.filters, self.out_channels, bias, _packed_row_convolution)
        return _packed_convolution(x, self.whole, bias, (1, 1))


# Of every layer inside of `packed_filters`, by whether they are Winograd's. Not in the layers: copies of them start without.
_PACKED: WeakKeyDictionary[Conv3x3, dict[bool, PackedFilters]] = WeakKeyDictionary()


def _pack(weight: Tensor, padding: tuple[int, int], shape: torch.Size) -> Tensor:
    weight = weight.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, (1, 1), (1, 1), 1, shape)


def _packed_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    # "none": no activation is fused with it.
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, (1, 1), (1, 1), 1, "none", [], "")


def _packed_row_convolution(x: Tensor, row: Tensor) -> Tensor:
    return _packed_convolution(x, row, None, (0, 1))


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)`` for 3x3 filters, by Winograd's algorithm where that pays.

    Args:
        x: (B, C, H, W).
        weight: (C', C, 3, 3).
        bias: (C',) or None.
    """
    if _suits(x, weight) and _pays(x, len(weight)):
        return _Convolution.apply(x, weight, bias, None)
    return F.conv2d(x, weight, bias, padding=1)


def conv3x3_weight(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient (C', C, 3, 3) of ``(conv3x3(x, weight) * grad).sum()`` to the weight.

    Args:
        x: (B, C, H, W).
        grad: (B, C', H, W).
    """
    if _suits(x, grad) and _suits(grad, x) and _pays(x, grad.shape[1]):
        return _WeightGradient.apply(x, grad)
    return conv2d_weight(x, (grad.shape[1], x.shape[1], 3, 3), grad, padding=1)


def _suits(x: Tensor, other: Tensor) -> bool:
    # Whether these are images in the memory layout that a CPU is fastest with, and `other` goes with them.
    return (
        not torch.compiler.is_compiling()
        and x.device.type == other.device.type == "cpu"
        and x.dtype == other.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.ndim == 4
        and x.shape[1] >= MIN_CHANNELS // 2  # of one channel, memory does not tell which layout it is
        and x.permute(0, 2, 3, 1).is_contiguous()
    )


def _pays(x: Tensor, out_channels: int, share: float = 1.0) -> bool:
    # Whether Winograd's algorithm does, for images `x`, where a `share` of the usual work is enough.
    pixels, products = x.shape[0] * x.shape[2] * x.shape[3], x.shape[1] * out_channels
    return (
        x.shape[2] % 4 == 0
        and products >= MIN_CHANNELS * (x.shape[1] + out_channels)
        and pixels >= share * MIN_PIXELS
        and pixels * products >= share * MIN_PRODUCTS
    )


def _turned(weight: Tensor) -> Tensor:
    # The filters that carry gradients back: (C', C, 3, 3) -> (C, C', 3, 3).
    return weight.flip(2, 3).transpose(0, 1)


class _Convolution(torch.autograd.Function):
    """The convolution with its derivatives, all of them convolutions again."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, packed: PackedFilters | None) -> Tensor:
        if packed is not None:
            return packed.convolve(x, bias)
        return winograd.convolve(x, winograd.transform_filters(weight), len(weight), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            conv3x3(grad, _turned(weight)) if wanted[0] else None,
            conv3x3_weight(x, grad) if wanted[1] else None,
            grad.sum((0, 2, 3)) if wanted[2] else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor | None, weight_dot: Tensor | None, bias_dot: Tensor | None, _: None) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        parts = []
        if x_dot is not None:
            parts.append(conv3x3(x_dot, weight))
        if weight_dot is not None:
            parts.append(conv3x3(x, weight_dot))
        if bias_dot is not None:
            parts.append(bias_dot[:, None, None].expand(len(x), -1, *x.shape[2:]))
        return sum(parts)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        def direct(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return F.conv2d(x, weight, bias, padding=1)

        return torch.vmap(direct, in_dims[:3])(*inputs[:3]), 0


class _WeightGradient(torch.autograd.Function):
    """The weight's gradient, bilinear in images and gradients, with its derivatives."""

    @staticmethod
    def forward(x: Tensor, grad: Tensor) -> Tensor:
        return winograd.weight_gradient(x, grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, grad = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return conv3x3(grad, _turned(weight)) if wanted[0] else None, conv3x3(x, weight) if wanted[1] else None

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor | None, grad_dot: Tensor | None) -> Any:  # type: ignore[override]
        x, grad = ctx.saved_tensors
        parts = [] if x_dot is None else [conv3x3_weight(x_dot, grad)]
        return sum(parts if grad_dot is None else [*parts, conv3x3_weight(x, grad_dot)])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        def direct(x: Tensor, grad: Tensor) -> Tensor:
            return conv2d_weight(x, (grad.shape[1], x.shape[1], 3, 3), grad, padding=1)

        return torch.vmap(direct, in_dims)(*inputs), 0
