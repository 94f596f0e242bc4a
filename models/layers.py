"""Building blocks of the paper's networks: group normalisation, residual blocks, attention, pyramid junction."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..schedulers.checks import shown
from .initialization import conv, linear
from .resampling import BoxFilter, FIRFilter, up_conv


ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "swish": nn.SiLU, "relu": nn.ReLU, "elu": nn.ELU}


def activation(name: str) -> nn.Module:
    """The nonlinearity called `silu` (or `swish`), `relu`, `elu` or `lrelu` (slope 0.2)."""
    if isinstance(name, str) and name == "lrelu":
        return nn.LeakyReLU(0.2)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"act_fn must be one of {sorted([*ACTIVATIONS, 'lrelu'])}, got {shown(name)}")
    return ACTIVATIONS[name]()


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, then `act` if given, in half precision where the input is.

    On a CPU both are computed in float32 with one rounding at the end: the half-precision kernels for channels_last
    images take up to eight times as long there. Elsewhere the kernels take half-precision values and sum in float32, and
    autocast, which would copy every image to float32, is left out.
    """

    def forward(self, input: torch.Tensor, act: nn.Module | None = None) -> torch.Tensor:
        """`(B, C, ...) -> (B, C, ...)` in the dtype of the input."""
        if input.dtype not in (torch.bfloat16, torch.float16):
            return _apply(act, super().forward(input))
        device, dtype = input.device.type, input.dtype
        inner = torch.float32 if device == "cpu" else dtype
        with torch.autocast(device, enabled=False):
            weight, bias = self.weight.to(inner), self.bias.to(inner)
            normed = F.group_norm(input.to(inner), self.num_groups, weight, bias, self.eps)
            return _apply(act, normed).to(dtype)


def _apply(act: nn.Module | None, fresh: torch.Tensor) -> torch.Tensor:
    """`act(fresh)`, in place where no gradient needs what it overwrites (a tenth of a forward pass is memory traffic)."""
    if isinstance(act, nn.SiLU):
        return F.silu(fresh, inplace=not (fresh.requires_grad or torch.jit.is_tracing()))  # a trace serves both
    return fresh if act is None else act(fresh)


def group_norm(channels: int, groups: int | None, eps: float) -> GroupNorm:
    """Group normalisation; `groups=None` is the paper's rule, `min(channels // 4, 32)`.

    Where that does not divide the channels (the paper's code then raises), the next smaller number that does is taken.
    """
    if groups is None:
        groups = next(n for n in range(max(min(channels // 4, 32), 1), 0, -1) if channels % n == 0)
    if channels % groups:
        raise ValueError(f"norm_num_groups must divide the channels of every layer, got {groups} for {channels}")
    return GroupNorm(groups, channels, eps=eps)


class ResnetBlock(nn.Module):
    """Residual block: `x -> (shortcut(x) + conv2(act(norm2(conv1(act(norm1(x))) + proj(emb))))) / sqrt 2`.

    Two kinds. `ddpm`: never resamples, and has a 1x1 shortcut where the number of channels changes. `biggan`: may
    resample both branches (before `conv1`), and then always has the shortcut.

    Args:
        in_channels, out_channels: channels before and after.
        emb_channels: length of the time embedding.
        act: the nonlinearity.
        resample: None, "up" or "down" (BigGAN blocks alone).
        filter: what resamples.
        rescale: divide the sum by sqrt 2 (the paper's skip rescaling).
        init_scale: variance scale of `conv2` at initialisation.
        shortcut_scale: variance scale of the shortcut at initialisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        act: nn.Module,
        dropout: float,
        groups: int | None,
        eps: float,
        rescale: bool,
        init_scale: float,
        shortcut_scale: float = 1.0,
        resample: str | None = None,
        filter: FIRFilter | BoxFilter | None = None,
    ) -> None:
        super().__init__()
        self.resample, self.filter = resample, filter
        self.factor = math.sqrt(0.5) if rescale else 1.0
        self.act = act
        self.norm1 = group_norm(in_channels, groups, eps)
        self.conv1 = conv(in_channels, out_channels, 3)
        self.time_emb_proj = linear(emb_channels, out_channels)
        self.norm2 = group_norm(out_channels, groups, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(out_channels, out_channels, 3, scale=init_scale)
        needs_shortcut = in_channels != out_channels or resample is not None
        self.conv_shortcut = conv(in_channels, out_channels, 1, scale=shortcut_scale) if needs_shortcut else None

    def forward(self, x: torch.Tensor, emb: torch.Tensor | None) -> torch.Tensor:
        """`x` (B, C, H, W), `emb` the activated embedding (B, E) or None -> (B, C', H', W')."""
        h = self._after_resampling(self.conv1, self.norm1(x, self.act))
        if emb is not None:
            h = h.add_(self.time_emb_proj(emb)[:, :, None, None])
        h = self.conv2(self.dropout(self.norm2(h, self.act)))
        if self.conv_shortcut is not None:
            x = self._after_resampling(self.conv_shortcut, x)
        return _rescaled(x + h, self.factor)

    def _after_resampling(self, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if self.filter is None or self.resample is None:
            return conv(x)
        return up_conv(self.filter, x, conv) if self.resample == "up" else conv(self.filter.down(x))


def _rescaled(fresh: torch.Tensor, factor: float) -> torch.Tensor:
    return fresh.mul_(factor) if factor != 1.0 else fresh


class SelfAttention(nn.Module):
    """Attention over all pixels: `x -> (x + out(softmax(q k^T / sqrt d) v)) / sqrt 2`.

    Args:
        channels: channels of the image, and of query, key and value.
        head_dim: channels `d` per head; None for a single head.
        rescale: divide the sum by sqrt 2.
        init_scale: variance scale of the output projection at initialisation.

    Second derivatives need `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`: the fused kernels have first ones only.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int | None,
        eps: float,
        rescale: bool,
        init_scale: float,
        head_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = channels if head_dim is None else head_dim
        if channels % self.head_dim:
            raise ValueError(
                f"attention_head_dim must divide the channels at every attention, got {head_dim} for {channels}"
            )
        self.factor = math.sqrt(0.5) if rescale else 1.0
        self.group_norm = group_norm(channels, groups, eps)
        self.to_qkv = conv(channels, 3 * channels, 1, scale=0.1, fan=channels)
        self.to_out = conv(channels, channels, 1, scale=init_scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W) -> (B, C, H, W)`; with channels_last inputs every reshape here is a view."""
        batch, channels, height, width = x.shape
        qkv = self.to_qkv(self.group_norm(x)).permute(0, 2, 3, 1)
        qkv = qkv.reshape(batch, height * width, 3, channels // self.head_dim, self.head_dim)
        query, key, value = qkv.transpose(1, 3).unbind(2)
        h = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        h = self.to_out(h.reshape(batch, height, width, channels).permute(0, 3, 1, 2))
        return _rescaled(x + h, self.factor)


class Combine(nn.Module):
    """Bring the input pyramid into the feature stream: `conv1x1(pyramid)` added to it, or put before it (`cat`)."""

    def __init__(self, pyramid_channels: int, channels: int, method: str) -> None:
        super().__init__()
        self.conv = conv(pyramid_channels, channels, 1)
        self.method = method

    def forward(self, pyramid: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """`(B, P, H, W), (B, C, H, W) -> (B, C, H, W)`, or `(B, 2 C, H, W)` for `cat`."""
        h = self.conv(pyramid)
        return torch.cat([h, x], dim=1) if self.method == "cat" else h + x
