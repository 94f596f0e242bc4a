"""The networks' convolutions: PyTorch's own, replaced by those of `fast_cpu` in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def make_convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1, padding: int | None = None, bias: bool = True
) -> nn.Conv2d:
    """A `size` x `size` convolution, by default one that keeps the size of the image."""
    return nn.Conv2d(in_channels, out_channels, size, stride, size // 2 if padding is None else padding, bias=bias)


@contextmanager
def packed_filters(network: nn.Module) -> Iterator[None]:
    """A context for many calls of `network` with the same weights, which `fast_cpu` speeds up; plain layers need nothing."""
    yield


# Without the folder fast_cpu and the next line, the networks compute the same, more slowly on a CPU.
from .fast_cpu import make_convolution, packed_filters  # type: ignore[assignment]  # noqa: E402, F401, F811
