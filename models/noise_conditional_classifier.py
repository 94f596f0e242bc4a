"""A classifier of noisy images, with the noise level as an input: p_t(y | x_t), for guidance (paper section 5)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import nn

from ..schedulers import SDE
from ..schedulers.checks import as_time, check_flag
from ..schedulers.score_function import PerSample
from ..schedulers.sde import expand_to
from ..schedulers.transfers import to_device
from .config_checks import check_dropout, check_integers, check_numbers, check_values
from .convolution import make_convolution
from .embeddings import FourierFeatures, TimeEmbedding
from .layers import group_norm
from .network import Network
from .noise_levels import expand_timestep


@dataclass
class NoiseConditionalClassifierOutput(BaseOutput):
    """Class scores.

    Attributes:
        logits: shape (B, num_classes), unnormalised log-probabilities.
    """

    logits: torch.Tensor


def _conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    layer = make_convolution(in_channels, out_channels, size, stride, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class _WideBlock(nn.Module):
    """Pre-activation residual block with the noise level added between its convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, emb_channels: int, dropout: float) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.norm1 = group_norm(in_channels, None, 1e-6)
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.time_emb_proj = nn.Linear(emb_channels, out_channels)
        self.norm2 = group_norm(out_channels, None, 1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _conv(out_channels, out_channels, 3)
        changes = in_channels != out_channels or stride != 1
        self.conv_shortcut = _conv(in_channels, out_channels, 1, stride) if changes else None
        self.gradient_checkpointing = False

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x, self.act)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(h)
        h = self.conv1(h) + self.time_emb_proj(emb)[:, :, None, None]
        return shortcut + self.conv2(self.dropout(self.norm2(h, self.act)))


