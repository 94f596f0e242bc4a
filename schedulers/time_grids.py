"""Time grids: at which times the network is called, and where each step goes.

A grid is a function `(sde, n, sampling_eps) -> TimeGrid` with n levels from T down to about `sampling_eps`, float64 on the
CPU. From the last level the samplers step to the clean image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import as_time, check_instance, check_integer, check_number
from .sde import SDE, SMALLEST_TIME


MOST_LEVELS = 10**7  # more do not fit into memory with what a run keeps for each


@dataclass(frozen=True)
class TimeGrid:
    """The times of a sampling run.

    Args:
        levels: (n,) times, decreasing, at which the network is called.
        targets: (n,) the time that the predictor steps to from each level.
        denoise: whether the last step is the exact denoising E[x_0 | x]; else it is the mean of the predictor's step.
    """

    levels: Tensor
    targets: Tensor
    denoise: bool = True

    @classmethod
    def through(cls, levels: Tensor) -> "TimeGrid":
        """The grid that steps from each level to the next and ends by denoising."""
        return cls(levels, torch.cat([levels[1:], torch.zeros_like(levels[:1])]))


def uniform(sde: SDE, n: int, sampling_eps: float) -> TimeGrid:
    """n times from T to sampling_eps, evenly spaced (diffusers' "linspace")."""
    n, sampling_eps = _checked(sde, n, sampling_eps)
    return TimeGrid.through(torch.linspace(sde.T, sampling_eps, n, dtype=torch.float64, device="cpu"))


def leading(sde: SDE, n: int, sampling_eps: float) -> TimeGrid:
    """sampling_eps + T k / n for k = n-1 ... 0: diffusers' "leading", which starts below T."""
    n, sampling_eps = _checked(sde, n, sampling_eps)
    steps = torch.arange(n - 1, -1, -1, dtype=torch.float64, device="cpu")
    return TimeGrid.through(sampling_eps + steps * (sde.T / n))


def trailing(sde: SDE, n: int, sampling_eps: float) -> TimeGrid:
    """T k / n for k = n ... 1: diffusers' "trailing"."""
    n, sampling_eps = _checked(sde, n, sampling_eps)
    return TimeGrid.through(torch.arange(n, 0, -1, dtype=torch.float64, device="cpu") * (sde.T / n))


def log_snr(sde: SDE, n: int, sampling_eps: float) -> TimeGrid:
    """n times from T to sampling_eps at which log-SNR is evenly spaced (Lu et al. 2022)."""
    n, sampling_eps = _checked(sde, n, sampling_eps)
    ends = sde.log_snr(as_time(sde.T)), sde.log_snr(as_time(sampling_eps))
    steps = torch.linspace(0, 1, n, dtype=torch.float64, device="cpu")
    return TimeGrid.through(_pin_ends(sde, sde.t_from_log_snr(torch.lerp(*ends, steps)), sampling_eps))


def karras(sde: SDE, n: int, sampling_eps: float, rho: float = 7.0) -> TimeGrid:
    """n times from T to sampling_eps at which (sigma / alpha)^(1 / rho) is evenly spaced (Karras et al. 2022, eq. 5)."""
    n, sampling_eps = _checked(sde, n, sampling_eps)
    first, last = (torch.exp(-0.5 * sde.log_snr(as_time(end)) / rho) for end in (sde.T, sampling_eps))
    ratio = torch.lerp(first, last, torch.linspace(0, 1, n, dtype=torch.float64, device="cpu"))
    return TimeGrid.through(_pin_ends(sde, sde.t_from_log_snr(-2 * rho * torch.log(ratio)), sampling_eps))


def official(sde: SDE, n: int, sampling_eps: float) -> TimeGrid:
    """The official code's grid: `uniform`'s times with steps of T / n; the result is the mean of the last step."""
    n, sampling_eps = _checked(sde, n, sampling_eps)
    levels = torch.linspace(sde.T, sampling_eps, n, dtype=torch.float64, device="cpu")
    return TimeGrid(levels, levels - sde.T / n, denoise=False)


def _checked(sde: SDE, n: int, sampling_eps: float) -> tuple[int, float]:
    check_instance("sde", sde, SDE)
    return check_integer("n", n, most=MOST_LEVELS), check_number(
        "sampling_eps", sampling_eps, SMALLEST_TIME, sde.T, ends="[)"
    )


def _pin_ends(sde: SDE, levels: Tensor, sampling_eps: float) -> Tensor:
    # The inverse of log-SNR rounds; the ends must be T and `sampling_eps` exactly.
    levels[-1], levels[0] = sampling_eps, sde.T
    return levels


TIME_GRIDS: dict[str, Callable[[SDE, int, float], TimeGrid]] = {
    "linspace": uniform,
    "leading": leading,
    "trailing": trailing,
    "log_snr": log_snr,
    "karras": karras,
    "official": official,
}
