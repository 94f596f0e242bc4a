"""The stages of the U-Net: one resolution going down, the middle, one resolution going up.

Each holds its residual blocks in `resnets`, their attention (if the level has it) in `attentions`, the layer
that changes the resolution in `downsampler` or `upsampler`, and the layers that join the input or output pyramid.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from .initialization import conv
from .layers import Combine, GroupNorm, ResnetBlock, SelfAttention, activation, group_norm
from .resampling import Downsample, Upsample, make_filter


@dataclass(frozen=True)
class BlockOptions:
    """What all stages of one network share; names as in `NCSNpp`."""

    emb_channels: int
    resnet_type: str
    act_fn: str
    dropout: float
    groups: int | None
    eps: float
    fir: bool
    fir_kernel: tuple[float, ...]
    resample_with_conv: bool
    downsample_padding: int
    attention_head_dim: int | None
    up_attention: str
    input_pyramid: str
    output_pyramid: str
    pyramid_combine: str
    skip_rescale: bool
    init_scale: float

    def resnet(self, in_channels: int, out_channels: int, resample: str | None = None) -> ResnetBlock:
        """A residual block between these numbers of channels."""
        return ResnetBlock(
            in_channels,
            out_channels,
            self.emb_channels,
            act=activation(self.act_fn),
            dropout=self.dropout,
            groups=self.groups,
            eps=self.eps,
            rescale=self.skip_rescale,
            init_scale=self.init_scale,
            shortcut_scale=0.1 if self.resnet_type == "ddpm" else 1.0,
            resample=resample,
            filter=None if resample is None else make_filter(self.fir, self.fir_kernel),
        )

    def attention(self, channels: int) -> SelfAttention:
        """An attention block at this number of channels."""
        return SelfAttention(
            channels,
            groups=self.groups,
            eps=self.eps,
            rescale=self.skip_rescale,
            init_scale=self.init_scale,
            head_dim=self.attention_head_dim,
        )

    def change(self, channels: int, direction: str) -> nn.Module:
        """What halves ("down") or doubles ("up") the resolution of the feature stream."""
        if self.resnet_type == "biggan":
            return self.resnet(channels, channels, direction)
        filter = make_filter(self.fir, self.fir_kernel)
        if direction == "up":
            return Upsample(filter, channels, channels, self.resample_with_conv)
        return Downsample(filter, channels, channels, self.resample_with_conv, self.downsample_padding)

    def norm(self, channels: int) -> GroupNorm:
        """The normalisation in front of an output convolution."""
        return group_norm(channels, self.groups, self.eps)


class _Stage(nn.Module):
    """Runs residual blocks, under gradient checkpointing where diffusers has switched it on."""

    _gradient_checkpointing_func: Callable[..., torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def _run(self, block: nn.Module, *args: torch.Tensor | None) -> torch.Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    def _change(self, block: nn.Module, x: torch.Tensor, emb: torch.Tensor | None) -> torch.Tensor:
        return self._run(block, x, emb) if isinstance(block, ResnetBlock) else block(x)


class DownBlock(_Stage):
    """One resolution of the encoder: `layers` residual blocks, then half the resolution unless `last`.

    `out_channels` counts the channels of the output (twice the level's after a `cat` junction),
    `pyramid_channels` those of the input pyramid, `skip_channels` those of every skip connection, in order.
    """

    def __init__(
        self,
        options: BlockOptions,
        in_channels: int,
        channels: int,
        *,
        layers: int,
        attention: bool,
        last: bool,
        pyramid_channels: int,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * layers
        self.resnets = nn.ModuleList(options.resnet(a, b) for a, b in pairwise(widths))
        self.attentions = nn.ModuleList(options.attention(channels) for _ in range(layers if attention else 0))
        self.downsampler = None if last else options.change(channels, "down")
        self.pyramid_filter: nn.Module | None = None
        self.pyramid: nn.Module | None = None
        self.factor = math.sqrt(0.5) if options.skip_rescale else 1.0
        self.skip_channels = [channels] * layers
        self.out_channels, self.pyramid_channels = channels, pyramid_channels
        if not last:
            self._make_pyramid(options, channels)
            self.skip_channels.append(self.out_channels)

    def _make_pyramid(self, options: BlockOptions, channels: int) -> None:
        filter = make_filter(options.fir, options.fir_kernel)
        if options.input_pyramid == "input_skip":
            self.pyramid_filter = Downsample(filter, self.pyramid_channels, self.pyramid_channels, False)
            self.pyramid = Combine(self.pyramid_channels, channels, options.pyramid_combine)
            self.out_channels = channels * (2 if options.pyramid_combine == "cat" else 1)
        elif options.input_pyramid == "residual":
            self.pyramid = Downsample(filter, self.pyramid_channels, channels, True)
            self.pyramid_channels = channels

    def forward(
        self, x: torch.Tensor, emb: torch.Tensor | None, pyramid: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """`x` (B, C, H, W) -> the features (B, C', H/2, W/2), the input pyramid, and the skip connections."""
        skips = []
        for index, resnet in enumerate(self.resnets):
            x = self._run(resnet, x, emb)
            if len(self.attentions) > 0:
                x = self._run(self.attentions[index], x)
            skips.append(x)
        if self.downsampler is not None:
            x = self._change(self.downsampler, x, emb)
            x, pyramid = self._join(x, pyramid)
            skips.append(x)
        return x, pyramid, tuple(skips)

    def _join(self, x: torch.Tensor, pyramid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.pyramid is None:
            return x, pyramid
        if self.pyramid_filter is not None:
            pyramid = self.pyramid_filter(pyramid)
            return self.pyramid(pyramid, x), pyramid
        pyramid = self.pyramid(pyramid) + x
        pyramid = pyramid.mul_(self.factor) if self.factor != 1.0 else pyramid
        return pyramid, pyramid


class MidBlock(_Stage):
    """The middle: residual block, attention, residual block."""

    def __init__(self, options: BlockOptions, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(options.resnet(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([options.attention(channels)])

    def forward(self, x: torch.Tensor, emb: torch.Tensor | None) -> torch.Tensor:
        """`(B, C, H, W) -> (B, C, H, W)`."""
        x = self._run(self.resnets[0], x, emb)
        x = self._run(self.attentions[0], x)
        return self._run(self.resnets[1], x, emb)


class UpBlock(_Stage):
    """One resolution of the decoder: a residual block per skip connection, attention, then twice the resolution.

    With `output_skip` each resolution adds `pyramid_conv(act(pyramid_norm(x)))` to the doubled image of the one
    below; with `residual` the pyramid is a feature stream that the level's features join. `first` is the lowest
    resolution, where the pyramid starts, `last` the highest.
    """

    def __init__(
        self,
        options: BlockOptions,
        in_channels: int,
        channels: int,
        skip_channels: list[int],
        *,
        attention: bool,
        first: bool,
        last: bool,
        image_channels: int,
        pyramid_channels: int,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * (len(skip_channels) - 1)
        self.resnets = nn.ModuleList(options.resnet(a + b, channels) for a, b in zip(widths, skip_channels))
        attentions = 1 if options.up_attention == "last" else len(skip_channels)
        self.attentions = nn.ModuleList(options.attention(channels) for _ in range(attentions if attention else 0))
        self.pyramid_norm: nn.Module | None = None
        self.pyramid_conv: nn.Module | None = None
        self.pyramid_upsampler: nn.Module | None = None
        self.kind = options.output_pyramid
        self.act = activation(options.act_fn)
        self.factor = math.sqrt(0.5) if options.skip_rescale else 1.0
        filter = make_filter(options.fir, options.fir_kernel)
        residual = self.kind == "residual"
        if self.kind == "output_skip" or (residual and first):
            self.pyramid_norm = options.norm(channels)
            width = channels if residual else image_channels
            self.pyramid_conv = conv(channels, width, 3, scale=1.0 if residual else options.init_scale)
        if self.kind != "none" and not first:
            width = channels if residual else pyramid_channels
            self.pyramid_upsampler = Upsample(filter, pyramid_channels, width, residual)
        self.upsampler = None if last else options.change(channels, "up")
        self.pyramid_channels = channels if residual else image_channels

    def forward(
        self,
        x: torch.Tensor,
        emb: torch.Tensor | None,
        skips: tuple[torch.Tensor, ...],
        pyramid: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the features and the pyramid; `skips` has one entry per residual block, the last is taken first."""
        first = len(self.resnets) - len(self.attentions)
        for index, (resnet, skip) in enumerate(zip(self.resnets, reversed(skips))):
            x = self._run(resnet, torch.cat([x, skip], dim=1), emb)
            if index >= first:
                x = self._run(self.attentions[index - first], x)
        if self.kind != "none":
            x, pyramid = self._join(x, pyramid)
        if self.upsampler is not None:
            x = self._change(self.upsampler, x, emb)
        return x, pyramid

    def _join(self, x: torch.Tensor, pyramid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        raised = None if self.pyramid_upsampler is None else self.pyramid_upsampler(pyramid)
        if self.pyramid_conv is not None and self.pyramid_norm is not None:
            own = self.pyramid_conv(self.pyramid_norm(x, self.act))
            return x, own if raised is None else raised + own
        assert raised is not None, "a residual pyramid has an upsampler at every level but the lowest"
        mixed = (raised + x).mul_(self.factor)
        return mixed, mixed
