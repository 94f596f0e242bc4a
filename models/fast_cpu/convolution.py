"""3x3 convolutions with their derivatives, by Winograd's algorithm where that is faster on a CPU."""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from . import winograd
from .layout import is_captured


# Winograd's algorithm is used only from so many channels, pixels and products (without the nine taps) on.
MIN_CHANNELS, MIN_PIXELS, MIN_PRODUCTS = 24, 1024, 1 << 26


class Filters(Protocol):
    """Filters kept in a memory layout of their own; see `packing`."""

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution (B, C', H, W) of images (B, C, H, W)."""


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=1)` for 3x3 filters, by Winograd's algorithm where that pays.

    Args:
        x: (B, C, H, W).
        weight: (C', C, 3, 3).
        bias: (C',) or None.
    """
    if suits(x, weight) and pays(x, len(weight)):
        return Convolution.apply(x, weight, bias, None)
    return F.conv2d(x, weight, bias, padding=1)


def conv3x3_weight(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient (C', C, 3, 3) of `(conv3x3(x, weight) * grad).sum()` to the weight.

    Args:
        x: (B, C, H, W).
        grad: (B, C', H, W).
    """
    if suits(x, grad) and suits(grad, x) and pays(x, grad.shape[1]):
        return WeightGradient.apply(x, grad)
    return conv2d_weight(x, (grad.shape[1], x.shape[1], 3, 3), grad, padding=1)


def suits(x: Tensor, other: Tensor) -> bool:
    """Whether `x` are images in the memory layout that a CPU is fastest with, and `other` has their dtype and device."""
    return (
        not is_captured()
        and x.device.type == other.device.type == "cpu"
        and x.dtype == other.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.ndim == 4
        and x.shape[1] >= MIN_CHANNELS // 2  # with one channel both layouts have the same strides
        and x.permute(0, 2, 3, 1).is_contiguous()
    )


def pays(x: Tensor, out_channels: int, share: float = 1.0) -> bool:
    """Whether Winograd's algorithm is faster for images `x`, where a `share` of the usual work is enough."""
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


class Convolution(torch.autograd.Function):
    """The convolution with its derivatives, all of them convolutions again."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, packed: Filters | None) -> Tensor:
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


class WeightGradient(torch.autograd.Function):
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
