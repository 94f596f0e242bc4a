"""Checks of arguments, used everywhere: each names the argument and says what it must be and what was given.

NumPy's integers are integers and its floats are numbers; booleans are neither. NaN and infinities are refused.

The checks of states and times look at type, dtype and shape alone: to read a value would wait for the device in every
step, and would break `vmap` and compiled graphs. `check_finite` and the checks of numbers read values: they are for what
is called once.
"""

import inspect
import math
import numbers
from collections.abc import Callable, Collection, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


Generator = torch.Generator | list[torch.Generator] | None  #: a source of randomness; a list has one for each sample

# Kinds of numbers that torch stores, and mostly does not compute with.
STORED = frozenset(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "uint16", "uint32", "uint64")
)

LONGEST_REPR = 300  # in a message
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
        raise ValueError(f"{name} must be an integer {wanted}, got {shown(value)}")
    return int(value)


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, ends: str = "[]") -> float:
    """`value` as a `float`, if it is a finite number from `low` to `high`; 0-dim tensors and arrays are numbers.

    Args:
        ends: whether `low` and `high` themselves are allowed, in the notation of intervals: "[]", "[)", "(]" or "()".

    Raises:
        TypeError: for what is not a number.
        ValueError: for NaN, infinities and numbers out of the range.
    """
    number = plain(value)
    if not isinstance(number, numbers.Real) or isinstance(number, (bool, np.bool_)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    try:
        number = float(number)
    except OverflowError:  # an integer beyond the largest float
        number = math.inf
    inside = (
        low <= number <= high and not (number == low and ends[0] == "(") and not (number == high and ends[1] == ")")
    )
    if not math.isfinite(number) or not inside:
        raise ValueError(f"{name} must be a finite number{_range(low, high, ends)}, got {number!r}")
    return number


def plain(value: Any) -> Any:
    """`value` with 0-dim tensors and arrays, and NumPy's numbers, as Python's, which JSON can hold; also those in lists."""
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    tensor = is_dense(value) and not value.is_meta and value.dtype not in STORED
    single = (tensor or isinstance(value, (np.ndarray, np.generic))) and value.ndim == 0
    return value.item() if single else value


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


def check_config_kind(config: Any) -> Any:
    """`config`, if `from_config` of diffusers knows its kind; it takes any other object for the name of a repository."""
    if isinstance(config, dict) and not all(isinstance(key, str) for key in config):
        raise TypeError(f"config must have names as its keys, got {list(config)[:3]}")
    if config is not None and not isinstance(config, (dict, str, PathLike)):
        raise TypeError(
            f"config must be a dictionary, as that of a scheduler or network is, got {type(config).__name__}"
        )
    marks = config.get("_use_default_values", []) if isinstance(config, dict) else []
    if not isinstance(marks, (list, tuple, set)):
        raise TypeError(f"_use_default_values in config must be a list of names, got {shown(marks)}")
    return config


def check_choice(name: str, value: Any, choices: Collection[str], *, optional: bool = False) -> None:
    """Raises ValueError unless `value` is one of `choices`, or `None` where that is allowed (`optional`)."""
    if not (isinstance(value, str) and value in choices) and not (optional and value is None):
        allowed = "None or one of" if optional else "one of"
        raise ValueError(f"{name} must be {allowed} {sorted(choices)}, got {shown(value)}")


def check_flag(name: str, value: Any) -> bool:
    """`value` as a `bool`, if it is Python's or NumPy's `True` or `False`; raises TypeError for anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")
    return bool(value)


def check_numbers(
    name: str,
    values: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    ends: str = "[]",
    least: int = 1,
    count: int | None = None,
) -> list[float]:
    """`values` as a list, if they are a sequence of `count`, or at least `least`, numbers, each as in `check_number`.

    Raises:
        TypeError: for what is no sequence of numbers.
        ValueError: for another number of them, or one out of its range.
    """
    array = isinstance(values, np.ndarray) or (is_dense(values) and not values.is_meta)
    listed = values.tolist() if array else values
    if isinstance(listed, (str, bytes, Mapping, set, frozenset, Tensor)) or not isinstance(listed, Collection):
        raise TypeError(f"{name} must be a sequence of numbers, got {describe(values)}")
    numbers_ = [check_number(f"{name}[{i}]", value, low, high, ends=ends) for i, value in enumerate(listed)]
    if count is not None and len(numbers_) != count:
        raise ValueError(f"{name} must have {count} numbers, got {len(numbers_)}")
    if len(numbers_) < least:
        raise ValueError(f"{name} must be a sequence of at least {least} numbers, got {len(numbers_)}")
    return numbers_


def check_instance(name: str, value: Any, kind: type) -> None:
    """Raises TypeError unless `value` is an object of the class `kind`."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIO" or kind.__name__.startswith("SDE") else "a"
        raise TypeError(f"{name} must be {article} {kind.__name__}, got {describe(value)}")


def check_function(
    name: str, value: Any, takes: int | None = None, *, named: Collection[str] = (), optional: bool = False
) -> None:
    """Raises TypeError unless `value` can be called, or is `None` where that is allowed (`optional`).

    Args:
        takes: with how many arguments; `named` are those that are given by name besides.
    """
    if optional and value is None:
        return
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name} must be {'None or ' if optional else ''}a function, got {describe(value)}")
    if takes is None:
        return
    try:
        signature = inspect.signature(value.forward if isinstance(value, torch.nn.Module) else value)
    except (TypeError, ValueError):  # a function in C does not say what it takes
        return
    try:
        signature.bind(*range(takes), **dict.fromkeys(named))
    except TypeError as error:
        wanted = f"{takes} arguments{''.join(f' and {one}' for one in named)}"
        raise TypeError(f"{name} must be a function of {wanted}, got one of {shown(signature, str)}") from error


