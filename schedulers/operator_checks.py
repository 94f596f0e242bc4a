"""Checks of operator and measurement before sampling."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import check_finite, check_function, check_instance, check_integer, check_number, shown
from .linear_operator import LinearOperator, apply
from .linear_systems import inner
from .sde import LARGEST_SIGMA, SDE, finest_dtype


PROBES = 2
TOLERANCE = 1e-3  # relative; TF32 and half-precision kernels round to about that


def gram_factor(operator: LinearOperator, measurement: Tensor) -> float | None:
    """The number g with A At = g I on the range of A, or None; found with a random one like `measurement`."""
    y, again = _seen_again(operator, measurement)
    if y.shape != measurement.shape:
        raise ValueError(
            f"measurement must have a shape that {type(operator).__name__}.A gives, got {tuple(measurement.shape)}"
        )
    y, again = y.to(_finest(y)), again.to(_finest(y))
    gain = inner(again, y).sum() / inner(y, y).sum()
    return float(gain) if float((again - gain * y).norm()) < 1e-4 * float(again.norm()) else None


def check_condition(score_fn: Any, sde: Any, operator: Any, y: Any) -> None:
    """Raises TypeError or ValueError, naming the argument, for what a posterior cannot be made of."""
    check_function("score_fn", score_fn, 2)
    check_constraint(sde, operator, y, "y")


def check_constraint(sde: Any, operator: Any, y: Any, name: str) -> None:
    """The same of a constraint, which has no score; `name` is that of the measurement `y`."""
    check_instance("sde", sde, SDE)
    check_instance("operator", operator, LinearOperator)
    check_measurement(name, y)
    generator = torch.Generator().manual_seed(1)
    state = apply(operator, "At", _normal(y.shape, generator, y))
    image = apply(operator, "A", state)
    if image.shape != y.shape:
        raise ValueError(
            f"{name} must have the shape that operator {type(operator).__name__}.A gives, got {tuple(y.shape)}"
        )
    _check_adjoint(operator, y, state.shape)


def _normal(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(*shape, generator=generator, device="cpu").to(like)


@torch.no_grad()
def _check_adjoint(operator: LinearOperator, y: Tensor, shape: Sequence[int]) -> None:
    """Raises ValueError unless <A x, y> = <x, At y> for each sample, for states of `shape` and measurements like `y`.

    Random x and y alone find a wrong block, or a transposed matrix, and y = A x a wrong scale or sign.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(PROBES):
        x = _normal(shape, generator, y)
        image = apply(operator, "A", x)
        largest = image.abs().max().clamp_min(torch.finfo(y.dtype).tiny)
        for one in (_normal(y.shape, generator, y), image / largest):
            _compare(operator, (image, one), (x, _state(operator, one, shape)))
    _check_gram(operator, y)


def _state(operator: LinearOperator, y: Tensor, shape: Sequence[int]) -> Tensor:
    state = apply(operator, "At", y)
    if state.shape != torch.Size(shape):
        raise ValueError(
            f"operator {type(operator).__name__}.At must give states of shape {tuple(shape)}, got {tuple(state.shape)}"
        )
    return state


def _compare(operator: LinearOperator, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> None:
    # The products of random x and y are sums of terms with random signs, of about the size of the norm of the terms: the
    # norms of the factors would be larger by the square root of their number, and let a wrong scale pass.
    first, second = ((a.to(_finest(a)) * b.to(_finest(b))).flatten(1) for a, b in (left, right))
    size = first.norm(dim=1) + second.norm(dim=1)
    if not bool(((first.sum(1) - second.sum(1)).abs() <= _tolerance(left[0]) * size).all()):
        raise ValueError(
            f"operator {type(operator).__name__}.At is not the adjoint of A: <A x, y> differs from <x, At y>"
        )
    if not bool(size.any()):
        raise ValueError(f"operator {type(operator).__name__}.A must measure something, got zeros for random states")


def _check_gram(operator: LinearOperator, y: Tensor) -> None:
    """Raises TypeError or ValueError if the operator's `gram` is not what it promises."""
    if operator.gram is None:
        return
    name = f"operator {type(operator).__name__}.gram"
    gain = check_number(name, operator.gram, 0, ends="()")
    image, again = (value.to(_finest(value)).flatten(1) for value in _seen_again(operator, y))
    if not bool(((again - gain * image).norm(dim=1) <= _tolerance(y) * gain * image.norm(dim=1)).all()):
        raise ValueError(f"{name} must be the number g with A At = g I on the range of A, got {shown(operator.gram)}")


def _seen_again(operator: LinearOperator, y: Tensor) -> tuple[Tensor, Tensor]:
    """A random measurement like `y`, and A At of it."""
    generator = torch.Generator().manual_seed(0)
    image = apply(operator, "A", apply(operator, "At", _normal(y.shape, generator, y)))
    return image, apply(operator, "A", apply(operator, "At", image))


def _finest(x: Tensor) -> torch.dtype:
    return finest_dtype(x.device)


def _tolerance(x: Tensor) -> float:
    return max(TOLERANCE, 16 * torch.finfo(x.dtype).eps)


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
        ValueError: if A x does not have the shape of the measurement, At is not the adjoint of A, or `gram` is wrong.
    """
    _check_arguments(operator, sample_shape, measurement)
    shape = (len(measurement), *sample_shape)
    image = apply(operator, "A", torch.zeros(shape, dtype=measurement.dtype, device=measurement.device))
    if image.shape != measurement.shape:
        raise ValueError(
            f"measurement must have the shape that {type(operator).__name__}.A gives for states of shape "
            f"{shape}, which is {tuple(image.shape)}, got {tuple(measurement.shape)}"
        )
    _check_adjoint(operator, measurement, shape)


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
    noise_std = check_number("noise_std", noise_std, 0, LARGEST_SIGMA)
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
        raise TypeError(f"sample_shape must be a sequence of integers, got {shown(sample_shape)}")
    for size in sample_shape:
        check_integer("sample_shape", size, most=2**31)
    check_measurement("measurement", measurement)
