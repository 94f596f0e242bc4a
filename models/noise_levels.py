"""The timestep argument of the networks: one number per image, and the log-spaced table of noise levels."""

import math
from numbers import Real
from typing import Any

import torch

from ..schedulers.checks import MOST, as_real, check_integer, check_number, is_integer


def expand_timestep(
    timestep: torch.Tensor | float | int, sample: torch.Tensor, name: str = "timestep"
) -> torch.Tensor:
    """One number per image, (B,) on the sample's device; integers stay integers, and Python floats floats.

    Raises:
        TypeError: neither a number nor a tensor of real numbers.
        ValueError: a tensor of any shape but (), (1,) and (B,).
    """
    batch = sample.shape[0]
    if not torch.is_tensor(timestep):
        if not isinstance(timestep, Real) or isinstance(timestep, bool):
            raise TypeError(f"{name} must be a number or a tensor, got {type(timestep).__name__}")
        integer = is_integer(timestep)
        dtype = torch.int64 if integer else torch.promote_types(sample.dtype, torch.float32)
        number = check_integer(name, timestep, -MOST) if integer else check_number(name, timestep, *_ends(dtype))
        return torch.full((batch,), number, dtype=dtype, device=sample.device)
    if as_real(name, timestep).dtype == torch.bool or (timestep.is_meta and not sample.is_meta):
        raise TypeError(f"{name} must be a tensor of real numbers, got {timestep.dtype} on {timestep.device}")
    if timestep.ndim > 1 or (timestep.ndim == 1 and timestep.shape[0] not in (1, batch)):
        raise ValueError(f"{name} must be a number or have shape (), (1,) or ({batch},), got {tuple(timestep.shape)}")
    return timestep.to(sample.device).expand(batch)


def _ends(dtype: torch.dtype) -> tuple[float, float]:
    return torch.finfo(dtype).min, torch.finfo(dtype).max


def _log_range(config: Any) -> tuple[float, float]:
    return math.log(config["sigma_max"]), math.log(config["sigma_min"])


def sigma_of_index(config: Any, index: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Noise level number `index` (truncated) of the log-spaced table that falls from `sigma_max`, in float32 or more."""
    high, low = _log_range(config)
    index = index.to(torch.promote_types(dtype, torch.float32)).trunc()
    return (high + (low - high) / (config["num_train_timesteps"] - 1) * index).exp()


def index_of_sigma(config: Any, sigma: torch.Tensor) -> torch.Tensor:
    """The index (int64) of the level nearest to `sigma` in the logarithm."""
    high, low = _log_range(config)
    last = config["num_train_timesteps"] - 1
    index = (high - sigma.to(torch.promote_types(sigma.dtype, torch.float32)).log()) * (last / (high - low))
    return index.round().clamp(0, last).long()
