"""Checks of the networks' arguments, where they enter."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch


def check_integers(config: Mapping[str, Any], *names: str, least: int = 1, optional: bool = False) -> None:
    """Raise ValueError unless the entries `names` are integers of at least `least` (or None, where `optional`)."""
    for name in names:
        value = config[name]
        if optional and value is None:
            continue
        if not _is_integer(value) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_integer_lists(config: Mapping[str, Any], *names: str, may_be_empty: bool = False) -> None:
    """Raise ValueError unless the entries `names` are lists of positive integers."""
    for name in names:
        values = config[name]
        if not isinstance(values, (list, tuple)) or not all(_is_integer(value) and value > 0 for value in values):
            raise ValueError(f"{name} must be a list of positive integers, got {values!r}")
        if not values and not may_be_empty:
            raise ValueError(f"{name} must have at least one entry, got {values!r}")


def check_numbers(config: Mapping[str, Any], *names: str, above: float = -math.inf, least: float = -math.inf) -> None:
    """Raise ValueError unless the entries `names` are finite numbers greater than `above` and at least `least`."""
    bound = f" greater than {above:g}" if above > -math.inf else f" of at least {least:g}" if least > -math.inf else ""
    for name in names:
        value = config[name]
        if not _is_finite(value) or value <= above or value < least:
            raise ValueError(f"{name} must be a finite number{bound}, got {value!r}")


def check_booleans(config: Mapping[str, Any], *names: str) -> None:
    """Raise ValueError unless the entries `names` are True or False."""
    for name in names:
        if not isinstance(config[name], bool):
            raise ValueError(f"{name} must be True or False, got {config[name]!r}")


def check_dropout(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless `dropout` is a probability below 1."""
    if not _is_finite(config["dropout"]) or not 0 <= config["dropout"] < 1:
        raise ValueError(f"dropout must be a number in [0, 1), got {config['dropout']!r}")


def check_sample_size(config: Mapping[str, Any], optional: bool = False) -> None:
    """Raise ValueError unless `sample_size` is one positive integer or two."""
    size = config["sample_size"]
    sides = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size,)
    if not (optional and size is None) and not all(_is_integer(side) and side > 0 for side in sides):
        raise ValueError(f"sample_size must be a positive integer or a pair (height, width) of them, got {size!r}")


def check_noise_levels(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless `sigma_min`, `sigma_max` and `num_train_timesteps` describe a table of noise levels."""
    check_numbers(config, "sigma_min", "sigma_max", above=0)
    check_integers(config, "num_train_timesteps", least=2)
    if config["sigma_max"] <= config["sigma_min"]:
        raise ValueError(
            f"sigma_max must be greater than sigma_min, got {config['sigma_max']} and {config['sigma_min']}"
        )


def check_class_labels(labels: torch.Tensor, num_classes: int, batch: int) -> None:
    """Raise ValueError unless `labels` are integers (B,) or (1,) in `0 .. num_classes`.

    Their range is looked at on a CPU alone: elsewhere that would wait for the device at every call.
    """
    if not torch.is_tensor(labels):
        raise ValueError(f"class_labels must be a tensor of integers, got {type(labels).__name__}")
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"class_labels must be int64 or int32, got {labels.dtype}")
    if labels.ndim != 1 or (labels.shape[0] != 1 and labels.shape[0] != batch):
        raise ValueError(f"class_labels must have shape ({batch},) or (1,), got {tuple(labels.shape)}")
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    low, high = (int(end) for end in labels.aminmax()) if labels.numel() else (0, 0)
    if low < 0 or high > num_classes:
        raise ValueError(
            f"class_labels must be in 0 .. {num_classes} ({num_classes} stands for no class), got {low} .. {high}"
        )


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
