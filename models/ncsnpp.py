"""NCSN++ and DDPM++, the networks of "Score-Based Generative Modeling through SDEs" (Song et al. 2021, appendix H).

One U-Net under two families of defaults. Every choice of the paper is an argument: Fourier or positional embedding of
the noise level, anti-aliased (FIR) or plain resampling, BigGAN or DDPM residual blocks, image pyramids at the input and
at the output, skip connections rescaled by 1/sqrt 2. Called and configured like `diffusers.UNet2DModel`.
"""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from ..schedulers.checks import check_flag
from .config_checks import SMALLEST_SIGMA, check_class_labels, check_values, height_and_width
from .embeddings import FourierFeatures, TimeEmbedding, sinusoidal_embedding
from .initialization import conv
from .layers import activation
from .ncsnpp_config import check_config
from .network import Network
from .noise_levels import expand_timestep, index_of_sigma, sigma_of_index
from .unet_blocks import BlockOptions, DownBlock, MidBlock, UpBlock


class NCSNpp(Network):
    r"""Time-dependent U-Net; the defaults are the paper's NCSN++ (VE, continuous) for CIFAR-10.

    Args:
        sample_size: height (= width) of the images, or `(height, width)`.
        in_channels, out_channels: channels of the image and of the output.
        center_input_sample: map inputs from [0, 1] to [-1, 1] first.
        time_embedding_type: `fourier` (`timestep` is sigma > 0) or `positional` (an index, or 999 t).
        block_out_channels: channels of each resolution, from the highest.
        layers_per_block: residual blocks per resolution going down (one more going up).
        attention_resolutions: widths, in pixels, of the levels with self-attention, for images of `sample_size`.
        attention_head_dim: channels per head; None for a single head.
        up_attention: going up, attention after the `last` block of a level (the paper) or after `every` one (DDPM).
        dropout: probability, inside residual blocks.
        act_fn: `silu`, `relu`, `elu` or `lrelu`.
        norm_num_groups: groups of every normalisation; None is the paper's `min(channels // 4, 32)`.
        norm_eps: epsilon of every normalisation.
        base_channels: channels after the first convolution; None for `block_out_channels[0]`.
        fourier_scale: standard deviation of the Fourier frequencies.
        freq_shift: the positional frequencies are `10000^(-k / (dim/2 - freq_shift))`.
        resnet_type: `biggan` blocks (which also resample) or `ddpm` blocks with separate resampling layers.
        resample_with_conv: whether those layers have a convolution.
        downsample_padding: 0 pads it at the right and the bottom alone (the paper), 1 on every side.
        fir, fir_kernel: resample with this anti-aliasing filter instead of box / nearest neighbour.
        input_pyramid: `input_skip` adds the shrunk image to each level, `residual` a convolved one.
        output_pyramid: `output_skip` sums an image per level, `residual` a feature stream.
        pyramid_combine: how `input_skip` joins: `sum` or `cat`.
        skip_rescale: divide every residual sum by sqrt 2.
        scale_by_sigma: divide the output by the noise level: the `fourier` timestep itself, or for `positional` the
            entry of `num_train_timesteps` log-spaced levels that falls from `sigma_max` (index 0) to `sigma_min`.
        discrete_sigmas: for a `positional` network trained on those levels: integer timesteps stay indices, while
            floating-point ones are noise levels sigma, and stand for the nearest of the table (a VE scheduler's timesteps).
        time_conditioning: whether the network gets an embedding of the noise level at all.
        init_scale: variance scale of the last layer of each block at initialisation.
        num_class_embeds: number of classes; one more embedding stands for "no class", label `num_class_embeds`.
        augment_dim: entries of `augment_labels`, which say how an image was augmented in training.

    Example:
        >>> model = NCSNpp(block_out_channels=(32, 64), layers_per_block=1)
        >>> score = model(torch.rand(2, 3, 32, 32), torch.tensor([0.5, 10.0])).sample
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResnetBlock", "SelfAttention"]
    _repeated_blocks = ["ResnetBlock", "SelfAttention"]
    _keep_in_fp32_modules = ["time_proj"]
    _skip_layerwise_casting_patterns = ["time_proj", "norm"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = True,
        time_embedding_type: str = "fourier",
        block_out_channels: tuple[int, ...] = (128, 256, 256, 256),
        layers_per_block: int = 4,
        attention_resolutions: tuple[int, ...] = (16,),
        attention_head_dim: int | None = None,
        up_attention: str = "last",
        dropout: float = 0.0,
        act_fn: str = "silu",
        norm_num_groups: int | None = None,
        norm_eps: float = 1e-6,
        base_channels: int | None = None,
        fourier_scale: float = 16.0,
        freq_shift: float = 1.0,
        resnet_type: str = "biggan",
        resample_with_conv: bool = True,
        downsample_padding: int = 0,
        fir: bool = True,
        fir_kernel: tuple[float, ...] = (1, 3, 3, 1),
        input_pyramid: str = "residual",
        output_pyramid: str = "none",
        pyramid_combine: str = "sum",
        skip_rescale: bool = True,
        scale_by_sigma: bool = True,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_train_timesteps: int = 1000,
        discrete_sigmas: bool = False,
        time_conditioning: bool = True,
        init_scale: float = 0.0,
        num_class_embeds: int | None = None,
        augment_dim: int | None = None,
    ) -> None:
        super().__init__()
        config = self.config
        check_config(config)
        base = base_channels or block_out_channels[0]
        options = BlockOptions(
            emb_channels=4 * base,
            groups=norm_num_groups,
            eps=config.norm_eps,
            fir_kernel=tuple(fir_kernel),
            **{
                name: config[name]
                for name in BlockOptions.__dataclass_fields__
                if name in config and name != "fir_kernel"
            },
        )
        fourier = time_embedding_type == "fourier"
        self.time_proj = FourierFeatures(base, config.fourier_scale) if fourier else None
        width = 2 * base if fourier else base
        self.time_embedding = TimeEmbedding(width, 4 * base, activation(act_fn)) if time_conditioning else None
        self.class_embedding = None if num_class_embeds is None else nn.Embedding(num_class_embeds + 1, 4 * base)
        self.augment_embedding = None if augment_dim is None else nn.Linear(augment_dim, 4 * base, bias=False)
        if self.augment_embedding is not None:
            nn.init.zeros_(self.augment_embedding.weight)
        self.act = activation(act_fn)
        self.conv_in = conv(in_channels, base, 3)
        skips = self._make_down(options, base)
        self.mid_block = MidBlock(options, skips[-1])
        self._make_up(options, skips)
        self.gradient_checkpointing = False

    def _make_down(self, options: BlockOptions, width: int) -> list[int]:
        levels = self.config.block_out_channels
        self.down_blocks = nn.ModuleList()
        skips, pyramid = [width], self.config.in_channels
        for level, channels in enumerate(levels):
            block = DownBlock(
                options,
                width,
                channels,
                layers=self.config.layers_per_block,
                attention=self._has_attention(level),
                last=level == len(levels) - 1,
                pyramid_channels=pyramid,
            )
            width, pyramid = block.out_channels, block.pyramid_channels
            skips += block.skip_channels
            self.down_blocks.append(block)
        return skips

    def _make_up(self, options: BlockOptions, skips: list[int]) -> None:
        levels = self.config.block_out_channels
        self.up_blocks = nn.ModuleList()
        width, pyramid, remaining = skips[-1], 0, list(skips)
        for level in reversed(range(len(levels))):
            block = UpBlock(
                options,
                width,
                levels[level],
                [remaining.pop() for _ in range(self.config.layers_per_block + 1)],
                attention=self._has_attention(level),
                first=level == len(levels) - 1,
                last=level == 0,
                image_channels=self.config.out_channels,
                pyramid_channels=pyramid,
            )
            width, pyramid = levels[level], block.pyramid_channels
            self.up_blocks.append(block)
        has_head = self.config.output_pyramid != "output_skip"
        self.conv_norm_out = options.norm(width) if has_head else None
        self.conv_out = conv(width, self.config.out_channels, 3, scale=options.init_scale) if has_head else None

    def _has_attention(self, level: int) -> bool:
        _, width = height_and_width(self.config.sample_size)
        return width // 2**level in self.config.attention_resolutions

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
        augment_labels: torch.Tensor | None = None,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Run the network.

        Args:
            sample: images (B, in_channels, H, W); H and W divisible by `2^(levels - 1)`.
            timestep: what `time_embedding_type` says, one number or a tensor of shape (), (1,) or (B,).
            class_labels: integers (B,) or (1,) in `0 .. num_class_embeds`; the largest, or None for all, is "no class".
            return_dict: return a `UNet2DOutput` instead of a one-entry tuple.
            augment_labels: how the images were augmented, (B, augment_dim); None for images as they are.

        Returns:
            The output (B, out_channels, H, W) in the dtype of `sample`.
        """
        self._check_inputs(sample, class_labels, augment_labels)
        check_flag("return_dict", return_dict)
        time = self._time(timestep, sample)
        emb = self._embed(time, class_labels, augment_labels, sample)
        h = self._unet(2 * sample - 1 if self.config.center_input_sample else sample, emb)
        if self.config.scale_by_sigma:
            h = h / self._sigma(time, sample).view(-1, 1, 1, 1)
        contiguous = sample.is_contiguous()
        h = h.to(sample.dtype).contiguous() if contiguous else h.to(sample.dtype)
        return UNet2DOutput(sample=h) if return_dict else (h,)

    def _unet(self, x: torch.Tensor, emb: torch.Tensor | None) -> torch.Tensor:
        pyramid = x
        h = self.conv_in(x)
        skips = [h]
        for block in self.down_blocks:
            h, pyramid, new = block(h, emb, pyramid)
            skips += new
        h = self.mid_block(h, emb)
        image: Any = None  # a tensor once the lowest level has started the output pyramid
        blocks: Any = self.up_blocks
        for block in blocks:
            # Every block gets its own skips: hooks around it copy its arguments, so it cannot take them off a common list.
            start = len(skips) - len(block.resnets)
            h, image = block(h, emb, tuple(skips[start:]), image)
            del skips[start:]
        if self.conv_out is None or self.conv_norm_out is None:
            return image
        return self.conv_out(self.conv_norm_out(h, self.act))

    def _embed(
        self,
        time: torch.Tensor,
        class_labels: torch.Tensor | None,
        augment_labels: torch.Tensor | None,
        sample: torch.Tensor,
    ) -> torch.Tensor | None:
        """The activated embedding (B, E), in the dtype of `sample`: that of the weights may be a storage format."""
        emb = None
        if self.time_embedding is not None:
            emb = self.time_embedding(self._time_features(time).to(sample.dtype))
        if self.class_embedding is not None:
            batch, none = sample.shape[0], self.config.num_class_embeds
            if class_labels is None:
                class_labels = torch.full((batch,), none, device=sample.device)
            label = self.class_embedding(class_labels.to(sample.device)).to(sample.dtype)
            emb = label.expand(batch, -1) if emb is None else emb + label
        if self.augment_embedding is not None and augment_labels is not None:
            augmented = self.augment_embedding(augment_labels.to(sample))
            emb = augmented if emb is None else emb + augmented
        return None if emb is None else self.act(emb)

    def _time_features(self, time: torch.Tensor) -> torch.Tensor:
        if self.time_proj is not None:
            return self.time_proj(time)
        width = self.config.base_channels or self.config.block_out_channels[0]
        return sinusoidal_embedding(time, width, self.config.freq_shift)

    def _time(self, timestep: Any, sample: torch.Tensor) -> torch.Tensor:
        """The checked `timestep`, one per image (B,); what stands for a noise level is an index of the table."""
        config, time = self.config, expand_timestep(timestep, sample)
        if config.time_embedding_type == "fourier" or (config.discrete_sigmas and time.is_floating_point()):
            check_values("timestep", time, SMALLEST_SIGMA)
        elif config.scale_by_sigma:
            check_values("timestep", time, 0, config.num_train_timesteps)
        else:
            check_values("timestep", time)
        indexed = config.discrete_sigmas and time.is_floating_point()
        return index_of_sigma(config, time) if indexed else time

    def _sigma(self, time: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """The noise level (B,) that `timestep` stands for, in at least float32."""
        if self.config.time_embedding_type == "fourier":
            return time.to(torch.promote_types(sample.dtype, torch.float32))
        return sigma_of_index(self.config, time, sample.dtype)

    def _check_inputs(
        self, sample: torch.Tensor, class_labels: torch.Tensor | None, augment_labels: torch.Tensor | None
    ) -> None:
        config = self.config
        self.check_sample(sample, 2 ** (len(config.block_out_channels) - 1))
        if class_labels is not None and config.num_class_embeds is None:
            raise ValueError(
                "class_labels must be None for a network without classes (num_class_embeds=None), got "
                f"{type(class_labels).__name__}"
            )
        if class_labels is not None:
            check_class_labels(class_labels, config.num_class_embeds, sample.shape[0])
        expected = (sample.shape[0], config.augment_dim)
        if augment_labels is not None and (config.augment_dim is None or tuple(augment_labels.shape) != expected):
            raise ValueError(
                f"augment_labels must have shape {expected}, or be None where augment_dim is None, got "
                f"{tuple(getattr(augment_labels, 'shape', ()))}"
            )
