"""Checks of what predictors and correctors take and return. They read no value: no step waits for the device."""

from typing import Any

from torch import Tensor

from .checks import as_real, check_instance, check_like, check_number, check_state, check_time
from .score_function import check_score
from .sde import SDE


LARGEST_SNR = 100.0  # a Langevin step of this size has no signal left


def check_scored(sde: Any, x: Any, score: Any, t: Any) -> Tensor:
    """The time `t` as a tensor, if the arguments fit together.

    Args:
        sde: the SDE.
        x: states (B, *D).
        score: their score, same shape.
        t: their time, () or (B,).

    Raises:
        TypeError, ValueError: for an argument of another type or shape, naming it.
    """
    check_instance("sde", sde, SDE)
    check_like("score", score, check_state("x", x))
    return check_time("t", t, x, latest=sde.T)


def check_step(sde: Any, x: Any, score: Any, t: Any, s: Any) -> tuple[Tensor, Tensor]:
    """The times of a step from `t` to `s` as tensors of one number, if the arguments fit together, as in `check_scored`."""
    times = check_scored(sde, x, score, t), check_time("s", s, x)
    for name, time in zip("ts", times):
        if time.numel() != 1 and time.shape != x.shape:
            raise ValueError(f"{name} must have shape (), one time for all samples, got {tuple(time.shape)}")
    t, s = (time if time.shape == x.shape else time.reshape(()) for time in times)
    return t, s


def check_noisy_step(sde: Any, x: Any, score: Any, t: Any, noise: Any, snr: Any) -> tuple[float, Tensor]:
    """`snr` and `t` of a corrector's step with this noise (B, *D), if the arguments fit together, as in `check_scored`."""
    t = check_scored(sde, x, score, t)
    check_like("noise", noise, x)
    return check_number("snr", snr, 0, LARGEST_SNR, ends="(]"), t


def check_prediction(result: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, *D) and standard deviation, () or (B, 1, ...), that a predictor returned at the states `x`.

    Raises:
        TypeError, ValueError: for anything else, naming `predictor`.
    """
    mean, std = _pair("predictor", result)
    check_score(mean, x, "predictor")
    std = as_real("the standard deviation of predictor", std)
    if std.ndim and std.shape != (len(x), *(1,) * (x.ndim - 1)):
        raise ValueError(f"predictor must return a standard deviation () or (B, 1, ...), got {tuple(std.shape)}")
    return mean, std


def check_correction(result: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and state (B, *D) that a corrector returned at the states `x`.

    Raises:
        TypeError, ValueError: for anything else, naming `corrector`.
    """
    mean, state = _pair("corrector", result)
    return check_score(mean, x, "corrector"), check_score(state, x, "corrector")


def _pair(name: str, result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"{name} must return a pair of tensors, got {type(result).__name__}")
    return result
