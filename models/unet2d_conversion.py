"""To and from `diffusers.UNet2DModel`, with equal outputs, for the networks that both can express.

Two families are: google/ncsnpp-* (skip blocks: BigGAN blocks, FIR filters, image pyramids of 3 channels at both ends)
and google/ddpm-* (plain blocks). Everything else is refused with its reason. A UNet2DModel fixes some group counts
(attention always has 32 in skip blocks), so a pair is compared layer by layer before its weights are taken over.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from .config_checks import height_and_width
from .ddpmpp import DDPMpp
from .layers import ResnetBlock, SelfAttention
from .ncsnpp import NCSNpp


PLAIN = {"DownBlock2D": False, "AttnDownBlock2D": True}
SKIP = {"SkipDownBlock2D": False, "AttnSkipDownBlock2D": True}
# A module of ours and one of diffusers. Any: their submodules have no declared types.
Pair = tuple[Any, Any]
_SHARED = (
    "sample_size", "in_channels", "out_channels", "center_input_sample", "time_embedding_type", "layers_per_block",
    "dropout", "act_fn", "norm_num_groups", "norm_eps", "attention_head_dim",
)  # fmt: skip


def from_unet2d(unet: UNet2DModel) -> NCSNpp:
    """Our network with the weights and the outputs of `unet`.

    A class-conditional `unet` of n classes becomes a network of n classes whose extra label "no class" adds nothing.

    Returns:
        `NCSNpp` for skip blocks, `DDPMpp` for plain ones, in `unet`'s dtype, device and mode.

    Raises:
        TypeError: `unet` is no UNet2DModel.
        ValueError: naming what our networks cannot express.
    """
    if not isinstance(unet, UNet2DModel):
        raise TypeError(f"unet must be a UNet2DModel, got {type(unet).__name__}")
    config: Any = unet.config
    skip = all(name in SKIP for name in config.down_block_types)
    _refuse("unet", _unet_problems(unet, skip))
    arguments = {name: config[name] for name in _SHARED} | _levels(config)
    positional = config.time_embedding_type == "positional"
    arguments |= {
        "scale_by_sigma": not positional,
        "freq_shift": float(config.freq_shift),
        "num_class_embeds": config.num_class_embeds,
        "init_scale": 0.0,
    }
    if skip:
        model = NCSNpp(**arguments, input_pyramid="input_skip", output_pyramid="output_skip")
    else:
        options = {"resnet_type": "ddpm", "skip_rescale": False, "up_attention": "every"}
        model = DDPMpp(**arguments, **options, downsample_padding=config.downsample_padding)
    pairs = list(_pairs(model, unet))
    _refuse("unet", _norm_problems(pairs))
    model.load_state_dict(_our_state(model, unet, pairs))
    return model.to(unet.device, unet.dtype).train(unet.training)


def to_unet2d(model: NCSNpp) -> UNet2DModel:
    """A `UNet2DModel` with the weights and the outputs of `model`.

    Its plain up blocks attend after every residual block: where ours do so once, the weights of the others are zero. The
    label "no class" of a class-conditional network becomes its last class.

    Raises:
        TypeError: `model` is none of our U-Nets.
        ValueError: naming what a UNet2DModel cannot express.
    """
    if not isinstance(model, NCSNpp):
        raise TypeError(f"model must be an NCSNpp or DDPMpp, got {type(model).__name__}")
    config = model.config
    skip = config.input_pyramid == "input_skip"
    _refuse("model", _model_problems(config, skip))
    arguments = {name: config[name] for name in _SHARED} | _unet_levels(model, skip)
    arguments["norm_num_groups"] = None if skip else config.norm_num_groups or 32
    if config.num_class_embeds is not None:
        arguments["num_class_embeds"] = config.num_class_embeds + 1
    shift = int(config.freq_shift) if config.freq_shift == int(config.freq_shift) else config.freq_shift
    unet = UNet2DModel(**arguments, flip_sin_to_cos=False, freq_shift=shift)
    pairs = list(_pairs(model, unet))
    _refuse("model", _norm_problems(pairs))
    unet.load_state_dict(_their_state(model, unet, pairs))
    return unet.to(model.device, model.dtype).train(model.training)


def _refuse(name: str, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"{name} is not expressible: " + "; ".join(problems))


def _unet_problems(unet: UNet2DModel, skip: bool) -> list[str]:
    """What of a UNet2DModel's configuration our networks lack."""
    config: Any = unet.config
    down, up = list(config.down_block_types), list(reversed(config.up_block_types))
    problems = []
    if not skip and not all(name in PLAIN for name in down):
        problems.append(f"down_block_types {down} (all of {list(PLAIN)}, or all of {list(SKIP)})")
    elif [name.replace("Up", "Down") for name in up] != down:
        problems.append(f"up_block_types {list(reversed(up))} that do not mirror down_block_types")
    width = config.time_embedding_dim or 4 * config.block_out_channels[0]
    expected = {
        "downsample_type": "conv",
        "upsample_type": "conv",
        "resnet_time_scale_shift": "default",
        "add_attention": True,
        "class_embed_type": None,
        "mid_block_type": "UNetMidBlock2D",
    }
    problems += [f"{key}={config[key]!r}" for key, value in expected.items() if config.get(key, value) != value]
    if config.time_embedding_type not in ("fourier", "positional"):
        problems.append(f"time_embedding_type={config.time_embedding_type!r}")
    if width != 4 * config.block_out_channels[0]:
        problems.append(f"time_embedding_dim={width}")
    factor = math.sqrt(2.0) if skip else 1.0
    if abs(config.mid_block_scale_factor - factor) > 1e-6:
        problems.append(
            f"mid_block_scale_factor={config.mid_block_scale_factor} (with these blocks it must be {factor})"
        )
    if config.act_fn not in ("silu", "swish"):
        problems.append(f"act_fn={config.act_fn!r}")
    return problems


