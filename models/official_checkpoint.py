"""Reading a ``checkpoint_N.pth`` of the official PyTorch code: safely, by key, with its EMA weights.

The file is a pickled dictionary: ``model`` (a state dict with DataParallel's ``module.`` prefix), ``ema`` (``decay``,
``num_updates`` and ``shadow_params``, a list in parameter order without those that receive no gradient), ``step`` and
``optimizer``. Nothing in it is ever executed: only tensors, plain containers, numbers and numpy scalars are accepted.
"""

import pickle
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..schedulers import SDEScheduler
from .ncsnpp import NCSNpp
from .ncsnv2 import NCSNv2
from .official_config import preset_from_official_config
from .official_inference import infer_preset
from .official_keys import check_tensors, from_official, official_tensors
from .presets import Preset, preset


_SCALAR = np.float64(0).__reduce__()[0]
_SAFE_NUMPY: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
]


def load_official_checkpoint(
    path: str | PathLike[str],
    config: str | Mapping[str, Any] | None = None,
    *,
    use_ema: bool = True,
) -> tuple[NCSNpp | NCSNv2, SDEScheduler]:
    """Turn an official checkpoint into a network of ours and its scheduler.

    Args:
        path: the file, as `torch.save` of the official code wrote it.
        config: the name of a preset (`models.presets.PRESETS`), the official configuration as a nested mapping with its
            sections ``data``, ``model`` and ``training``, or None: then the architecture is read off the tensors. The
            tensors of a positional network do not tell its SDE; if neither do the names of the folders above the file
            (``vp/cifar10_ddpmpp_continuous/checkpoint_26.pth``), a guess is made with a warning that names the others.
        use_ema: take the averaged weights, which all published figures are of, instead of the last ones.

    Returns:
        The network in evaluation mode, in float32, on the CPU; and the scheduler, set up to sample as published.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, corrupted, no official checkpoint, or carries more than data; or its tensors
            do not fit the configuration (every missing, extra or misshapen one is named).

    Example:
        >>> model, scheduler = load_official_checkpoint("checkpoint_26.pth", "vp/cifar10_ddpmpp_continuous")
        >>> ScoreSdePipeline(model, scheduler).save_pretrained("ddpmpp")
    """
    chosen = _chosen_preset(config)
    checkpoint = read_checkpoint(path)
    state = {key.removeprefix("module."): tensor for key, tensor in checkpoint["model"].items()}
    if chosen is None:
        chosen = infer_preset(state, Path(path))
    model = chosen.make_model()
    check_tensors({tensor.key: tensor.shape for tensor in official_tensors(model)}, state)
    if use_ema:
        state = state | _ema_state(model, checkpoint.get("ema"))
    model.load_state_dict(from_official(model, {key: tensor.float() for key, tensor in state.items()}))
    return model.eval(), chosen.make_scheduler()


def _chosen_preset(config: str | Mapping[str, Any] | None) -> Preset | None:
    if config is None:
        return None
    if isinstance(config, str):
        return preset(config)
    if not hasattr(config, "__getitem__") or not hasattr(config, "keys"):
        raise TypeError(f"config must be a preset's name, a nested mapping or None, got {type(config).__name__}")
    return preset_from_official_config(config)


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """The dictionary in an official checkpoint file; tensors on the CPU. Errors: see `load_official_checkpoint`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        with torch.serialization.safe_globals(_SAFE_NUMPY):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip().splitlines()
        raise ValueError(
            f"{path} is refused: it is corrupted, or carries more than tensors and numbers, and nothing in it was "
            f"executed ({reason[0] if reason else error})"
        ) from error
    except Exception as error:  # a damaged archive or pickle stream may raise nearly anything
        raise ValueError(f"{path} cannot be read: it is truncated, corrupted or no checkpoint ({error})") from error
    _check_content(content, path)
    return content


def _check_content(content: Any, path: Path) -> None:
    if not isinstance(content, dict) or "model" not in content:
        found = sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path} is no official checkpoint: expected a dictionary with 'model' and 'ema', got {found}"
        )
    state = content["model"]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and torch.is_tensor(value) for key, value in state.items()
    ):
        raise ValueError(f"{path}: 'model' must be a state dict, names to tensors, got {type(state).__name__}")


def _ema_state(model: NCSNpp | NCSNv2, ema: Any) -> dict[str, torch.Tensor]:
    """Official keys of the averaged parameters; the list holds those that are trained, in official order."""
    if not isinstance(ema, Mapping) or not isinstance(ema.get("shadow_params"), Sequence):
        raise ValueError(
            "the checkpoint has no 'ema' with 'shadow_params': pass use_ema=False to take its last weights"
        )
    shadow = ema["shadow_params"]
    every = official_tensors(model)
    trained = [tensor for tensor in every if tensor.trained]
    if len(shadow) not in (len(trained), len(every)):
        raise ValueError(f"ema.shadow_params has {len(shadow)} tensors, the architecture {len(trained)} trained ones")
    if not all(torch.is_tensor(tensor) for tensor in shadow):
        raise ValueError("ema.shadow_params must be a list of tensors")
    expected = trained if len(shadow) == len(trained) else every
    averaged = {tensor.key: value for tensor, value in zip(expected, shadow)}
    check_tensors(
        {f"ema {tensor.key}": tensor.shape for tensor in expected}, {f"ema {k}": v for k, v in averaged.items()}
    )
    return averaged
