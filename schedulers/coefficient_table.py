"""The coefficients of an SDE at the times of one walk, computed once and together."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .sde import SDE


COEFFICIENTS = ("alpha", "sigma", "log_alpha", "drift_rate", "diffusion", "log_snr")


def tabulate(sde: SDE, times: list[Tensor]) -> SDE:
    """The same SDE, with its coefficients at `times` looked up instead of computed.

    A sampler asks for the same few scalars a dozen times a step, each a handful of tiny tensor operations. Everything
    that the base class derives from the coefficients (kernels, denoising) profits; other times are computed as before.

    Args:
        sde: any SDE; it is not changed.
        times: 0-dim tensors; a look-up recognises these very objects.
    """
    table = copy.copy(sde)
    together = torch.stack(times)
    for name in COEFFICIENTS:
        function = getattr(sde, name)
        setattr(table, name, _lookup(function, times, function(together).unbind()))
    return table


def _lookup(
    function: Callable[[Tensor], Tensor], times: list[Tensor], values: tuple[Tensor, ...]
) -> Callable[[Tensor], Tensor]:
    return partial(_find, {id(time): (time, value) for time, value in zip(times, values)}, function)


def _find(entries: dict[int, tuple[Tensor, Tensor]], function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    # The entries keep their times alive, so that no other tensor can take the identity of one; but a table that was
    # pickled brings identities of another process along.
    time, value = entries.get(id(t), (None, None))
    return value if value is not None and time is t else function(t)