def _levels(config: Any) -> dict[str, Any]:
    """Channels and attention levels, as our configuration says them."""
    channels = tuple(config.block_out_channels)
    size = config.sample_size
    size = 2 ** (len(channels) + 2) if size is None else size
    _, width = height_and_width(size)
    attention = [width // 2**level for level, name in enumerate(config.down_block_types) if name.startswith("Attn")]
    return {"sample_size": size, "block_out_channels": channels, "attention_resolutions": tuple(attention)}


def _model_problems(config: Any, skip: bool) -> list[str]:
    """What of our network's configuration a UNet2DModel lacks."""
    family = "input_pyramid='input_skip'" if skip else "input_pyramid='none'"
    expected: dict[str, Any] = {
        "input_pyramid": "input_skip" if skip else "none",
        "output_pyramid": "output_skip" if skip else "none",
        "resnet_type": "biggan" if skip else "ddpm",
        "fir": skip,
        "skip_rescale": skip,
        "up_attention": "last" if skip else config.up_attention,
        "scale_by_sigma": config.time_embedding_type == "fourier",
        "discrete_sigmas": False,
        "time_conditioning": True,
    }
    if skip:
        expected |= {"fir_kernel": (1, 3, 3, 1), "pyramid_combine": "sum", "in_channels": 3, "out_channels": 3}
        expected["norm_num_groups"] = None
    else:
        expected["resample_with_conv"] = True
    problems = [
        f"{key}={config[key]!r} (with {family} it must be {value!r})"
        for key, value in expected.items()
        if (tuple(config[key]) if isinstance(config[key], list) else config[key]) != value
    ]
    if config.base_channels not in (None, config.block_out_channels[0]):
        problems.append(f"base_channels={config.base_channels}")
    if config.act_fn not in ("silu", "swish"):
        problems.append(f"act_fn={config.act_fn!r}")
    return problems


def _unet_levels(model: NCSNpp, skip: bool) -> dict[str, Any]:
    kinds = {attention: name for name, attention in (SKIP if skip else PLAIN).items()}
    blocks: Iterable[Any] = model.down_blocks
    down = tuple(kinds[len(block.attentions) > 0] for block in blocks)
    return {
        "block_out_channels": tuple(model.config.block_out_channels),
        "down_block_types": down,
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
        "mid_block_scale_factor": math.sqrt(2.0) if skip else 1.0,
        "downsample_padding": model.config.downsample_padding,
    }


def _pairs(model: Any, unet: Any) -> Iterator[Pair]:
    """Pairs of our modules and theirs."""
    if model.time_proj is not None:
        yield model.time_proj, unet.time_proj
    for name in ("linear_1", "linear_2"):
        yield getattr(model.time_embedding, name), getattr(unet.time_embedding, name)
    yield model.conv_in, unet.conv_in
    for ours, theirs in zip(model.down_blocks, unet.down_blocks):
        yield from zip(ours.resnets, theirs.resnets)
        yield from zip(ours.attentions, getattr(theirs, "attentions", ()))
        if ours.downsampler is not None and ours.pyramid is not None:
            yield from ((ours.downsampler, theirs.resnet_down), (ours.pyramid.conv, theirs.skip_conv))
        elif ours.downsampler is not None:
            yield ours.downsampler.conv, theirs.downsamplers[0].conv
    yield from zip(model.mid_block.resnets, unet.mid_block.resnets)
    yield from zip(model.mid_block.attentions, unet.mid_block.attentions)
    for ours, theirs in zip(model.up_blocks, unet.up_blocks):
        yield from zip(ours.resnets, theirs.resnets)
        # Ours, after the last block only, corresponds to their last; the others get zero weights.
        yield from zip(reversed(ours.attentions), reversed(getattr(theirs, "attentions", [])))
        if ours.pyramid_conv is not None:
            last = ours.upsampler is None
            yield ours.pyramid_norm, unet.conv_norm_out if last else theirs.skip_norm
            yield ours.pyramid_conv, unet.conv_out if last else theirs.skip_conv
            if not last:
                yield ours.upsampler, theirs.resnet_up
        elif ours.upsampler is not None:
            yield ours.upsampler.conv, theirs.upsamplers[0].conv
    if model.conv_out is not None:
        yield from ((model.conv_norm_out, unet.conv_norm_out), (model.conv_out, unet.conv_out))


def _leaves(ours: Any, theirs: Any) -> Iterator[Pair]:
    """A pair of blocks taken apart into layers; attention's projections stay with their block."""
    if isinstance(ours, ResnetBlock):
        for name in ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"):
            if getattr(ours, name) is not None:
                yield getattr(ours, name), getattr(theirs, name)
    elif isinstance(ours, SelfAttention):
        yield from ((ours.group_norm, theirs.group_norm), (ours.to_out, theirs.to_out[0]))
    else:
        yield ours, theirs


def _norm_problems(pairs: list[Pair]) -> list[str]:
    found = set()
    for ours, theirs in (leaf for pair in pairs for leaf in _leaves(*pair)):
        if isinstance(ours, nn.GroupNorm) and (ours.num_groups, ours.eps) != (theirs.num_groups, theirs.eps):
            found.add(
                f"a normalisation of {ours.num_channels} channels in {ours.num_groups} groups with epsilon {ours.eps} "
                f"here, in {theirs.num_groups} with {theirs.eps} in UNet2DModel"
            )
    return sorted(found)


def _names(model: nn.Module) -> Mapping[nn.Module, str]:
    return {module: f"{name}." for name, module in model.named_modules()}


def _our_state(model: NCSNpp, unet: UNet2DModel, pairs: list[Pair]) -> dict[str, torch.Tensor]:
    names, state = _names(model), {}
    config: Any = unet.config
    for ours, theirs in pairs:
        if isinstance(ours, SelfAttention):
            for kind in ("weight", "bias"):
                merged = torch.cat([getattr(layer, kind) for layer in (theirs.to_q, theirs.to_k, theirs.to_v)])
                state[f"{names[ours]}to_qkv.{kind}"] = merged.view_as(getattr(ours.to_qkv, kind))
        for leaf, their_leaf in _leaves(ours, theirs):
            for kind, parameter in leaf.named_parameters():
                state[names[leaf] + kind] = getattr(their_leaf, kind).detach().view_as(parameter)
    if config.time_embedding_type == "positional" and config.flip_sin_to_cos:
        half = config.block_out_channels[0] // 2
        weight = state["time_embedding.linear_1.weight"]
        state["time_embedding.linear_1.weight"] = torch.cat([weight[:, half:], weight[:, :half]], dim=1)
    if unet.class_embedding is not None:
        weight = unet.class_embedding.weight.detach()
        state["class_embedding.weight"] = torch.cat([weight, torch.zeros_like(weight[:1])])
    return state


def _their_state(model: NCSNpp, unet: UNet2DModel, pairs: list[Pair]) -> dict[str, torch.Tensor]:
    # What has no partner is an attention of their up path: with zeros it adds nothing.
    names = _names(unet)
    state = {name: torch.zeros_like(value) for name, value in unet.state_dict().items()}
    for ours, theirs in pairs:
        if isinstance(ours, SelfAttention):
            for kind in ("weight", "bias"):
                parts = getattr(ours.to_qkv, kind).detach().chunk(3)
                for layer, part in zip((theirs.to_q, theirs.to_k, theirs.to_v), parts):
                    state[f"{names[layer]}{kind}"] = part.reshape(getattr(layer, kind).shape)
        for leaf, their_leaf in _leaves(ours, theirs):
            for kind, parameter in leaf.named_parameters():
                state[names[their_leaf] + kind] = parameter.detach().reshape(getattr(their_leaf, kind).shape)
    if "time_proj.W" in state:  # diffusers registers its Fourier frequencies under two names
        state["time_proj.W"] = state["time_proj.weight"]
    if model.class_embedding is not None:
        state["class_embedding.weight"] = model.class_embedding.weight.detach()
    return state
