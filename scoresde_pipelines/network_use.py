"""How a pipeline uses a network: one run at a time, in evaluation mode, with gradients only where code enables them."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .models import packed_filters


# Two pipelines may share a network, so the lock is the network's. Re-entrant: a callback may start a run of its own.
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_NEW_LOCK = threading.Lock()


@contextmanager
def in_use(*networks: nn.Module | None) -> Iterator[None]:
    """A context in which this thread alone uses the networks, in evaluation mode; training flags are restored at its end.

    Other threads wait. Gradients are recorded only where code enables them; this also works under `torch.inference_mode()`.
    Filters of convolutions stay packed between calls (see `packed_filters`).
    """
    used = [network for network in networks if network is not None]
    with ExitStack() as stack:
        for network in sorted(used, key=id):  # in one order, or two threads could wait for each other
            stack.enter_context(_lock_of(network))
        for context in (torch.inference_mode(False), torch.no_grad()):
            stack.enter_context(context)
        for network in used:
            stack.enter_context(packed_filters(network))
        training = [module for network in used for module in network.modules() if module.training]
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _lock_of(network: nn.Module) -> threading.RLock:  # type: ignore[valid-type]  # a function that makes them
    with _NEW_LOCK:
        return _LOCKS.setdefault(network, threading.RLock())


def _start_anew() -> None:
    # In a forked process the threads are gone that hold the locks.
    global _NEW_LOCK
    _NEW_LOCK = threading.Lock()
    _LOCKS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def network_output(name: str, unet: Any, x: torch.Tensor, timestep: torch.Tensor, **model_kwargs: Any) -> torch.Tensor:
    """The network's output in float32 at the state `x` (B, *D); the network itself runs in its own dtype.

    Raises:
        TypeError: for another output than an object with numbers of the shape of `x` as `.sample`; `name` is the network's.
    """
    returned = unet(x.to(unet.dtype), timestep, **model_kwargs)
    output = getattr(returned, "sample", returned)
    floating = isinstance(output, torch.Tensor) and output.is_floating_point()
    if returned is output or not floating or output.shape != x.shape:
        got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        got += " without .sample" if returned is output else ""
        raise TypeError(f"{name} must return .sample, floating-point numbers of shape {tuple(x.shape)}, got {got}")
    return output.float()


def weights_not_finite(network: nn.Module) -> str | None:
    """The name of the first parameter with NaN or infinity, or None."""
    here = ((name, value) for name, value in network.named_parameters() if value.device.type != "meta")
    return next((name for name, value in here if not bool(value.isfinite().all())), None)


def check_finite_weights(name: str, network: nn.Module) -> None:
    """Raises ValueError where `network`, of the argument `name`, has weights that are not finite."""
    if (parameter := weights_not_finite(network)) is not None:
        raise ValueError(f"{name} must have finite weights, got NaN or infinity in {parameter}")


def weights_reason(networks: Mapping[str, nn.Module]) -> str | None:
    """The first weights with NaN or infinity among the networks, given by name, as the reason in an error; or None."""
    found = ((name, weights_not_finite(network)) for name, network in networks.items())
    return next((f"the weights {weight} of {name} are not" for name, weight in found if weight), None)
