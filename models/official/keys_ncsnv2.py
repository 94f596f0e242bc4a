"""The official names of NCSNv2's tensors; see `keys`."""

import re
from collections.abc import Iterator
from typing import Any

from ..ncsnv2 import NCSNv2
from .tensor import OfficialTensor


# What the official code calls the stages of a network of 4, 5 or 6 of them.
STAGES = {4: ("1", "2", "3", "4"), 5: ("1", "2", "3", "4", "5"), 6: ("1", "2", "3", "31", "4", "5")}
_NORM = ("alpha", "gamma", "beta")


def _stage(name: str, stages: tuple[str, ...]) -> str:
    blocks, index = name.split(".")[:2]
    if blocks == "down_blocks":
        return f"res{stages[int(index)]}"
    # The deepest features are refined first, but the official names count from 1 all the same.
    order = ("1", "2", "31", "3", "4", "5") if len(stages) == 6 else stages
    return f"refine{order[int(index)]}"


def official_name(name: str, stages: tuple[str, ...], pooled: bool) -> str:
    """The official name of our parameter `name`; `pooled` says that its block halves the resolution."""
    fixed = {"conv_in": "begin_conv", "norm_out": "normalizer", "conv_out": "end_conv"}
    head, _, rest = name.partition(".")
    if head in fixed:
        return f"{fixed[head]}.{rest}"
    rest = re.sub(r"^(down|up)_blocks\.\d+\.", "", name)
    rest = rest.replace("norm1", "normalize1").replace("norm2", "normalize2")
    wrapped = ".conv" if pooled else ""
    rest = rest.replace("conv2.", f"conv2{wrapped}.").replace("conv_shortcut.", f"shortcut{wrapped}.")
    rest = rest.replace("merge.", "msf.convs.").replace("pool_convs.", "crp.convs.")
    rest = re.sub(r"^adapt\.(\d+)\.", r"adapt_convs.\1.", re.sub(r"^out\.", "output_convs.", rest))
    rest = re.sub(r"(adapt_convs\.\d+|output_convs)\.convs\.(\d+)", _unit, rest)
    return f"{_stage(name, stages)}.{rest}"


def _unit(match: re.Match[str]) -> str:
    unit, step = divmod(int(match.group(2)), 2)
    return f"{match.group(1)}.{unit + 1}_{step + 1}_conv"


def _ordered(model: NCSNv2) -> Iterator[str]:
    """Our parameters in official order: the ends, the residual stages, the fusion stages."""
    for head in ("conv_in", "norm_out", "conv_out"):
        module = getattr(model, head)
        yield from (f"{head}.{name}" for name, _ in module.named_parameters())
    down_blocks: Any = model.down_blocks  # nested lists, of which a type checker has only the outer one
    for i, blocks in enumerate(down_blocks):
        for j, block in enumerate(blocks):
            parts = [("conv1", ("weight", "bias")), ("norm2", _NORM), ("conv2", ("weight", "bias"))]
            parts += [("conv_shortcut", ("weight", "bias"))] if block.conv_shortcut is not None else []
            for layer, kinds in [*parts, ("norm1", _NORM)]:
                yield from (f"down_blocks.{i}.{j}.{layer}.{kind}" for kind in kinds)
    stages = STAGES[len(model.up_blocks)]
    indices = sorted(range(len(model.up_blocks)), key=lambda i: _stage(f"up_blocks.{i}", stages))
    for i in indices:
        for part in ("adapt", "out", "merge", "pool_convs"):
            module = getattr(model.up_blocks[i], part)
            yield from (f"up_blocks.{i}.{part}.{name}" for name, _ in module.named_parameters())


def official_tensors_ncsnv2(model: NCSNv2) -> list[OfficialTensor]:
    """Every tensor of the official network that `model` is (but for the `sigmas` table), in official order.

    Raises:
        ValueError: the official code has no network of this many stages.
    """
    if len(model.up_blocks) not in STAGES:
        raise ValueError(
            f"block_out_channels of an official NCSNv2 must have {sorted(STAGES)} entries, got {len(model.up_blocks)}"
        )
    stages, parameters, found = STAGES[len(model.up_blocks)], dict(model.named_parameters()), []
    down_blocks: Any = model.down_blocks
    for name in _ordered(model):
        match = re.match(r"down_blocks\.(\d+)\.(\d+)", name)
        pooled = match is not None and down_blocks[int(match[1])][int(match[2])].pool
        found.append(OfficialTensor(official_name(name, stages, pooled), tuple(parameters[name].shape), name))
    return found
