r"""Exponential moving average of a network's weights, as in the paper's code.

After update n (n = 1, 2, ...)   `ema <- d ema + (1 - d) w`   with   `d = min(decay, (1 + n) / (10 + n))`.

diffusers' `EMAModel` applies this one step late, ignores buffers and keeps a bare list; here the average is a whole
module, so it samples and saves like any other.
"""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from ..schedulers.checks import check_number
from .sharding import local_part


Network = TypeVar("Network", bound=nn.Module)


class ExponentialMovingAverage(Generic[Network]):
    """Keeps `model`, a detached copy of a network whose floating-point parameters are averaged.

    Buffers and integer parameters are copied as they are: statistics belong to the latest network.

    Args:
        model: the network to follow (not wrapped by DDP).
        max_decay: the decay that is reached.
        inv_gamma, power: if `power` is given, the decay warms up as `1 - (1 + n / inv_gamma)^-power` instead.
    """

    def __init__(
        self, model: Network, max_decay: float = 0.9999, inv_gamma: float = 1.0, power: float | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        check_number("max_decay", max_decay, 0, 1)
        check_number("inv_gamma", inv_gamma, 0, ends="()")
        if power is not None:
            check_number("power", power, 0)
        self.model: Network = copy.deepcopy(model).eval().requires_grad_(False)
        self.max_decay, self.inv_gamma, self.power = max_decay, inv_gamma, power
        self.num_updates = 0

    def decay(self, num_updates: int) -> float:
        """The decay of update number `num_updates` (the first is 1)."""
        if self.power is None:
            warm = (1 + num_updates) / (10 + num_updates)
        else:
            warm = 1 - (1 + num_updates / self.inv_gamma) ** -self.power
        return min(self.max_decay, warm)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards `model`, the network that was passed to the constructor."""
        self.num_updates += 1
        rate = 1 - self.decay(self.num_updates)
        pairs = [
            (local_part(ours), local_part(theirs.detach()))
            for ours, theirs in zip(self.model.parameters(), model.parameters())
        ]
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([ours for ours, _ in averaged], [theirs for _, theirs in averaged], rate)
        copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        for ours, theirs in [*copied, *zip(self.model.buffers(), model.buffers())]:
            ours.copy_(theirs)
