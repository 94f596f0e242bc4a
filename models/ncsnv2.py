"""NCSNv2 (Song and Ermon 2020), the baseline among the paper's VE networks: a dilated ResNet with RefineNet fusion.

The noise level enters in one place only: the output is divided by sigma.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from ..schedulers.checks import check_flag
from .config_checks import (
    SMALLEST_SIGMA,
    check_booleans,
    check_integer_lists,
    check_integers,
    check_noise_levels,
    check_values,
)
from .convolution import make_convolution
from .layers import activation
from .network import Network
from .noise_levels import expand_timestep, sigma_of_index


class InstanceNormPlus(nn.Module):
    """Instance normalisation that keeps the normalised channel means: `gamma (norm(x) + alpha norm(mean(x))) + beta`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.gamma = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W) -> (B, C, H, W)`."""
        means = x.mean(dim=(2, 3))
        variance, center = torch.var_mean(means, dim=1, keepdim=True)
        means = (means - center) / (variance + 1e-5).sqrt()
        shift = torch.addcmul(self.beta, self.gamma, self.alpha * means)[:, :, None, None]
        return F.instance_norm(x) * self.gamma[:, None, None] + shift


class _ResidualBlock(nn.Module):
    """Two convolutions; a `down` block halves the resolution, or keeps it and dilates (`dilation > 1`)."""

    def __init__(self, in_channels: int, out_channels: int, act: nn.Module, *, down: bool, dilation: int) -> None:
        super().__init__()
        middle = in_channels if down else out_channels
        size: dict[str, Any] = {"padding": dilation, "dilation": dilation}
        self.act = act
        self.pool = down and dilation == 1
        self.norm1 = InstanceNormPlus(in_channels)
        self.conv1 = nn.Conv2d(in_channels, middle, 3, **size)
        self.norm2 = InstanceNormPlus(middle)
        self.conv2 = nn.Conv2d(middle, out_channels, 3, **size)
        self.conv_shortcut: nn.Module | None = None
        if down and dilation > 1:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 3, **size)
        elif down or in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(self.act(self.norm1(x)))
        h = self.conv2(self.act(self.norm2(h)))
        if self.pool:
            # The mean commutes with the 1x1 shortcut, which then works on a quarter of the pixels.
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


def _conv(in_channels: int, out_channels: int, bias: bool = False) -> nn.Conv2d:
    return make_convolution(in_channels, out_channels, 3, bias=bias)


class _ResidualConvs(nn.Module):
    """Residual units of two convolutions each."""

    def __init__(self, channels: int, units: int, act: nn.Module) -> None:
        super().__init__()
        self.act = act
        self.convs = nn.ModuleList(_conv(channels, channels) for _ in range(2 * units))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first, second in zip(self.convs[::2], self.convs[1::2]):
            x = x + second(self.act(first(self.act(x))))
        return x


class _RefineBlock(nn.Module):
    """Adapts its inputs, brings them to one resolution, pools them in a chain, and refines the result."""

    def __init__(self, in_channels: list[int], channels: int, act: nn.Module, *, units: int) -> None:
        super().__init__()
        self.act = act
        self.adapt = nn.ModuleList(_ResidualConvs(width, 2, act) for width in in_channels)
        merged = in_channels if len(in_channels) > 1 else []
        self.merge = nn.ModuleList(_conv(width, channels, bias=True) for width in merged)
        self.pool_convs = nn.ModuleList(_conv(channels, channels) for _ in range(2))
        self.out = _ResidualConvs(channels, units, act)

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        adapted = [adapt(x) for adapt, x in zip(self.adapt, inputs)]
        h = adapted[0]
        if len(self.merge) > 0:
            size = inputs[0].shape[2:]
            raised = [merge(x) for merge, x in zip(self.merge, adapted)]
            raised = [F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in raised]
            h = raised[0] + raised[1]
        h = path = self.act(h)
        for conv in self.pool_convs:
            path = conv(F.max_pool2d(path, 5, stride=1, padding=2))
            h = h + path
        return self.out(h)


class NCSNv2(Network):
    r"""Score network of Song and Ermon (2020); the defaults are the one for CIFAR-10.

    Args:
        sample_size: height and width of the images.
        in_channels, out_channels: channels of the image and of the output.
        center_input_sample: map inputs from [0, 1] to [-1, 1] first.
        block_out_channels: channels of each stage; every stage but the first halves the resolution, or dilates.
        dilations: dilation of each stage; 1 halves.
        act_fn: `elu`, `relu`, `lrelu` or `silu`.
        sigma_min, sigma_max, num_train_timesteps: the log-spaced noise levels, falling from index 0.

    Example:
        >>> model = NCSNv2(block_out_channels=(16, 32, 32, 32))
        >>> score = model(torch.rand(2, 3, 32, 32), torch.tensor([0, 231])).sample
    """

    _supports_gradient_checkpointing = True
    _gradient_checkpointing_func: Any
    _no_split_modules = ["_ResidualBlock", "_RefineBlock"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = True,
        block_out_channels: tuple[int, ...] = (128, 256, 256, 256),
        dilations: tuple[int, ...] = (1, 1, 2, 4),
        act_fn: str = "elu",
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_train_timesteps: int = 232,
    ) -> None:
        super().__init__()
        check_integers(self.config, "sample_size", "in_channels", "out_channels")
        check_integer_lists(self.config, "block_out_channels", "dilations")
        check_booleans(self.config, "center_input_sample")
        check_noise_levels(self.config)
        if len(dilations) != len(block_out_channels):
            raise ValueError(f"dilations must have one entry per stage, {len(block_out_channels)}, got {dilations}")
        widths = list(block_out_channels)
        self.act = act = activation(act_fn)
        self.conv_in = _conv(in_channels, widths[0], bias=True)
        self.down_blocks = nn.ModuleList()
        for index, (before, after, dilation) in enumerate(zip(widths[:1] + widths, widths, dilations)):
            first = _ResidualBlock(before, after, act, down=index > 0, dilation=dilation)
            second = _ResidualBlock(after, after, act, down=False, dilation=dilation)
            self.down_blocks.append(nn.ModuleList([first, second]))
        self.up_blocks = nn.ModuleList()
        fused: list[int] = []
        for index in reversed(range(len(widths))):
            channels = widths[max(index - 1, 0)]
            block = _RefineBlock([widths[index], *fused], channels, act, units=3 if index == 0 else 1)
            self.up_blocks.append(block)
            fused = [channels]
        self.norm_out = InstanceNormPlus(widths[0])
        self.conv_out = _conv(widths[0], out_channels, bias=True)
        self.gradient_checkpointing = False

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Run the network.

        Args:
            sample: images (B, in_channels, H, W).
            timestep: integers are indices of noise levels, floating-point numbers noise levels sigma; one number or a
                tensor of shape (), (1,) or (B,).
            class_labels: must be None; there for the common signature.
            return_dict: return a `UNet2DOutput` instead of a one-entry tuple.

        Returns:
            The score (B, out_channels, H, W) in the dtype of `sample`.
        """
        self.check_sample(sample)
        check_flag("return_dict", return_dict)
        if class_labels is not None:
            raise ValueError(f"class_labels must be None for NCSNv2, got {type(class_labels).__name__}")
        time = expand_timestep(timestep, sample)
        if time.is_floating_point():
            check_values("timestep", time, SMALLEST_SIGMA)
        else:
            check_values("timestep", time, 0, self.config.num_train_timesteps)
        sigma = time if time.is_floating_point() else sigma_of_index(self.config, time, sample.dtype)
        h = self.conv_in(2 * sample - 1 if self.config.center_input_sample else sample)
        features = []
        stages: Iterable[Any] = self.down_blocks  # of two blocks each
        for first, second in stages:
            h = self._run(second, self._run(first, h))
            features.append(h)
        fused: list[torch.Tensor] = []
        for block in self.up_blocks:
            fused = [self._run(block, [features.pop(), *fused])]
        h = self.conv_out(self.act(self.norm_out(fused[0])))
        h = (h / sigma.to(torch.promote_types(h.dtype, torch.float32)).view(-1, 1, 1, 1)).to(sample.dtype)
        h = h.contiguous() if sample.is_contiguous() else h
        return UNet2DOutput(sample=h) if return_dict else (h,)

    def _run(self, block: nn.Module, features: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """A block's output; its inner activations are computed again in the backward pass if so configured."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, features)
        return block(features)
