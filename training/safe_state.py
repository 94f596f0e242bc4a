"""Training state as safetensors: tensors, numbers and text, never pickled objects.

A state (of an optimizer, a learning-rate schedule, ...) is nested dictionaries, lists and tuples of tensors, numbers,
text and None. Its tensors become those of one safetensors file, and the nesting around them is JSON in the metadata
of the same file. Reading such a file cannot execute code, whatever it holds.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .durable_files import disk_errors, sync_file


STRUCTURE = "structure"


def check_finite_state(state: Mapping[str, Any], name: str = "", hint: str = "") -> None:
    """Checks that every tensor in a nested state holds finite numbers only.

    Args:
        state: tensors by name, as from `state_dict`; dictionaries and lists of them may be nested.
        name: put before the names of the tensors in the message.
        hint: put after them: what was not written, what to do.

    Raises:
        FloatingPointError: a tensor holds NaN or an infinity; the first one is named.
    """
    found = [(path, tensor) for path, tensor in _tensors(state, name) if tensor.numel()]
    # One answer per device and not one per tensor: every answer read from a GPU waits for it.
    by_device: dict[torch.device, list[tuple[str, torch.Tensor]]] = {}
    for path, tensor in found:
        by_device.setdefault(tensor.device, []).append((path, _is_finite(tensor)))
    for answers in by_device.values():
        for (path, _), finite in zip(answers, torch.stack([answer for _, answer in answers]).tolist()):
            if not finite:
                raise FloatingPointError(f"{path} is not finite{hint}")


def _tensors(state: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a nested state with its path."""
    if isinstance(state, torch.Tensor):
        yield path, state
    elif isinstance(state, (Mapping, list, tuple)):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from _tensors(value, f"{path}.{key}" if path else str(key))


def _is_finite(tensor: torch.Tensor) -> torch.Tensor:
    """Whether all elements are finite, a boolean tensor without dimensions."""
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()  # `isfinite` does not support the 8-bit formats
    return torch.isfinite(tensor.detach()).all()


def save_state_file(path: str | Path, state: Any) -> None:
    """Writes a nested state into one safetensors file and waits until it is on the disk.

    Raises:
        TypeError: the state holds something else than tensors, numbers, text and None; it is named.
        OSError: the file cannot be written; `errno` is ENOSPC where the disk is full.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = _pack(state, "", tensors)
    with disk_errors():
        save_file(_apart(tensors), path, metadata={STRUCTURE: json.dumps(structure, allow_nan=False)})
    sync_file(path)


def load_state_file(path: str | Path) -> Any:
    """The state in a file of `save_state_file`, its tensors on the CPU.

    Raises:
        ValueError: the file is damaged or of another kind; it is named.
    """
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            # Copies: what is returned must not depend on a mapped file that a rotation deletes.
            tensors = {name: file.get_tensor(name).clone() for name in names}
            structure = json.loads((file.metadata() or {})[STRUCTURE])
        return _unpack(structure, tensors)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as training state: {error}") from error


def _pack(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The JSON form of a value; its tensors are put into `tensors` under their path."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, np.generic):
        return _pack(value.item(), path, tensors)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value, path, tensors)
    if isinstance(value, Mapping):
        pairs = [(_key(key, path), item) for key, item in value.items()]
        return {"dict": [[key, _pack(item, f"{path}.{key}", tensors)] for key, item in pairs]}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, f"{path}.{k}", tensors) for k, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise TypeError(f"{path.lstrip('.')} must be a tensor, a number, text or None, got {type(value).__name__}")


def _key(key: Any, path: str) -> int | str:
    if type(key) not in (int, str):
        raise TypeError(f"{path.lstrip('.')} must have integers or text as keys, got {key!r}")
    return key


def _pack_tensor(value: torch.Tensor, path: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    name = path.lstrip(".") or "value"
    while name in tensors:  # {1: ..., "1": ...}
        name += "'"
    value = value.detach()
    channels_last = value.ndim == 4 and not value.is_contiguous()
    channels_last = channels_last and value.is_contiguous(memory_format=torch.channels_last)
    tensors[name] = value.contiguous()
    return {"tensor": name, "channels_last": True} if channels_last else {"tensor": name}


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values without common memory, which safetensors refuses: views and repeated tensors are copied."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        view = tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
        apart[name] = tensor.clone() if view or tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return apart


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `_pack`."""
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {_key(key, ""): _unpack(item, tensors) for key, item in value["dict"]}
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    if "float" in value:
        return float(value["float"])
    tensor = tensors[value["tensor"]]
    return tensor.contiguous(memory_format=torch.channels_last) if value.get("channels_last") else tensor
