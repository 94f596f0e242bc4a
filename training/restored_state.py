"""What a checkpoint holds, checked against the run before it is put into it.

The checksums of a checkpoint say that it is as it was written, not who wrote it. A file of weights has the dtypes of the
network and finite numbers, the state of an optimizer the shapes of its parameters, and a schedule numbers where it has
numbers: else the run would go on with other values, or end somewhere in torch.
"""

import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import nn

from ..schedulers.checks import check_integer, check_number
from .muon import MuonAdamW
from .safe_state import check_finite_state
from .sharding import is_spread, part_like


ADAM = ("step", "exp_avg", "exp_avg_sq")
MUON = ("momentum_buffer",)
COUNTERS = ("last_epoch", "_step_count", "_growth_tracker")
RATES = ("lr", "initial_lr")  # of a group; everything else there is a setting of the run


def load_network(network: nn.Module, path: Path) -> None:
    """Loads the weights in a safetensors file of a checkpoint.

    Raises:
        ValueError: they are not those of the network, of another dtype or not finite; names the file.
    """
    own, parts = network.state_dict(), {}
    spread = any(is_spread(tensor) for tensor in own.values())
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # it has no other way to be iterated
                tensor = file.get_tensor(name)
                if name in own and tensor.dtype != own[name].dtype:
                    raise ValueError(f"{path} must hold {name} as {own[name].dtype}, got {tensor.dtype}")
                _check_finite({name: tensor}, path)
                if spread:
                    parts[name] = part_like(tensor, own.get(name, tensor))
        if spread:
            network.load_state_dict(parts)
        else:
            load_model(network, str(path))  # it knows weights that two names share
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} does not fit the network: {error}") from error


def load_part(part: Any, state: Any, path: Path) -> None:
    """Loads the state of an optimizer, of a learning-rate schedule or of a gradient scaler.

    The settings in it (momenta, weight decay, the rate that a schedule scales) stay those of the run.

    Raises:
        ValueError: it is no state of this part; names the file.
    """
    try:
        _check_finite(state, path)
        is_optimizer = hasattr(part, "param_groups")
        part.load_state_dict(_optimizer_state(part, state) if is_optimizer else _plain_state(part, state))
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{path} does not fit the run: {error}") from error


def _check_finite(state: Mapping[str, Any], path: Path) -> None:
    try:
        check_finite_state(state)
    except FloatingPointError as error:
        raise ValueError(f"{path} must hold finite numbers: {error}") from error


# ------------------------------------------------------------------ optimizers


def _optimizer_state(optimizer: Any, state: Any) -> dict[str, Any]:
    """`state` as `optimizer.load_state_dict` takes it, its groups with the settings of the run."""
    own, saved = optimizer.state_dict()["param_groups"], state["param_groups"]
    if not isinstance(saved, list) or [group["params"] for group in saved] != [group["params"] for group in own]:
        raise ValueError("param_groups must hold the parameters of the run")
    groups = [_group(group, old) for group, old in zip(own, saved)]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    restored = {}
    for index, values in dict(state["state"]).items():
        check_integer("state", index, 0, len(parameters) - 1)
        needed = _moments(optimizer, index)
        missing = [name for name in needed if name not in values]
        if missing:
            raise ValueError(f"state {index} must have {', '.join(needed)}, got none for {', '.join(missing)}")
        for name, value in values.items():
            _check_moment(f"{name} of state {index}", value, parameters[index])
        restored[index] = {name: _part_of_moment(value, parameters[index]) for name, value in values.items()}
    return {"state": restored, "param_groups": groups}


def _moments(optimizer: Any, index: int) -> tuple[str, ...]:
    """What the state of a parameter must hold."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper has it
    if isinstance(optimizer, MuonAdamW):
        return ADAM if index < len(optimizer.param_groups[0]["params"]) else MUON
    return ADAM if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) else ()


def _group(own: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    rates = {name: check_number(name, saved[name], 0) for name in RATES if name in own}
    begun, begins = rates.get("initial_lr"), own.get("initial_lr")
    if begun is not None and begins is not None and begun != begins:  # --allow_changed_settings learning_rate
        rates = {"lr": rates["lr"] * begins / begun if begun else begins, "initial_lr": begins}
    return {**own, **rates}


def _check_moment(name: str, value: Any, parameter: torch.Tensor) -> None:
    if value is None or isinstance(value, bool):
        return
    if not isinstance(value, torch.Tensor):
        check_number(name, value)
        return
    if value.ndim and (value.shape != parameter.shape or value.dtype != parameter.dtype):
        raise ValueError(
            f"{name} must have the shape and dtype of its parameter, {tuple(parameter.shape)} and {parameter.dtype}, got "
            f"{tuple(value.shape)} and {value.dtype}"
        )
    if not value.ndim and not value.is_floating_point():
        raise ValueError(f"{name} must be a floating-point number, got {value.dtype}")


def _part_of_moment(value: Any, parameter: torch.Tensor) -> Any:
    """What this process keeps of it; numbers are those of all processes."""
    return part_like(value, parameter) if isinstance(value, torch.Tensor) and value.ndim else value


# ------------------------------------------------------------------ schedules and scalers


def _plain_state(part: Any, state: Any) -> dict[str, Any]:
    """`state` with the entries that the part has now, each of the same form; `base_lrs` are settings of the run."""
    own = part.state_dict()
    if not own:  # a gradient scaler that is not used
        return dict(state)
    unknown = [name for name in state if name not in own and hasattr(part, str(name))]
    if unknown:
        raise ValueError(f"it must hold {', '.join(own)}, got {', '.join(map(str, unknown))} as well")
    for name in COUNTERS:
        if name in own and name in state:
            check_integer(name, state[name], 0)
    known = {name: state[name] for name in own if name in state and name != "base_lrs"}
    for name, value in known.items():
        _check_form(name, value, own[name])
    changed = state.get("base_lrs", own.get("base_lrs"))
    if "base_lrs" in own:
        _check_form("base_lrs", changed, own["base_lrs"])
        if "_last_lr" in known:
            known["_last_lr"] = [
                rate * new / old if old and new != old else rate
                for rate, old, new in zip(known["_last_lr"], changed, own["base_lrs"])
            ]
    return {**own, **known}


def _check_form(name: str, value: Any, own: Any) -> None:
    """Raises TypeError or ValueError unless a value is of the kind of the run's own one; None has no kind."""
    if isinstance(own, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(own):
            raise ValueError(f"{name} must be a list of {len(own)}, got {value!r}")
        for index, (one, other) in enumerate(zip(value, own)):
            _check_form(f"{name}[{index}]", one, other)
    elif isinstance(own, bool | str):
        if type(value) is not type(own):
            raise ValueError(f"{name} must be {type(own).__name__}, got {value!r}")
    elif isinstance(own, numbers.Real):
        # Plateaus begin with an infinite best value.
        if not isinstance(value, float) or math.isfinite(value) or math.isfinite(float(own)):
            check_number(name, value)
    elif own is not None and not isinstance(value, type(own)):
        raise ValueError(f"{name} must be {type(own).__name__}, got {type(value).__name__}")
