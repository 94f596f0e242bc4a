"""Embeddings of the noise level: Fourier features of `log sigma`, or sinusoids of an index or `999 t`."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .initialization import linear


def sinusoidal_embedding(time: torch.Tensor, dim: int, shift: float = 1.0) -> torch.Tensor:
    """`[sin(t w_k), cos(t w_k)]`, `w_k = 10000^(-k / (dim/2 - shift))`: `(B,) -> (B, dim)`, always in float32."""
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=time.device)
    phase = time.float()[:, None] * torch.exp(index * (-math.log(10000) / max(half - shift, 1)))[None, :]
    return F.pad(torch.cat([phase.sin(), phase.cos()], dim=1), (0, dim % 2))


class FourierFeatures(nn.Module):
    """Random features `[sin(2 pi w log sigma), cos(2 pi w log sigma)]`, `w ~ N(0, scale^2)`, fixed at construction.

    The phases reach 1e3 rad, so the frequencies never go below float32, whatever the rest of the network is cast to.

    Args:
        size: number of frequencies; the embedding has `2 * size` entries.
        scale: standard deviation of the frequencies.
    """

    def __init__(self, size: int, scale: float = 16.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        exact = self.weight.data
        super()._apply(fn, recurse)
        if self.weight.dtype in (torch.float16, torch.bfloat16):
            self.weight.data = exact.to(self.weight.device)
        return self

    def forward(self, sigma: torch.Tensor) -> torch.Tensor:
        """Noise levels `(B,) > 0 -> (B, 2 size)` in the dtype of the frequencies."""
        log_sigma = sigma.to(self.weight.dtype).log()
        phase = log_sigma[:, None] * self.weight[None, :] * 2 * torch.pi
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """Two dense layers on top of the raw features: `(B, in_features) -> (B, features)`."""

    def __init__(self, in_features: int, features: int, act: nn.Module) -> None:
        super().__init__()
        self.linear_1 = linear(in_features, features)
        self.act = act
        self.linear_2 = linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` in the dtype that the network computes in, which need not be that in which its weights are stored."""
        return self.linear_2(self.act(self.linear_1(x)))