class NoiseConditionalClassifier(Network):
    r"""Wide ResNet (Zagoruyko and Komodakis 2016) on noisy images; the defaults are the paper's 28-10 for CIFAR-10.

    Every image is first shifted and scaled to mean 0 and variance 1. It therefore does not matter whether
    `x_t = alpha x_0 + sigma z` comes as it is or divided by alpha, and one number says how noisy it is:
    `noise_level = sigma(t) / alpha(t)`, in the units of the clean images `x_0`. For VE that is sigma itself, as in the
    paper; for VP and sub-VP it is what `log_prob_of` computes. A classifier trained under one SDE thus serves the others on
    the same data range, as far as their noise levels overlap.

    Args:
        in_channels: channels of the images.
        num_classes: number of classes.
        depth: number of convolutions on the longest path, `6 n + 4`.
        width: multiple of the 16, 32 and 64 channels of the three resolutions.
        dropout: probability, inside the blocks.
        embedding_channels: number of Fourier frequencies of log noise_level.
        fourier_scale: their standard deviation.
        min_noise_level: smaller levels (and clean images, level 0) are taken for this one.
        sample_size: side of the images it was trained on, if it is to be held to it.
        data_min, data_max: range of the clean images that noise_level refers to.

    Example:
        >>> classifier = NoiseConditionalClassifier(depth=10, width=1)
        >>> logits = classifier(torch.rand(2, 3, 32, 32), torch.tensor([0.5, 10.0])).logits
        >>> log_prob = classifier.log_prob_of(torch.tensor([3, 7]), scheduler.sde)
        >>> guided = ClassifierGuidance(scheduler.score_fn(unet), log_prob)
    """

    _supports_gradient_checkpointing = True
    _gradient_checkpointing_func: Any
    _no_split_modules = ["_WideBlock"]
    _keep_in_fp32_modules = ["time_proj"]
    _skip_layerwise_casting_patterns = ["time_proj", "norm"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.0,
        embedding_channels: int = 128,
        fourier_scale: float = 16.0,
        min_noise_level: float = 1e-3,
        sample_size: int | None = None,
        data_min: float = -1.0,
        data_max: float = 1.0,
    ) -> None:
        super().__init__()
        config = self.config
        check_integers(config, "in_channels", "num_classes", "depth", "width", "embedding_channels")
        check_integers(config, "sample_size", optional=True)
        check_numbers(config, "fourier_scale", "min_noise_level", above=0)
        check_numbers(config, "data_min", "data_max")
        check_dropout(config)
        if data_max <= data_min:
            raise ValueError(f"data_max must be greater than data_min, got {data_max} and {data_min}")
        if sample_size is not None and sample_size % 4:
            raise ValueError(f"sample_size must be divisible by 4, got {sample_size}")
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 with n >= 1 (10, 16, 22, 28, ...), got {depth}")
        self.act = nn.SiLU()
        self.time_proj = FourierFeatures(embedding_channels, fourier_scale)
        emb_channels = 4 * embedding_channels
        self.time_embedding = TimeEmbedding(2 * embedding_channels, emb_channels, self.act)
        self.conv_in = _conv(in_channels, 16, 3)
        self.blocks = nn.ModuleList()
        before = 16
        for level, channels in enumerate((16 * width, 32 * width, 64 * width)):
            for index in range((depth - 4) // 6):
                stride = 2 if level > 0 and index == 0 else 1
                self.blocks.append(_WideBlock(before, channels, stride, emb_channels, config.dropout))
                before = channels
        self.norm_out = group_norm(before, None, 1e-6)
        self.head = nn.Linear(before, num_classes)
        self.gradient_checkpointing = False

    def forward(
        self, sample: torch.Tensor, noise_level: torch.Tensor | float, return_dict: bool = True
    ) -> NoiseConditionalClassifierOutput | tuple[torch.Tensor]:
        """Classify noisy images.

        Args:
            sample: images (B, in_channels, H, W), H and W divisible by 4.
            noise_level: `sigma(t) / alpha(t)`, a number or a tensor of shape (), (1,) or (B,).
            return_dict: return a `NoiseConditionalClassifierOutput` instead of a one-entry tuple.

        Returns:
            Logits (B, num_classes) in the dtype of `sample`.
        """
        self.check_sample(sample, 4)
        check_flag("return_dict", return_dict)
        level = expand_timestep(noise_level, sample, "noise_level")
        check_values("noise_level", level, 0)
        level = level.to(torch.promote_types(sample.dtype, torch.float32))
        features = self.time_proj(level.clamp_min(self.config.min_noise_level)).to(sample.dtype)
        emb = self.act(self.time_embedding(features))
        h = self.conv_in(standardize(sample))
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                h = self._gradient_checkpointing_func(block, h, emb)
            else:
                h = block(h, emb)
        logits = self.head(self.norm_out(h, self.act).mean(dim=(2, 3))).to(sample.dtype)
        return NoiseConditionalClassifierOutput(logits=logits) if return_dict else (logits,)

    def log_prob_of(self, labels: torch.Tensor, sde: SDE) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The function `(x, t) -> log p_t(labels | x)` (B,) that `ClassifierGuidance` takes, under `sde`.

        Args:
            labels: integers (B,) or (1,).
            sde: the SDE that noises the images; t is in its units.
        """
        log_prob = noisy_log_prob(self, sde, (self.config.data_min, self.config.data_max))
        if len(labels) == 1:
            return partial(log_prob, class_labels=labels)
        return PerSample(log_prob, class_labels=labels)


def noisy_log_prob(classifier: Any, sde: SDE, data_range: tuple[float, float]) -> Callable[..., torch.Tensor]:
    """`(x, t, class_labels) -> log p(label | x_t = x)`, shape (B,), by a noise-conditional classifier.

    Args:
        classifier: called as `classifier(x / alpha, sigma / alpha).logits`, with states in its own range of data.
        sde: the SDE of the states.
        data_range: black and white of the states.
    """
    low, high = data_range
    config = classifier.config
    scale = (config.data_max - config.data_min) / (high - low)

    def log_prob(x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        t = as_time(t, latest=sde.T)
        # Divided by alpha, every SDE is a VE SDE: a clean image plus white noise.
        noisy = (x / expand_to(sde.alpha(t), x) - low) * scale + config.data_min
        level = to_device(scale * sde.noise_ratio(t), x.device, x.dtype).expand(len(x))
        logits = classifier(noisy.to(classifier.dtype), level).logits.to(x.dtype)
        return F.log_softmax(logits, dim=1).gather(1, class_labels.to(x.device).expand(len(x))[:, None])[:, 0]

    return log_prob


def standardize(images: torch.Tensor) -> torch.Tensor:
    """Each image (B, C, H, W) with mean 0 and variance 1; a constant image becomes 0."""
    variance, mean = torch.var_mean(images, dim=(1, 2, 3), keepdim=True, correction=0)
    floor = 1.0 / images[0].numel() ** 0.5 * torch.finfo(images.dtype).eps ** 0.5
    return (images - mean) / variance.sqrt().clamp_min(floor)
