"""Checks of arguments, used everywhere: each names the argument and says what it must be and what was given.

NumPy's integers are integers and its floats are numbers; booleans are neither. NaN and infinities are refused.
"""

import math
import numbers
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer: Python's or NumPy's, and no boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def check_integer(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """`value` as an `int`, if it is an integer from `least` to `most`.

    Raises:
        ValueError: for anything else.
    """
    if not is_integer(value) or value < least or (most is not None and value > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer {wanted}, got {value!r}")
    return int(value)


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, ends: str = "[]") -> float:
    """`value` as a `float`, if it is a finite number from `low` to `high`; 0-dim tensors and arrays are numbers.

    Args:
        ends: whether `low` and `high` themselves are allowed, in the notation of intervals: "[]", "[)", "(]" or "()".

    Raises:
        TypeError: for what is not a number.
        ValueError: for NaN, infinities and numbers out of the range.
    """
    number = value.item() if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0 else value
    if not isinstance(number, numbers.Real) or isinstance(number, (bool, np.bool_)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(number)
    inside = (
        low <= number <= high and not (number == low and ends[0] == "(") and not (number == high and ends[1] == ")")
    )
    if not math.isfinite(number) or not inside:
        raise ValueError(f"{name} must be a finite number{_range(low, high, ends)}, got {number!r}")
    return number


def check_choice(name: str, value: Any, choices: Collection[str], *, optional: bool = False) -> None:
    """Raises ValueError unless `value` is one of `choices`, or `None` where that is allowed (`optional`)."""
    if not (isinstance(value, str) and value in choices) and not (optional and value is None):
        allowed = "None or one of" if optional else "one of"
        raise ValueError(f"{name} must be {allowed} {sorted(choices)}, got {value!r}")


def check_finite(name: str, value: Any) -> Tensor:
    """`value`, if it is a floating-point tensor without NaN and infinities.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for NaN or infinity.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {getattr(value, 'dtype', type(value).__name__)}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return value


def check_timesteps(timesteps: Any, count: int) -> Tensor:
    """`timesteps`, if they are a tensor of real numbers with one for all or one for each of `count` samples.

    Raises:
        TypeError: for anything but a tensor of integers or floating-point numbers.
        ValueError: for another shape.
    """
    if not isinstance(timesteps, Tensor) or timesteps.is_complex() or timesteps.dtype == torch.bool:
        found = getattr(timesteps, "dtype", type(timesteps).__name__)
        raise TypeError(f"timesteps must be a tensor of integers or floating-point numbers, got {found}")
    if tuple(timesteps.shape) not in {(), (1,), (count,)}:
        raise ValueError(f"timesteps must have shape () or ({count},), got {tuple(timesteps.shape)}")
    return timesteps


def _range(low: float, high: float, ends: str) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(high):
        return f" of at least {low:g}" if ends[0] == "[" else f" greater than {low:g}"
    return f" in {ends[0]}{low:g}, {high:g}{ends[1]}"
