"""Checks of operator and measurement before sampling."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .operators import LinearOperator, inner
from .sde import expand_to


def common_gain(operator: LinearOperator, measurement: Tensor) -> float | None:
    """The number g with A At = g I on the range of A, or None; found with a random one like `measurement`."""
    generator = torch.Generator().manual_seed(0)
    back = operator.At(torch.randn(measurement[:1].shape, generator=generator).to(measurement))
    y = operator.A(back)
    again = operator.A(operator.At(y))
    gain = inner(again, y) / inner(y, y)
    return float(gain) if float((again - expand_to(gain, y) * y).norm()) < 1e-4 * float(again.norm()) else None


def check_operator(operator: LinearOperator, sample_shape: Sequence[int], measurement: Tensor) -> None:
    """Checks an operator on random states and measurements before sampling.

    Args:
        operator: the operator.
        sample_shape: `*D` of a state.
        measurement: (B, *M).

    Raises:
        ValueError: if A x does not have the shape of the measurement, or At is not the adjoint of A.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(measurement), *sample_shape, generator=generator).to(measurement)
    image = operator.A(x)
    if image.shape != measurement.shape:
        raise ValueError(
            f"measurement must have the shape that {type(operator).__name__}.A gives for states of shape "
            f"{tuple(x.shape)}, which is {tuple(image.shape)}, got {tuple(measurement.shape)}"
        )
    y = operator.A(torch.randn(x.shape, generator=generator).to(x))
    back = operator.At(y)
    if back.shape != x.shape:
        raise ValueError(
            f"{type(operator).__name__}.At must give states of shape {tuple(x.shape)}, got {tuple(back.shape)}"
        )
    forth, size = inner(image, y).sum(), image.norm() * y.norm() + x.norm() * back.norm()
    if not bool((forth - inner(x, back).sum()).abs() <= 1e-3 * size):
        raise ValueError(f"{type(operator).__name__}.At is not the adjoint of A: <A x, y> differs from <x, At y>")


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
    if not operator.nonnegative:
        return
    white = operator.A(torch.ones(len(measurement), *sample_shape, dtype=measurement.dtype, device=measurement.device))
    top = float(white.max())
    margin = slack * top + 8 * noise_std
    if float(measurement.max()) > top + margin or float(measurement.min()) < -margin:
        raise ValueError(
            f"measurement must be one of images with values in [0, 1], here from 0 to {top:g}, "
            f"got values from {float(measurement.min()):g} to {float(measurement.max()):g}"
        )
