"""Checks of the networks' arguments, where they enter."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..schedulers.checks import MOST, check_integer, check_number, describe, holds, is_dense, is_integer, shown


LARGEST = 1e9
SMALLEST_SIGMA = 1e-20  # in float32 its logarithm and the division by it are finite


def check_integers(config: Mapping[str, Any], *names: str, least: int = 1, optional: bool = False) -> None:
    """Raise ValueError unless the entries `names` are integers of at least `least` (or None, where `optional`)."""
    for name in names:
        if not (optional and config[name] is None):
            check_integer(name, config[name], least)


def check_integer_lists(config: Mapping[str, Any], *names: str, may_be_empty: bool = False) -> None:
    """Raise ValueError unless the entries `names` are lists of positive integers."""
    for name in names:
        values = config[name]
        if not isinstance(values, (list, tuple)) or not all(is_integer(value) and value > 0 for value in values):
            raise ValueError(f"{name} must be a list of positive integers, got {shown(values)}")
        if not values and not may_be_empty:
            raise ValueError(f"{name} must have at least one entry, got {shown(values)}")


def check_numbers(config: Mapping[str, Any], *names: str, above: float = -math.inf, least: float = -math.inf) -> None:
    """Raise TypeError or ValueError unless the entries `names` are numbers above `above` and at least `least`.

    Larger ones than `LARGEST` overflow in half and single precision.
    """
    for name in names:
        _check_float(name, config[name])
        check_number(name, config[name], max(above, least, -LARGEST), LARGEST, ends="(]" if above > least else "[]")


def check_choices(config: Mapping[str, Any], choices: Mapping[str, Collection[Any]]) -> None:
    """Raise ValueError unless each entry of `config` that `choices` names is one of the words or integers there."""
    for name, allowed in choices.items():
        value = config[name]
        if not isinstance(value, str | int) or value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {shown(value)}")


def check_booleans(config: Mapping[str, Any], *names: str) -> None:
    """Raise ValueError unless the entries `names` are True or False."""
    for name in names:
        if not isinstance(config[name], bool):
            raise ValueError(f"{name} must be True or False, got {shown(config[name])}")


def check_dropout(config: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError unless `dropout` is a probability below 1."""
    _check_float("dropout", config["dropout"])
    check_number("dropout", config["dropout"], 0, 1, ends="[)")


def check_sample_size(config: Mapping[str, Any], optional: bool = False, divisor: int = 1) -> None:
    """Raise ValueError unless `sample_size` is one positive integer or two, divisible by `divisor`."""
    size = config["sample_size"]
    sides = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size,)
    if not (optional and size is None) and not all(is_integer(side) and 0 < side <= MOST for side in sides):
        raise ValueError(
            f"sample_size must be a positive integer or a pair (height, width) of them, got {shown(size)}"
        )
    if size is not None and any(side % divisor for side in sides):
        raise ValueError(
            f"sample_size must be divisible by {divisor} (2 for each level below the first), got {shown(size)}"
        )


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """A `sample_size`, one number for both sides or a pair, as (height, width)."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)


def check_noise_levels(config: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError unless `sigma_min`, `sigma_max`, `num_train_timesteps` are a table of noise levels."""
    check_numbers(config, "sigma_min", "sigma_max", least=SMALLEST_SIGMA)
    check_integers(config, "num_train_timesteps", least=2)
    if config["sigma_max"] <= config["sigma_min"]:
        raise ValueError(
            f"sigma_max must be greater than sigma_min, got {config['sigma_max']} and {config['sigma_min']}"
        )


def check_sample(sample: Any, channels: int, divisor: int, dtype: torch.dtype | None, on_meta: bool) -> None:
    """Raise TypeError or ValueError unless `sample` is a batch of images for a network.

    Args:
        channels: of the images.
        divisor: what their height and width must be divisible by.
        dtype: what the network computes in; None while a graph is captured, where that and the batch are unknown.
        on_meta: whether the network's weights have no data, and the images may have none.
    """
    if not is_dense(sample) or not sample.is_floating_point():
        raise TypeError(f"sample must be a floating-point tensor, got {describe(sample)}")
    if sample.ndim != 4 or sample.shape[1] != channels or sample.shape[2] % divisor or sample.shape[3] % divisor:
        sides = f" with H and W divisible by {divisor}" if divisor > 1 else ""
        raise ValueError(f"sample must have shape (B, {channels}, H, W){sides}, got {tuple(sample.shape)}")
    if dtype is not None and 0 in sample.shape:
        raise ValueError(f"sample must hold at least one image, got shape {tuple(sample.shape)}")
    if sample.is_meta and not on_meta:
        raise ValueError("sample must have data, got a tensor on the device 'meta'")
    if dtype not in (None, sample.dtype) and not torch.is_autocast_enabled(sample.device.type):
        raise TypeError(f"sample must have the dtype of the network, {dtype}, got {sample.dtype}")


def check_values(name: str, values: Tensor, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise ValueError unless `low` <= `values` < `high` everywhere, as far as that can be seen (see `holds`)."""
    if not holds((values >= low) & (values < high) & torch.isfinite(values)):
        limit = f"be in [{low:g}, {high:g})" if high < math.inf else "be finite"
        limit += f" and at least {low:g}" if -math.inf < low and high == math.inf else ""
        raise ValueError(f"{name} must {limit}, got {values.tolist()}")


def check_class_labels(labels: Any, num_classes: int, batch: int) -> None:
    """Raise ValueError unless `labels` are integers (B,) or (1,) in `0 .. num_classes`."""
    if not torch.is_tensor(labels):
        raise ValueError(f"class_labels must be a tensor of integers, got {type(labels).__name__}")
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"class_labels must be int64 or int32, got {labels.dtype}")
    if labels.ndim != 1 or (labels.shape[0] != 1 and labels.shape[0] != batch):
        raise ValueError(f"class_labels must have shape ({batch},) or (1,), got {tuple(labels.shape)}")
    if not holds((labels >= 0) & (labels <= num_classes)):
        ends = f"{int(labels.min())} .. {int(labels.max())}"
        raise ValueError(f"class_labels must be in 0 .. {num_classes} ({num_classes} stands for no class), got {ends}")


def _check_float(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