def check_generator(name: str, generator: Any, count: int | None = None) -> Any:
    """`generator`, if it is `None`, a `torch.Generator`, or a sequence of `count` of them, which becomes a list.

    Args:
        count: the number of samples; `None` where a sequence is not allowed.

    Raises:
        TypeError: for anything else.
        ValueError: for a sequence of another length.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    listed = isinstance(generator, (list, tuple)) and all(isinstance(item, torch.Generator) for item in generator)
    if count is None or not listed:
        several = "" if count is None else " or a list of them"
        raise TypeError(f"{name} must be a torch.Generator{several}, got {shown(generator)}")
    if len(generator) != count:
        raise ValueError(f"{name} must hold one generator per image, {count}, got {len(generator)}")
    return list(generator)


def check_device(name: str, device: Any) -> torch.device | None:
    """`device` as a `torch.device`, if it is `None` or an available one.

    Raises:
        TypeError, ValueError: for what is no device, or one that this machine does not have.
    """
    if device is None:
        return None
    if not isinstance(device, (str, int, torch.device)) or isinstance(device, bool):
        raise TypeError(f"{name} must be a device, got {describe(device)}")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{name} must be an available device, got {shown(device)}") from error
    return found


# ------------------------------------------------------------------ states and times


def as_real(name: str, value: Any) -> Tensor:
    """Real numbers as a tensor: tensors pass unchanged, Python numbers become float64 on the CPU.

    Raises:
        TypeError: for what is no real number or tensor of them.
    """
    if isinstance(value, Tensor):
        if value.is_complex() or not is_dense(value) or value.dtype in STORED:
            raise TypeError(f"{name} must be a number or a dense tensor of real numbers, got {describe(value)}")
        return value
    try:
        return torch.as_tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be a number or a tensor of real numbers, got {describe(value)}") from error


def as_floating(name: str, value: Any) -> Tensor:
    """Real numbers as a floating-point tensor: `as_real`, with integers in float32."""
    real = as_real(name, value)
    return real if real.is_floating_point() else real.float()


def as_time(t: Any, name: str = "t", latest: float = math.inf) -> Tensor:
    """A time as a tensor, as `as_real`; the values of tensors are not looked at.

    Raises:
        TypeError: for what is no real number or tensor of them.
        ValueError: for a number, or one in a list or array, that is negative, NaN, infinite or later than `latest`.
    """
    time = as_real(name, t)
    if time.dtype == torch.bool:
        raise TypeError(f"{name} must be a number or a tensor of numbers, got {describe(t)}")
    if not isinstance(t, Tensor) and not bool(((time >= 0) & (time <= latest) & time.isfinite()).all()):
        wanted = "of at least 0" if math.isinf(latest) else f"from 0 to T = {latest:g}"
        raise ValueError(f"{name} must be a finite time {wanted}, got {shown(t)}")
    return time


def check_time(name: str, t: Any, x: Tensor, x_name: str = "x", latest: float = math.inf) -> Tensor:
    """A time of the states `x` (B, *D) as a tensor: a number, or a tensor of shape () or (B,).

    Raises:
        TypeError: for what is no real number or tensor of them.
        ValueError: for another shape, and as `as_time`.
    """
    t = as_time(t, name, latest)
    if t.ndim and tuple(t.shape) not in {(1,), tuple(x.shape[:1])}:
        raise ValueError(
            f"{name} must have shape () or (B,) for {x_name} of shape {tuple(x.shape)}, got {tuple(t.shape)}"
        )
    return t if x.is_meta else check_values(name, t)


def check_order(t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The times `t` and `s`; raises ValueError for s > t, as far as that can be seen (see `holds`)."""
    if not holds(~(s > t)):  # NaN passes
        raise ValueError(f"s must be at most t, got s={s.tolist()} and t={t.tolist()}")
    return t, s


