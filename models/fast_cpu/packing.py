"""Filters of a network kept in the memory layout that the CPU's convolution works in, while they do not change.

oneDNN converts the filters to its own layout at every call, which costs most where images are few and small. The layouts
are held here and not in the layers, so that copies and checkpoints of a network do not contain them.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from . import winograd
from .convolution import Convolution, conv3x3, pays, suits
from .layout import is_transformed


PACKED_SHARE = 0.5  # of the pixels and products that Winograd's algorithm needs is enough with packed filters
# Operations that are private to PyTorch: where they are absent, nothing is packed.
CAN_PACK = (
    platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
)


class PackedFilters:
    """3x3 filters in the memory layout that the CPU's convolution works in.

    Args:
        weight: (C', C, 3, 3).
        shape: of typical images (B, C, H, W).
        fast: whether for Winograd's algorithm.
    """

    def __init__(self, weight: Tensor, shape: torch.Size, fast: bool) -> None:
        self.out_channels, self.fast = len(weight), fast
        self.state, self.checksum = weight.data_ptr(), checksum(weight)
        if fast:
            shape = torch.Size([*shape[:2], shape[2] // 4, shape[3]])
            pairs = winograd.transform_filters(weight.detach())
            self.filters = [(_pack(g, (0, 1), shape), _pack(h, (0, 1), shape)) for g, h in pairs]
        else:
            self.whole = _pack(weight.detach(), (1, 1), shape)

    def is_stale(self, weight: Tensor) -> bool:
        """Whether `weight` has changed since, by whatever means."""
        return self.state != weight.data_ptr() or not torch.equal(self.checksum, checksum(weight))

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution (B, C', H, W) of images (B, C, H, W)."""
        if self.fast:
            return winograd.convolve(x, self.filters, self.out_channels, bias, _packed_row_convolution)
        return _packed_convolution(x, self.whole, bias, (1, 1))


Packs = dict[bool, PackedFilters]  # by whether they are Winograd's
PACKED: WeakKeyDictionary[nn.Module, Packs] = WeakKeyDictionary()  # of every layer inside of `packed_filters`


@contextmanager
def packed_filters(network: nn.Module) -> Iterator[None]:
    """Within it, calls of `network` without gradients on a CPU keep the filters of their 3x3 convolutions packed.

    For loops over calls in which the weights seldom change: a change is noticed, however it was made (fused optimizers and
    edits through NumPy leave no other trace than the values), and the filters are packed anew. Takes up to three times the
    memory of these weights. Outputs are those without it, up to rounding; on other devices and in other dtypes it does
    nothing.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    layers = network.modules() if CAN_PACK else ()
    added: list[nn.Module] = [layer for layer in layers if isinstance(layer, nn.Conv2d) and layer not in PACKED]
    PACKED.update((layer, {}) for layer in added)
    try:
        yield
    finally:
        for layer in added:
            PACKED.pop(layer, None)


def convolve_packed(x: Tensor, weight: Tensor, bias: Tensor | None, packs: Packs) -> Tensor:
    """`conv3x3` with filters from `packs`, where new ones are kept."""
    if not suits(x, weight) or weight.is_inference() or is_transformed(x):
        return conv3x3(x, weight, bias)
    fast = pays(x, len(weight), PACKED_SHARE)
    if fast not in packs or packs[fast].is_stale(weight):
        packs[fast] = PackedFilters(weight, x.shape, fast)
    return Convolution.apply(x, weight, bias, packs[fast])


def checksum(weight: Tensor) -> Tensor:
    """Random projections (C',) of filters (C', ...): one read of them, and any change but a rounding error shows."""
    rows = weight.detach().flatten(1) if weight.is_contiguous() else weight.detach().permute(0, 2, 3, 1).flatten(1)
    return rows @ _direction(rows.shape[1])


_DIRECTIONS: dict[int, Tensor] = {}


def _direction(size: int) -> Tensor:
    if size not in _DIRECTIONS:
        _DIRECTIONS[size] = torch.randn(size, generator=torch.Generator().manual_seed(size))
    return _DIRECTIONS[size]


def _pack(weight: Tensor, padding: tuple[int, int], shape: torch.Size) -> Tensor:
    weight = weight.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, (1, 1), (1, 1), 1, shape)


def _packed_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    # "none": no activation is fused with it.
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, (1, 1), (1, 1), 1, "none", [], "")


def _packed_row_convolution(x: Tensor, row: Tensor) -> Tensor:
    return _packed_convolution(x, row, None, (0, 1))
