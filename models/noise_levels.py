"""The timestep argument of the networks: one number per image, and the log-spaced table of noise levels."""

import math
from typing import Any

import torch


def expand_timestep(timestep: torch.Tensor | float | int, sample: torch.Tensor) -> torch.Tensor:
    """One number per image, (B,) on the sample's device; a Python float stays a float.

    Raises:
        ValueError: a tensor of any shape but (), (1,) and (B,).
    """
    batch = sample.shape[0]
    if not torch.is_tensor(timestep):
        dtype = torch.promote_types(sample.dtype, torch.float32) if isinstance(timestep, float) else torch.int64
        return torch.full((batch,), timestep, dtype=dtype, device=sample.device)
    if timestep.ndim > 1 or timestep.numel() not in (1, batch):
        raise ValueError(
            f"timestep must be a number or have shape (), (1,) or ({batch},), got {tuple(timestep.shape)}"
        )
    return timestep.to(sample.device).expand(batch)


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