def check_state(name: str, x: Any, least_dimensions: int = 0) -> Tensor:
    """`x`, if it is a dense floating-point tensor of at least so many dimensions.

    Raises:
        TypeError: for what is no such tensor, or one of 8-bit numbers.
        ValueError: for fewer dimensions.
    """
    if not is_dense(x) or not x.is_floating_point() or x.dtype in STORED:
        raise TypeError(f"{name} must be a floating-point tensor, got {describe(x)}")
    if x.ndim < least_dimensions:
        raise ValueError(f"{name} must have at least {least_dimensions} dimensions, got shape {tuple(x.shape)}")
    return x


def check_like(name: str, value: Any, x: Tensor, x_name: str = "x") -> Tensor:
    """`value`, if it is a floating-point tensor of the shape of the state `x`.

    Raises:
        TypeError: for what is no floating-point tensor.
        ValueError: for another shape or device.
    """
    check_state(name, value)
    if value.shape != x.shape:
        raise ValueError(f"{name} must have the shape of {x_name}, {tuple(x.shape)}, got {tuple(value.shape)}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of {x_name}, which is on {x.device}, got {value.device}")
    return value


def check_finite(name: str, value: Any, dtype: torch.dtype | None = None) -> Tensor:
    """`value`, if it is a floating-point tensor without NaN and infinities, also in the `dtype` that is computed in.

    Raises:
        TypeError: for what is not a floating-point tensor.
        ValueError: for NaN or infinity.
    """
    check_state(name, value)
    if not value.is_meta and not bool(torch.isfinite(value.to(dtype or value.dtype)).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity" + (f" in {dtype}" if dtype else ""))
    return value


def check_values(name: str, value: Tensor) -> Tensor:
    """`value`, unless it is on the device meta, where no tensor has values: raises TypeError for that."""
    if value.is_meta:
        raise TypeError(f"{name} must be a tensor with values, got one on the device meta")
    return value


def check_timesteps(timesteps: Any, count: int) -> Tensor:
    """`timesteps`, if they are a tensor of real numbers with one for all or one for each of `count` samples.

    Raises:
        TypeError: for anything but a tensor of integers or floating-point numbers.
        ValueError: for another shape.
    """
    if not is_dense(timesteps) or timesteps.is_complex() or timesteps.dtype == torch.bool:
        raise TypeError(f"timesteps must be a tensor of integers or floating-point numbers, got {describe(timesteps)}")
    if tuple(timesteps.shape) not in {(), (1,), (count,)}:
        raise ValueError(f"timesteps must have shape () or ({count},), got {tuple(timesteps.shape)}")
    return check_values("timesteps", timesteps)


def holds(condition: Tensor) -> bool:
    """Whether a condition holds for all values; True where reading them would wait for a device or break a graph."""
    if condition.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    try:
        return bool(condition.all())
    except RuntimeError:  # inside of torch.vmap, or a tensor without values
        return True


def is_dense(value: Any) -> bool:
    """Whether `value` is a tensor of numbers side by side: not sparse, nested or quantized."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_nested or value.is_quantized)


def describe(value: Any) -> str:
    """What was given, for messages: the dtype of a tensor or an array (and its layout), else the type's name."""
    if isinstance(value, Tensor) and not is_dense(value):
        return f"{'nested' if value.is_nested else value.layout} {value.dtype}"
    if isinstance(value, (Tensor, np.ndarray)):
        return str(value.dtype)
    return value.__name__ if isinstance(value, type) else type(value).__name__


def shown(value: Any, text_of: Callable[[Any], str] = repr) -> str:
    """The `repr` of what was given, for messages: its beginning where it is long, the type where it has none."""
    try:
        text = text_of(value)
    except Exception:  # of a class whose `__repr__` is wrong
        return describe(value)
    return text if len(text) <= LONGEST_REPR else f"{text[:LONGEST_REPR]}..."


def _range(low: float, high: float, ends: str) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(high):
        return f" of at least {low:g}" if ends[0] == "[" else f" greater than {low:g}"
    return f" in {ends[0]}{low:g}, {high:g}{ends[1]}"
