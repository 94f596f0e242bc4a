"""The architecture of an official network, inferred from its tensors, for checkpoints that come without a configuration.

The flat list `all_modules` is a sequence of residual blocks (R), attentions (A), resampling layers (D), pyramid junctions
(C), plain convolutions and normalisations, which `infer_architecture` parses. What the tensors do not determine is taken
as published: attention is at 16 px (which gives the image size), FIR filters go with pyramids, skip
rescaling with everything but the DDPM network. Nor do they determine the SDE of a positional network:
`infer_preset` takes it from the folder's name or the EMA's decay, or guesses and says so.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .presets import PRESETS, Preset


ATTENTION_RESOLUTION = 16
# Of published configurations with equal tensors, the first of these is taken.
PREFERENCE = ("vp/ddpm/", "ve/ncsnv2/cifar10", "ve/", "vp/cifar10_ddpmpp_continuous", "vp/", "subvp/")
_FAMILY = ("time_embedding_type", "resnet_type", "input_pyramid", "output_pyramid")


@dataclass(frozen=True)
class _Entry:
    """One entry of `all_modules`: its kind, a letter, and its tensors' shapes by their names within it."""

    kind: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def width(self) -> int:
        """Channels after a residual block."""
        return self.shapes["Conv_0.weight"][0]


def _kind(shapes: Mapping[str, tuple[int, ...]]) -> str:
    if "W" in shapes:
        return "fourier"
    if "GroupNorm_1.weight" in shapes:
        return "R"
    if "NIN_3.W" in shapes:
        return "A"
    if "Conv2d_0.weight" in shapes or shapes.get("Conv_0.weight", (0, 0, 0))[2:] == (3, 3):
        return "D"
    if "Conv_0.weight" in shapes:
        return "C"
    return {1: "norm", 2: "linear", 4: "conv"}.get(len(shapes.get("weight", ())), "unknown")


def _entries(state: Mapping[str, torch.Tensor]) -> list[_Entry]:
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"all_modules\.(\d+)\.(.+)", key)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = tuple(tensor.shape)
    if max(found) > 2 * len(found):
        raise ValueError(f"all_modules has {len(found)} entries, but one of them is number {max(found)}")
    # A place in the list without tensors is a resampling layer without convolution.
    return [_Entry(_kind(found[i]), found[i]) if i in found else _Entry("D", {}) for i in range(max(found) + 1)]


def infer_architecture(state: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, Any]]:
    """The family (`NCSNpp` or `NCSNv2`) and the arguments that the tensors of an official network determine.

    Args:
        state: official tensors without the `module.` prefix.

    Raises:
        ValueError: they are not those of an official network.
    """
    try:
        if "begin_conv.weight" in state:
            return "NCSNv2", _ncsnv2(state) | _sigma_table(state)
        return "NCSNpp", _ncsnpp(_entries(state)) | _sigma_table(state)
    except (IndexError, KeyError, ValueError, StopIteration) as error:
        raise ValueError(f"the architecture cannot be read off these tensors ({error!r}): pass config") from error


