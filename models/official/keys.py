"""The names of the official PyTorch networks, tensor by tensor.

The official code keeps its layers in one flat list (`all_modules.17.Conv_0.weight`). `official_tensors` lists
the tensors of one of our networks in the order in which that list was filled, and says for each which of our parameters it
is and how it is laid out. That order is also the order of the shadow parameters of an official EMA.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..layers import Combine, ResnetBlock, SelfAttention
from ..ncsnpp import NCSNpp
from ..ncsnv2 import NCSNv2
from ..resampling import Downsample, FIRFilter, Upsample
from .keys_ncsnv2 import official_tensors_ncsnv2
from .tensor import OfficialTensor


def official_modules(model: NCSNpp) -> Iterator[tuple[str, nn.Module]]:
    """Our modules with their names, in the order of the official `all_modules`."""
    names = {module: name for name, module in model.named_modules()}
    for module in _in_official_order(model):
        if module is not None:
            yield names[module], module


def _in_official_order(model: NCSNpp) -> Iterator[nn.Module | None]:
    block: Any  # a checker takes the entries of a ModuleList for bare Modules
    yield model.time_proj
    if model.time_embedding is not None:
        yield from (model.time_embedding.linear_1, model.time_embedding.linear_2)
    yield model.conv_in
    for block in model.down_blocks:
        for index, resnet in enumerate(block.resnets):
            yield resnet
            yield from block.attentions[index : index + 1]
        yield from (block.downsampler, block.pyramid)
    yield from (model.mid_block.resnets[0], model.mid_block.attentions[0], model.mid_block.resnets[1])
    for block in model.up_blocks:
        yield from (*block.resnets, *block.attentions)
        if block.kind == "residual":
            yield block.pyramid_upsampler
        yield from (block.pyramid_norm, block.pyramid_conv, block.upsampler)
    yield from (model.conv_norm_out, model.conv_out)


def _resnet_layers(block: ResnetBlock, biggan: bool) -> list[tuple[str, str]]:
    layers = [("GroupNorm_0", "norm1"), ("Conv_0", "conv1"), ("Dense_0", "time_emb_proj")]
    layers += [("GroupNorm_1", "norm2"), ("Conv_1", "conv2")]
    if block.conv_shortcut is not None:
        layers.append(("Conv_2" if biggan else "NIN_0", "conv_shortcut"))
    return layers


def _layers(module: nn.Module, biggan: bool) -> list[tuple[str, str, int | None]]:
    """(official layer, our layer, third of the merged projection) of one entry of `all_modules`."""
    if isinstance(module, ResnetBlock):
        return [(theirs, ours, None) for theirs, ours in _resnet_layers(module, biggan)]
    if isinstance(module, SelfAttention):
        merged = [(f"NIN_{part}", "to_qkv", part) for part in range(3)]
        return [("GroupNorm_0", "group_norm", None), *merged, ("NIN_3", "to_out", None)]
    if isinstance(module, (Downsample, Upsample)):
        layer = "Conv2d_0" if isinstance(module.filter, FIRFilter) else "Conv_0"
        return [] if module.conv is None else [(layer, "conv", None)]
    if isinstance(module, Combine):
        return [("Conv_0", "conv", None)]
    return [("", "", None)]


def official_tensors(model: NCSNpp | NCSNv2) -> list[OfficialTensor]:
    """Every tensor of the official network that `model` is (but for the `sigmas` table), in official order.

    Raises:
        ValueError: naming what no official network has.
    """
    if isinstance(model, NCSNv2):
        return official_tensors_ncsnv2(model)
    if model.config.up_attention != "last":
        raise ValueError(f"up_attention must be 'last' in an official network, got {model.config.up_attention!r}")
    biggan = model.config.resnet_type == "biggan"
    conditional = model.time_embedding is not None
    parameters = dict(model.named_parameters())
    found: list[OfficialTensor] = []
    modules = official_modules(model)  # type: ignore[arg-type]  # classes with an untyped __init__ are not narrowed
    for index, (prefix, module) in enumerate(modules):
        for theirs, ours, part in _layers(module, biggan):
            for kind in ("weight", "bias"):
                name = ".".join(filter(None, (prefix, ours, kind)))
                if name in parameters:
                    reached = conditional or ours != "time_emb_proj"
                    found.append(_tensor(index, theirs, kind, name, part, parameters[name], reached))
    unknown = sorted(parameters.keys() - {tensor.name for tensor in found})
    if unknown:
        raise ValueError(f"no official network has the parameters {unknown}")
    return found


def _tensor(
    index: int, layer: str, kind: str, name: str, part: int | None, parameter: torch.Tensor, reached: bool
) -> OfficialTensor:
    if name == "time_proj.weight":
        return OfficialTensor(f"all_modules.{index}.W", tuple(parameter.shape), name, trained=False, reached=False)
    nin = layer.startswith("NIN_")
    shape = list(parameter.shape)
    if part is not None:
        shape[0] //= 3
    if nin and kind == "weight":
        shape = shape[1::-1]
    suffix = {"weight": "W", "bias": "b"}[kind] if nin else kind
    key = ".".join(filter(None, (f"all_modules.{index}", layer, suffix)))
    return OfficialTensor(key, tuple(shape), name, part, transposed=nin and kind == "weight", reached=reached)


def from_official(model: NCSNpp | NCSNv2, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict for `model` from official tensors; `sigmas` and the `module.` prefix are ignored.

    Raises:
        ValueError: naming every missing or extra tensor and every wrong shape.
    """
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    expected = official_tensors(model)
    check_tensors({tensor.key: tensor.shape for tensor in expected}, state)
    pieces: dict[str, list[torch.Tensor]] = {}
    for tensor in expected:
        pieces.setdefault(tensor.name, []).append(tensor.read(state[tensor.key]))
    return {name: torch.cat(parts) if len(parts) > 1 else parts[0].contiguous() for name, parts in pieces.items()}


def check_tensors(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError that names every tensor by which `state` differs from `expected` (`sigmas` is optional)."""
    problems = [f"missing: {key} {list(shape)}" for key, shape in expected.items() if key not in state]
    problems += [
        f"extra: {key} {list(value.shape)}" for key, value in state.items() if key not in {*expected, "sigmas"}
    ]
    problems += [
        f"shape of {key} must be {list(shape)}, got {list(state[key].shape)}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != tuple(shape)
    ]
    if problems:
        listing = "\n  ".join(problems)
        raise ValueError(f"the checkpoint does not fit the architecture ({len(problems)} tensors):\n  {listing}")


def check_dtypes(state: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError that names every tensor of `state` that does not hold floating-point numbers."""
    strange = [f"{key} ({value.dtype})" for key, value in state.items() if not value.is_floating_point()]
    if strange:
        raise ValueError(f"weights must be floating-point numbers, got {', '.join(strange)}")
