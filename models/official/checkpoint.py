"""Reading a `checkpoint_N.pth` of the official PyTorch code: safely, by key, with its EMA weights.

The file is a pickled dictionary: `model` (a state dict with DataParallel's `module.` prefix), `ema` (`decay`,
`num_updates` and `shadow_params`, a list in parameter order without those that receive no gradient), `step` and
`optimizer`. Nothing in it is ever executed: only tensors, plain containers, numbers and numpy scalars are accepted.
"""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ...schedulers import SDEScheduler
from ...schedulers.checks import check_choice, check_flag
from ..ncsnpp import NCSNpp
from ..ncsnv2 import NCSNv2
from .config import preset_from_official_config
from .file import is_plain_tensor, read_checkpoint
from .inference import infer_preset
from .keys import check_dtypes, check_tensors, from_official, official_tensors
from .presets import PRESETS, Preset, preset
from .tensor import OfficialTensor


def load_official_checkpoint(
    path: str | PathLike[str],
    config: str | Mapping[str, Any] | None = None,
    *,
    use_ema: bool = True,
) -> tuple[NCSNpp | NCSNv2, SDEScheduler]:
    """Turn an official checkpoint into a network of ours and its scheduler.

    Args:
        path: the file, as `torch.save` of the official code wrote it.
        config: the name of a preset (`models.official.PRESETS`), the official configuration as a nested mapping with its
            sections `data`, `model` and `training`, or None: then the architecture is inferred from the tensors.
            The tensors of a positional network do not determine its SDE; if neither do the names of the folders above it
            (`vp/cifar10_ddpmpp_continuous/checkpoint_26.pth`) nor the decay of its average (0.999 for most VE networks,
            0.9999 for the others), a guess is made with a warning that names the others.
        use_ema: take the averaged weights, which all published figures are of, instead of the last ones.

    Returns:
        The network in evaluation mode, in float32, on the CPU; and the scheduler, set up to sample as published.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupted, no official checkpoint, or carries more than data; or its tensors
            do not fit the configuration (every missing or extra one and every wrong shape is named), are not floating-point
            numbers or not finite.

    Example:
        >>> model, scheduler = load_official_checkpoint("checkpoint_26.pth", "vp/cifar10_ddpmpp_continuous")
        >>> ScoreSdePipeline(model, scheduler).save_pretrained("ddpmpp")
    """
    check_flag("use_ema", use_ema)
    chosen = _chosen_preset(config)
    checkpoint = read_checkpoint(path)
    state = {key.removeprefix("module."): tensor for key, tensor in checkpoint["model"].items()}
    if chosen is None:
        ema = checkpoint.get("ema")
        chosen = infer_preset(state, Path(path), ema.get("decay") if isinstance(ema, Mapping) else None)
    layout = _layout(chosen)
    check_tensors({tensor.key: tensor.shape for tensor in layout}, state)
    check_dtypes(state)
    if use_ema:
        state = state | _ema_state(layout, checkpoint.get("ema"))
    _check_finite({tensor.key: state[tensor.key] for tensor in layout})
    model = chosen.make_model()
    model.load_state_dict(from_official(model, {key: tensor.float() for key, tensor in state.items()}))
    return model.eval(), chosen.make_scheduler()


def _chosen_preset(config: str | Mapping[str, Any] | None) -> Preset | None:
    if config is None:
        return None
    if isinstance(config, str):
        check_choice("config", config, PRESETS)
        return preset(config)
    if not hasattr(config, "__getitem__") or not hasattr(config, "keys"):
        raise TypeError(f"config must be a preset's name, a nested mapping or None, got {type(config).__name__}")
    try:
        return preset_from_official_config(config)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"config must be an official configuration: {error}") from error


def _layout(chosen: Preset) -> list[OfficialTensor]:
    """The official tensors of a preset's network, which is not allocated: the file has not been checked against it yet."""
    try:
        with torch.device("meta"):
            return official_tensors(chosen.make_model())
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"there is no network of this configuration: {error}") from error


def _check_finite(state: Mapping[str, torch.Tensor]) -> None:
    broken = [key for key, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"the checkpoint is corrupted, or its training diverged: NaN or infinity in {broken}")


def _ema_state(layout: list[OfficialTensor], ema: Any) -> dict[str, torch.Tensor]:
    """Official keys of the averaged parameters; the list holds those that are trained, in official order."""
    if not isinstance(ema, Mapping) or not isinstance(ema.get("shadow_params"), Sequence):
        raise ValueError(
            "the checkpoint has no 'ema' with 'shadow_params': pass use_ema=False (scoresde convert: --no-ema) to take "
            "its last weights"
        )
    shadow = ema["shadow_params"]
    if not all(is_plain_tensor(tensor) for tensor in shadow):
        raise ValueError("ema.shadow_params must be a list of dense tensors")
    check_dtypes({f"ema.shadow_params[{index}]": tensor for index, tensor in enumerate(shadow)})
    expected = _averaged(layout, shadow)
    if len(shadow) != len(expected):
        raise ValueError(
            f"ema.shadow_params has {len(shadow)} tensors, the architecture {len(expected)} trained ones; by their "
            f"shapes:\n  {_guess_misfits(expected, shadow)}"
        )
    averaged = {tensor.key: value for tensor, value in zip(expected, shadow)}
    check_tensors(
        {f"ema {tensor.key}": tensor.shape for tensor in expected}, {f"ema {k}": v for k, v in averaged.items()}
    )
    return averaged


def _averaged(layout: list[OfficialTensor], shadow: Sequence[torch.Tensor]) -> list[OfficialTensor]:
    """The tensors of the average: those that require a gradient, unless its shapes say all, or those that receive one."""
    trained = [tensor for tensor in layout if tensor.trained]
    shapes = [tuple(tensor.shape) for tensor in shadow]
    for chosen in (layout, [tensor for tensor in layout if tensor.reached]):
        if shapes == [tensor.shape for tensor in chosen]:
            return chosen
    return trained


def _guess_misfits(expected: list[OfficialTensor], shadow: Sequence[torch.Tensor]) -> str:
    """What is missing and extra in a list without names, where its shapes depart from the expected ones."""
    found = [tuple(tensor.shape) for tensor in shadow]
    matcher = SequenceMatcher(None, [tuple(tensor.shape) for tensor in expected], found, autojunk=False)
    lines = []
    for kind, first, last, start, end in matcher.get_opcodes():
        if kind != "equal":
            lines += [f"missing: ema {tensor.key} {list(tensor.shape)}" for tensor in expected[first:last]]
            lines += [f"extra: ema.shadow_params[{index}] {list(found[index])}" for index in range(start, end)]
    return "\n  ".join(lines)
