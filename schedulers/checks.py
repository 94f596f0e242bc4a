"""Checks of arguments, used everywhere: each names the argument and says what it must be and what was given.

NumPy's integers are integers and its floats are numbers; booleans are neither. NaN and infinities are refused.
"""

import math
import numbers
from collections.abc import Collection
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


MOST = 2**31 - 1  # of a number of images, steps or channels: beyond it memory ends, or torch's own counters


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer: Python's or NumPy's, and no boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def check_integer(name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """`value` as an `int`, if it is an integer from `least` to `most`.

    Raises:
        ValueError: for anything else.
    """
    if not is_integer(value) or not least <= value <= most:
        too_large = is_integer(value) and value > most
        wanted = f"from {least} to {most}" if most < MOST or too_large else f"of at least {least}"
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
    try:
        number = float(number)
    except OverflowError:
        number = math.inf
    inside = (
        low <= number <= high and not (number == low and ends[0] == "(") and not (number == high and ends[1] == ")")
    )
    if not math.isfinite(number) or not inside:
        raise ValueError(f"{name} must be a finite number{_range(low, high, ends)}, got {number!r}")
    return number


def check_number_sequence(
    name: str, values: Any, count: int | None = None, least: float = -math.inf
) -> tuple[float, ...]:
    """`values` as a tuple, if they are a sequence of `count` finite numbers of at least `least`.

    Raises:
        TypeError: for what is no list, tuple, array or tensor of numbers.
        ValueError: for another length, NaN, infinities and numbers out of the range.
    """
    flat = isinstance(values, (Tensor, np.ndarray)) and values.ndim == 1
    if not flat and not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} must be a sequence of numbers, got {type(values).__name__}")
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must have {count} numbers, got {len(values)}")
    return tuple(check_number(f"{name}[{index}]", value, least) for index, value in enumerate(values))


def check_flag(name: str, value: Any) -> bool:
    """`value` as a `bool`, if it is True or False; 0 and 1 count as well.

    Raises:
        TypeError: for anything else.
    """
    if not isinstance(value, (bool, np.bool_)) and not (is_integer(value) and value in (0, 1)):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    return bool(value)


def check_path(name: str, value: Any) -> Path:
    """`value` as a `Path`, if it is a text or path that a file system can look for; nothing needs to be there.

    Raises:
        TypeError: for what is neither `str` nor a path.
        ValueError: for an empty text, one with a null character, or a name that is too long.
    """
    if not isinstance(value, (str, PathLike)) or not isinstance(fspath(value), str):
        raise TypeError(f"{name} must be a path, got {type(value).__name__}")
    try:
        Path(value).stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} must be the path of a file or folder, got {str(value)[:200]!r}: {error}") from error
    if not fspath(value):
        raise ValueError(f"{name} must be a path, got an empty text")
    return Path(value)


def check_device(name: str, value: Any) -> torch.device:
    """`value` as a `torch.device`, if this machine has it.

    Raises:
        TypeError: for what is neither a `str` nor a `torch.device`.
        ValueError: for a device that is not known or not there.
    """
    if not isinstance(value, (str, torch.device)):
        raise TypeError(f"{name} must be a device, got {type(value).__name__}")
    try:
        torch.zeros(1, device=value)
        return torch.device(value)
    except Exception as error:  # torch raises RuntimeError, AssertionError and others
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name} must be a device of this machine, got {str(value)!r}: {reason}") from error


def check_function(name: str, value: Any, *, optional: bool = False) -> None:
    """Raises TypeError unless `value` can be called, or is `None` where that is allowed (`optional`)."""
    if (not callable(value) or isinstance(value, type)) and not (optional and value is None):
        allowed = "None or a function" if optional else "a function"
        raise TypeError(f"{name} must be {allowed}, got {type(value).__name__}")


def check_generator(generator: Any, count: int) -> None:
    """Raises unless `generator` is `None`, a `torch.Generator`, or a list of `count` of them.

    Raises:
        TypeError: for anything else.
        ValueError: for another number of them.
    """
    several = isinstance(generator, list)
    if not all(isinstance(one, torch.Generator) for one in (generator if several else [generator])):
        if generator is not None:
            raise TypeError(f"generator must be a torch.Generator or a list of them, got {generator!r}")
    elif several and len(generator) != count:
        raise ValueError(f"generator must hold one generator per image, {count}, got {len(generator)}")


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
    if value.is_meta or value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor with data, got {value.layout} on {value.device}")
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