def _sigma_table(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Its length and ends, to the 6 digits that a table in float32 has."""
    table = state.get("sigmas")
    if table is None or table.ndim != 1 or len(table) < 2:
        return {}
    if not (table.isfinite().all() and table.min() > 0):
        raise ValueError("'sigmas' must be positive numbers")
    high, low = float(f"{table[0].item():.6g}"), float(f"{table[-1].item():.6g}")
    return {"num_train_timesteps": len(table), "sigma_max": high, "sigma_min": low}


def _ncsnv2(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    base, channels = state["begin_conv.weight"].shape[:2]
    stages = [name for name in ("1", "2", "3", "31", "4", "5") if f"res{name}.0.conv1.weight" in state]
    widths = tuple(state[f"res{name}.1.conv1.weight"].shape[0] for name in stages)
    found: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": state["end_conv.weight"].shape[0],
        "block_out_channels": (base, *widths[1:]),
        "dilations": (1,) * (len(stages) - 2) + (2, 4),
    }
    # The tensors do not determine the image size; no preset has six stages, which the official code makes for 256 px.
    return found | {"sample_size": 256} if len(stages) == 6 else found


def _ncsnpp(entries: list[_Entry]) -> dict[str, Any]:
    kinds = [entry.kind for entry in entries]
    stem = kinds.index("conv")
    base, channels = entries[stem].shapes["weight"][:2]
    fourier, linears = kinds[0] == "fourier", kinds[:stem].count("linear")
    body = entries[stem + 1 :]
    layers = _layers_per_block(body)
    down = _parse_down(body, layers)
    output, image_channels = _parse_output(body)
    widths = down["block_out_channels"]
    plain = down["resnet_type"] == "ddpm" and output == down["input_pyramid"] == "none"
    filtered = [entry.shapes.keys() & {"Conv2d_0.weight"} for entry in body if entry.kind == "D" and entry.shapes]
    return {
        **down,
        "in_channels": channels,
        "out_channels": image_channels,
        "base_channels": None if base == widths[0] else base,
        "layers_per_block": layers,
        "time_embedding_type": "fourier" if fourier else "positional",
        "time_conditioning": linears > 0,
        "output_pyramid": output,
        # The names of resampling layers determine the filter; those of BigGAN blocks do not.
        "fir": any(filtered) if filtered else output != "none" or down["input_pyramid"] != "none",
        "skip_rescale": not plain,
        "norm_num_groups": 32 if plain and all(width % 32 == 0 for width in (base, *widths)) else None,
    }


def _parse_output(body: list[_Entry]) -> tuple[str, int]:
    """The kind of the output pyramid, and the channels of the image.

    With `output_skip` every level makes an image, with `residual` the lowest one makes features instead.
    """
    convs = [entry.shapes["weight"] for entry in body if entry.kind == "conv"]
    if len(convs) == 1:
        return "none", convs[0][0]
    return "output_skip" if convs[0][0] == convs[-1][0] else "residual", convs[-1][0]


def _is_resampling(entry: _Entry) -> bool:
    """A separate layer, or a BigGAN block that has a shortcut although its channels do not change."""
    same = entry.kind == "R" and entry.shapes["Conv_0.weight"][0] == entry.shapes["Conv_0.weight"][1]
    return entry.kind == "D" or (same and "Conv_2.weight" in entry.shapes)


def _layers_per_block(body: list[_Entry]) -> int:
    count = 0
    for entry in body:
        if _is_resampling(entry):
            return count
        count += entry.kind == "R"
    return (count - 3) // 2  # a single level: n down, 2 in the middle, n + 1 up


def _parse_down(body: list[_Entry], layers: int) -> dict[str, Any]:
    """Read the encoder: per level `layers` blocks, then what halves the resolution, up to the level where nothing does."""
    position = 0
    widths: list[int] = []
    attention: list[int] = []
    pyramid, combine, with_conv = "none", "sum", True
    ddpm = any(entry.kind == "R" and "NIN_0.W" in entry.shapes for entry in body)
    while True:
        for _ in range(layers):
            block = body[position]
            position += 1
            if body[position].kind == "A" and body[position + 1].kind != "norm":
                attention.append(len(widths))
                position += 1
        widths.append(block.width)
        if not _is_resampling(body[position]):
            break
        ddpm = ddpm or body[position].kind == "D"
        with_conv = with_conv and bool(body[position].shapes)
        position += 1
        if body[position].kind == "C":
            pyramid = "input_skip"
            following = body[position + 1].shapes["Conv_0.weight"][1]
            combine = "cat" if following == 2 * widths[-1] else "sum"
            position += 1
        elif body[position].kind == "D":
            pyramid = "residual"
            position += 1
    size = ATTENTION_RESOLUTION * 2 ** min(attention) if attention else 32
    return {
        "sample_size": size,
        "block_out_channels": tuple(widths),
        "attention_resolutions": tuple(sorted({size // 2**level for level in attention}, reverse=True)),
        "resnet_type": "ddpm" if ddpm else "biggan",
        "resample_with_conv": with_conv,
        "input_pyramid": pyramid,
        "pyramid_combine": combine,
    }


def infer_preset(state: Mapping[str, torch.Tensor], path: Path, ema_decay: Any = None) -> Preset:
    """The published configuration nearest to an official network's tensors, with the architecture that they determine.

    Args:
        state: official tensors without the `module.` prefix.
        path: the checkpoint's path, whose folders may name the configuration.
        ema_decay: the decay of its weight average, which was 0.999 for most VE networks and 0.9999 for the others.

    Raises:
        ValueError: the tensors are not those of an official network, or of no published family.
    """
    family, found = infer_architecture(state)
    agreement = {name: _agreement(item, family, found) for name, item in PRESETS.items()}
    best = max(agreement.values())
    if best < 0:
        seen = ", ".join(f"{key}={found[key]!r}" for key in _FAMILY if key in found)
        raise ValueError(f"no published configuration has such a network ({seen}): pass config")
    folder = path.absolute().parent.as_posix() + "/"
    named = [name for name, value in agreement.items() if value >= 0 and f"/{name}/" in folder]
    equal = [name for name, value in agreement.items() if value == best]
    equal = [name for name in equal if PRESETS[name].training["ema_decay"] == ema_decay] or equal
    name = named[-1] if named else min(equal, key=_preference)
    chosen = PRESETS[name]
    others = [other for other in equal if _rest(PRESETS[other], found) != _rest(chosen, found)]
    if others and not named:
        warnings.warn(
            f"these tensors fit several published configurations: taking {name!r}; pass config if it is one of {others}",
            stacklevel=4,
        )
    scheduler = dict(chosen.scheduler)
    if chosen.scheduler_class == "VESDEScheduler":
        scheduler |= {
            key: value for key, value in found.items() if key in ("sigma_min", "sigma_max", "num_train_timesteps")
        }
    return replace(chosen, model={**chosen.model, **found}, scheduler=scheduler)


def _agreement(candidate: Preset, family: str, found: Mapping[str, Any]) -> int:
    """How many arguments agree; -1 if the candidate is of another family."""
    arguments = candidate.arguments()
    same_family = (candidate.model_class == "NCSNv2") == (family == "NCSNv2")
    if not same_family or any(arguments.get(key) != found.get(key) for key in _FAMILY):
        return -1
    return sum(arguments[key] == value for key, value in found.items())


def _rest(candidate: Preset, found: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a preset adds to the arguments found in the tensors."""
    model = {key: value for key, value in candidate.arguments().items() if key not in found and key != "dropout"}
    scheduler = {key: value for key, value in candidate.scheduler.items() if key not in found}
    return candidate.model_class, model, candidate.scheduler_class, scheduler


def _preference(name: str) -> tuple[int, str]:
    return next(rank for rank, prefix in enumerate(PREFERENCE) if name.startswith(prefix)), name
