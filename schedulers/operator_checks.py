"""Checks of operator and measurement before sampling."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import check_finite, check_function, check_instance, check_integer, check_number
from .linear_operator import LinearOperator, apply
from .linear_systems import inner
from .sde import LARGEST_SIGMA, SDE, expand_to


def gram_factor(operator: LinearOperator, measurement: Tensor) -> float | None:
    """The number g with A At = g I on the range of A, or None; found with a random one like `measurement`."""
    generator = torch.Generator().manual_seed(0)
    back = apply(operator, "At", torch.randn(measurement[:1].shape, generator=generator, device="cpu").to(measurement))
    y = apply(operator, "A", back)
    again = apply(operator, "A", apply(operator, "At", y))
    if y.shape != measurement[:1].shape:
        raise ValueError(
            f"measurement must have a shape that {type(operator).__name__}.A gives, got {tuple(measurement.shape)}"
        )
    gain = inner(again, y) / inner(y, y)
    return float(gain) if float((again - expand_to(gain, y) * y).norm()) < 1e-4 * float(again.norm()) else None


def check_condition(score_fn: Any, sde: Any, operator: Any, y: Any) -> None:
    """Raises TypeError or ValueError, naming the argument, for what a posterior cannot be made of."""
    check_function("score_fn", score_fn)
    check_instance("sde", sde, SDE)
    check_instance("operator", operator, LinearOperator)
    check_measurement("y", y)
    _check_adjoint(operator, y)


def _check_adjoint(operator: LinearOperator, y: Tensor) -> None:
    # On the range of At, as the shape of the states is not known.
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(y.shape, generator=generator, device="cpu").to(y) for _ in range(2))
    x = apply(operator, "At", first)
    image, back = apply(operator, "A", x), apply(operator, "At", second)
    if image.shape != y.shape:
        raise ValueError(
            f"y must have the shape that operator {type(operator).__name__}.A gives, got {tuple(y.shape)}"
        )
    _compare(
        operator,
        inner(image, second).sum() - inner(x, back).sum(),
        image.norm() * second.norm() + x.norm() * back.norm(),
    )


def _compare(operator: LinearOperator, difference: Tensor, size: Tensor) -> None:
    if not bool(difference.abs() <= 1e-3 * size):
        raise ValueError(
            f"operator {type(operator).__name__}.At is not the adjoint of A: <A x, y> differs from <x, At y>"
        )


def check_measurement(name: str, y: Any) -> Tensor:
    """`y`, if it is a measurement: a finite floating-point tensor (B, *M).

    Raises:
        TypeError, ValueError: for anything else.
    """
    check_finite(name, y)
    if y.ndim < 2 or not y.numel() or y.is_meta:
        raise ValueError(f"{name} must hold at least one measurement (B, *M), got {tuple(y.shape)} on {y.device}")
    return y


def misfit(operator: LinearOperator, y: Tensor, x: Tensor) -> Tensor:
    """y - A x, shape (B, *M), of the states `x` (B, *D).

    Raises:
        TypeError, ValueError: if A x is no measurement like `y`.
    """
    image = apply(operator, "A", x)
    if image.shape != y.shape:
        raise ValueError(
            f"y of shape {tuple(y.shape)} must have the shape that operator {type(operator).__name__}.A gives for x of "
            f"shape {tuple(x.shape)}, got {tuple(image.shape)}"
        )
    return y - image


def check_operator(operator: LinearOperator, sample_shape: Sequence[int], measurement: Tensor) -> None:
    """Checks an operator on random states and measurements before sampling.

    Args:
        operator: the operator.
        sample_shape: `*D` of a state.
        measurement: (B, *M).

    Raises:
        TypeError, ValueError: for an argument of another type.
        ValueError: if A x does not have the shape of the measurement, or At is not the adjoint of A.
    """
    _check_arguments(operator, sample_shape, measurement)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(measurement), *sample_shape, generator=generator, device="cpu").to(measurement)
    image = apply(operator, "A", x)
    if image.shape != measurement.shape:
        raise ValueError(
            f"measurement must have the shape that {type(operator).__name__}.A gives for states of shape "
            f"{tuple(x.shape)}, which is {tuple(image.shape)}, got {tuple(measurement.shape)}"
        )
    y = apply(operator, "A", torch.randn(x.shape, generator=generator, device="cpu").to(x))
    back = apply(operator, "At", y)
    if back.shape != x.shape:
        raise ValueError(
            f"operator {type(operator).__name__}.At must give states of shape {tuple(x.shape)}, got {tuple(back.shape)}"
        )
    difference = inner(image, y).sum() - inner(x, back).sum()
    _compare(operator, difference, image.norm() * y.norm() + x.norm() * back.norm())


def check_range(
    operator: LinearOperator, sample_shape: Sequence[int], measurement: Tensor, noise_std: float, slack: float = 10.0
) -> None:
    """Raises ValueError where the measurement is far from those of images in [0, 1]: 8-bit values, or images in [-1, 1].

    Args:
        operator: the operator; nothing is checked unless it is `nonnegative`.
        sample_shape: `*D` of a state.
        measurement: (B, *M), in image units.
        noise_std: standard deviation of its noise.
        slack: how far beyond the measurements of black and white it may be, as a share of their difference; models of
            unbounded data (`GaussianScoreModel`) have values outside of [0, 1] as well.
    """
    _check_arguments(operator, sample_shape, measurement)
    check_number("noise_std", noise_std, 0, LARGEST_SIGMA)
    check_number("slack", slack, 0)
    if not operator.nonnegative:
        return
    ones = torch.ones(len(measurement), *sample_shape, dtype=measurement.dtype, device=measurement.device)
    white = apply(operator, "A", ones)
    if white.shape != measurement.shape:
        raise ValueError(f"measurement must have the shape {tuple(white.shape)}, got {tuple(measurement.shape)}")
    top = float(white.max())
    margin = slack * top + 8 * noise_std
    if float(measurement.max()) > top + margin or float(measurement.min()) < -margin:
        raise ValueError(
            f"measurement must be one of images with values in [0, 1], here from 0 to {top:g}, "
            f"got values from {float(measurement.min()):g} to {float(measurement.max()):g}"
        )


def _check_arguments(operator: Any, sample_shape: Any, measurement: Any) -> None:
    check_instance("operator", operator, LinearOperator)
    if not isinstance(sample_shape, Sequence) or isinstance(sample_shape, (str, bytes)) or not len(sample_shape):
        raise TypeError(f"sample_shape must be a sequence of integers, got {sample_shape!r}")
    for size in sample_shape:
        check_integer("sample_shape", size, most=2**31)
    check_measurement("measurement", measurement)
