"""Reports of a run's needs: memory before its first update, time after a few."""

import time
from itertools import chain
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from .ema import ExponentialMovingAverage
from .muon import muon_share
from .posthoc_ema import PowerAverages
from .sharding import is_spread, local_part


TIMED_UPDATES = 5  # after the first, which prepares the device


class UpdateClock:
    """Time of a run and of its first updates.

    Args:
        seconds: of earlier parts of the run.
        step: updates done before.
    """

    def __init__(self, seconds: float, step: int) -> None:
        self._start, self._first, self._since = time.monotonic() - seconds, step + 1, 0.0

    def seconds(self) -> float:
        """Time of the whole run."""
        return time.monotonic() - self._start

    def update_time(self, step: int) -> float | None:
        """Seconds per update, once, as soon as a few are done; None otherwise."""
        if step == self._first:
            self._since = self.seconds()
        return (self.seconds() - self._since) / TIMED_UPDATES if step == self._first + TIMED_UPDATES else None


class Activations(torch.autograd.graph.saved_tensors_hooks):
    """A context that counts the memory of what a forward pass keeps for the backward pass, beside the network's weights.

    Attributes:
        size: bytes so far; tensors that share their memory count once.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(self._count, lambda tensor: tensor)
        self.size = 0
        self._counted = {_memory(tensor) for tensor in chain(network.parameters(), network.buffers())}

    def _count(self, tensor: Tensor) -> Tensor:
        if _memory(tensor) not in self._counted:
            self._counted.add(_memory(tensor))
            self.size += tensor.untyped_storage().nbytes()
        return tensor


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def size_report(
    network: nn.Module, ema: ExponentialMovingAverage[Any], averages: PowerAverages, optimizer: Any
) -> str:
    """Parameters, and the memory of everything that is as large as the network, without activations."""
    trained = list(network.parameters())
    parts = [local_part(parameter) for parameter in trained]
    size = sum(part.numel() * part.element_size() for part in parts)
    # Weights, gradients, two moments (of what Muon trains one), the moving average.
    copies = 5 + len(averages.models) - muon_share(optimizer)
    millions = sum(parameter.numel() for parameter in trained) / 1e6
    where = " of every process" if any(is_spread(parameter) for parameter in trained) else ""
    return (
        f"{type(ema.model).__name__}: {millions:.2f} M parameters; weights, gradients, optimizer and averages take "
        f"{readable_bytes(copies * size)}{where}"
    )


def time_report(seconds: float, updates_left: int, device: torch.device) -> str:
    """Time of an update, time to the end, and memory (of a GPU the largest so far).

    Args:
        seconds: of one update.
    """
    on_gpu = device.type == "cuda"
    memory = torch.cuda.max_memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
    return (
        f"{seconds:.3g} s an update, {readable_seconds(seconds * updates_left)} to the end; "
        f"{readable_bytes(memory)} of {'GPU ' if on_gpu else ''}memory in use"
    )


def readable_bytes(count: float) -> str:
    """12.3 MB, 4.56 GB."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def readable_seconds(seconds: float) -> str:
    """42 s, 12 min, 3 h 25 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
