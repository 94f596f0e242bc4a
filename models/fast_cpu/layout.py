"""The memory layout in which a CPU convolves images fastest."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


# Private to PyTorch: the depth of `torch.func` transforms. Without it images stay as they are.
_LEVEL = getattr(getattr(torch._C, "_functorch", None), "maybe_current_level", None)


def is_captured() -> bool:
    """Whether PyTorch records the network (`torch.compile`, `torch.export`, `torch.jit.trace`) instead of running it."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def in_fast_layout(x: Tensor) -> Tensor:
    """The images (B, C, H, W) in channels_last memory on a CPU; elsewhere as they are.

    Also as they are inside of `torch.func` and `torch.vmap` and in forward mode: PyTorch's group normalisation has neither
    vmap nor tangents in that memory.
    """
    if x.device.type != "cpu" or x.ndim != 4 or (not is_captured() and is_transformed(x)):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def is_transformed(x: Tensor) -> bool:
    """Whether `x` is inside of a transform of `torch.func`, or of forward-mode differentiation."""
    return _LEVEL is None or _LEVEL() is not None or forward_ad.unpack_dual(x).tangent is not None
