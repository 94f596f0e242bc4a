"""Layers with the initialisation of the paper's networks: uniform, variance `scale / ((fan_in + fan_out) / 2)`, bias 0."""

import math
from typing import TypeVar

import torch
from torch import nn

from .convolution import make_convolution


Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def init_uniform_(weight: torch.Tensor, scale: float = 1.0, fan: float | None = None) -> torch.Tensor:
    """Fill `weight` (out, in, ...) with U(-a, a), `a^2 = 3 scale / fan`; `fan` is the mean of fan-in and fan-out.

    `scale = 0` becomes 1e-10: the output of the layer starts near zero, and its gradient does not vanish.
    """
    if fan is None:
        fan = (weight.shape[0] + weight.shape[1]) / 2 * math.prod(weight.shape[2:])
    bound = math.sqrt(3.0 * (scale or 1e-10) / fan)
    return nn.init.uniform_(weight, -bound, bound)


def conv(
    in_channels: int,
    out_channels: int,
    size: int,
    *,
    scale: float = 1.0,
    stride: int = 1,
    padding: int | None = None,
    fan: float | None = None,
) -> nn.Conv2d:
    """A `size` x `size` convolution that keeps the image's size by default."""
    return initialize(make_convolution(in_channels, out_channels, size, stride, padding), scale, fan)


def initialize(layer: Layer, scale: float = 1.0, fan: float | None = None) -> Layer:
    """`layer` with fresh weights (see `init_uniform_`) and bias 0."""
    assert layer.bias is not None
    init_uniform_(layer.weight.data, scale, fan)
    nn.init.zeros_(layer.bias.data)
    return layer


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A fully connected layer."""
    return initialize(nn.Linear(in_features, out_features))
