"""Ranges of numbers on a command line, checked without torch, so that a slip is refused at once.

The messages are those of `schedulers.checks`, which checks the arguments of functions; a test compares them.
"""

import math


MOST = 2**31 - 1  # of a number of images, steps or channels


def check_integer_range(name: str, value: int, least: int = 1, most: int = MOST) -> None:
    """Raises ValueError unless `value` lies from `least` to `most`."""
    if not least <= value <= most:
        wanted = f"from {least} to {most}" if most < MOST or value > most else f"of at least {least}"
        raise ValueError(f"{name} must be an integer {wanted}, got {value!r}")


def check_number_range(name: str, value: float, low: float, high: float, ends: str) -> None:
    """Raises ValueError unless `value` is finite and lies from `low` to `high`; `ends` as in `schedulers.checks`."""
    above = low <= value if ends[0] == "[" else low < value
    below = value <= high if ends[1] == "]" else value < high
    if math.isfinite(value) and above and below:
        return
    wanted = f" in {ends[0]}{low:g}, {high:g}{ends[1]}"
    if math.isinf(high):
        wanted = "" if math.isinf(low) else f" {'of at least' if ends[0] == '[' else 'greater than'} {low:g}"
    raise ValueError(f"{name} must be a finite number{wanted}, got {value!r}")
