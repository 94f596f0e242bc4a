"""Copies to a GPU that do not wait for it.

A copy of ordinary host memory waits until the GPU has done all work that was queued before: at every network call, the GPU
would then stand still while the next operations are launched.
"""

import torch
from torch import Tensor


def to_device(value: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`value.to(device, dtype)`, from the CPU to a GPU without waiting for it.

    A single number becomes the argument of a kernel; more go through page-locked memory, which PyTorch keeps until the copy
    is done.

    Args:
        value: of any shape.
        device: where to.
        dtype: of the result, by default that of `value`.
    """
    dtype = dtype or value.dtype
    from_host = value.device.type == "cpu" and device.type != "cpu"
    # A captured graph would keep the number, and a gradient has to pass.
    if not from_host or value.requires_grad or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return value.to(device, dtype)
    if value.ndim == 0:
        return torch.full((), value.item(), dtype=dtype, device=device)
    if device.type == "cuda":
        return value.to(dtype).pin_memory().to(device, non_blocking=True)
    return value.to(device, dtype)
