r"""From the density of a continuous model to the probability of an image with discrete pixels.

Each of the `levels` values of a pixel is an interval of the model's range, and the probability of an image is the model's
mass in its cell, a cube of D dimensions. With noise x ~ q inside the cell,

    log P(image) >= E_q[log p(x) - log q(x)],      bits/dim = -log2 P / D,

whatever the data range: the width of a cell enters through q, and no offset is added. Averages of p / q over K draws inside
the logarithm give a tighter bound (importance weighting; Burda et al. 2016).

    none              x is the centre of the cell, p the density there times the cell's volume (no bound)
    uniform           x uniform in the cell, taken to be at t = sampling_eps (the paper)
    truncated_normal  x = alpha centre + sigma n at the time when the noise fills the cell, |n| <= 3 (Zheng et al. 2023):
                      the model gets noise like that of its training
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_flag, check_integer, check_number
from .sde import LARGEST_SIGMA, SDE, finest_dtype


# Half the width of a cell in standard deviations of the truncated noise.
TRUNCATION = 3.0


@dataclass(frozen=True)
class PixelCells:
    """How pixel values tile the range of a model's data.

    Args:
        data_min, data_max: the values that the lowest and the highest pixel had in training.
        levels: number of pixel values.
        official: cells of width 1 / levels from `data_min` on, as in the official evaluation ((255 x + u) / 256), instead of
            cells of width 1 / (levels - 1) centred on the training values.
    """

    data_min: float
    data_max: float
    levels: int = 256
    official: bool = False

    def __post_init__(self) -> None:
        check_number("data_min", self.data_min, -LARGEST_SIGMA, LARGEST_SIGMA)
        check_number("data_max", self.data_max, -LARGEST_SIGMA, LARGEST_SIGMA)
        if not self.data_min < self.data_max:
            raise ValueError(f"data_min must be less than data_max, got {self.data_min} and {self.data_max}")
        check_integer("levels", self.levels, 2, 2**32)
        check_flag("official", self.official)

    @property
    def width(self) -> float:
        """Width of a cell in the units of the model's data."""
        return (self.data_max - self.data_min) / (self.levels if self.official else self.levels - 1)

    def centres(self, pixels: Tensor) -> Tensor:
        """Centres of the cells of integer `pixels` (B, *D) from 0 to levels - 1, float64.

        Raises:
            TypeError: for pixels that are not integers.
            ValueError: for pixels out of their range.
        """
        if not isinstance(pixels, Tensor):
            raise TypeError(f"pixels must be a tensor of integers, got {type(pixels).__name__}")
        if pixels.is_floating_point() or pixels.is_complex() or pixels.dtype == torch.bool or pixels.is_meta:
            raise TypeError(f"pixels must be integers, got {pixels.dtype} on {pixels.device}")
        if pixels.layout != torch.strided:
            raise TypeError(f"pixels must be a dense tensor, got {pixels.layout}")
        if pixels.numel() and not (int(pixels.min()) >= 0 and int(pixels.max()) < self.levels):
            raise ValueError(
                f"pixels must lie in 0 ... {self.levels - 1}, got {int(pixels.min())} to {int(pixels.max())}"
            )
        return self.data_min + self.width * (pixels.double() + (0.5 if self.official else 0.0))


@dataclass
class Dequantized:
    """Noisy images inside their cells.

    Args:
        x: (B, *D), float64, at the time `t`.
        t: time at which the flow starts.
        log_q: log density of the noise in nats, (B,).
        slope: gradient of log q at x, (B, *D).
        spread: c such that any function f of the noise has a variance of at most c^2 E|grad f|^2 (Poincare's inequality).
    """

    x: Tensor
    t: float
    log_q: Tensor
    slope: Tensor
    spread: float

    def single_draw_error(self, score: Tensor) -> Tensor:
        """Upper bound (in expectation) on the spread of log p - log q over draws, from one draw; (B,), nats.

        Args:
            score: gradient of log p at x, (B, *D).
        """
        return self.spread * (score.cpu().to(self.slope) - self.slope).flatten(1).norm(dim=1)


Dequantization = Callable[[SDE, Tensor, float, float, Sequence[torch.Generator]], Dequantized]


def none(
    sde: SDE, centres: Tensor, width: float, sampling_eps: float, generators: Sequence[torch.Generator]
) -> Dequantized:
    """No noise: the centre of each cell, with the cell's volume."""
    volume = centres[0].numel() * math.log(width)
    log_q = torch.full((len(centres),), -volume, dtype=torch.float64, device="cpu")
    return Dequantized(centres, sampling_eps, log_q, torch.zeros_like(centres), 0.0)


def uniform(
    sde: SDE, centres: Tensor, width: float, sampling_eps: float, generators: Sequence[torch.Generator]
) -> Dequantized:
    """Uniform noise in the cell (the paper's)."""
    still = none(sde, centres, width, sampling_eps, generators)
    x = centres + width * (_uniform(centres, generators) - 0.5)
    return Dequantized(x, sampling_eps, still.log_q, still.slope, width / math.pi)


def truncated_normal(
    sde: SDE, centres: Tensor, width: float, sampling_eps: float, generators: Sequence[torch.Generator]
) -> Dequantized:
    """The forward process' noise, truncated to the cell, at the time when it fills the cell, or `sampling_eps` if later."""
    ratio = torch.tensor(width / (2 * TRUNCATION), dtype=torch.float64, device="cpu")
    t = max(sampling_eps, float(sde.t_from_log_snr(-2 * torch.log(ratio))))
    time = torch.tensor(t, dtype=torch.float64, device="cpu")
    alpha, sigma = float(sde.alpha(time)), float(sde.sigma(time))
    mass = math.erf(alpha * width / (2 * sigma) / math.sqrt(2))
    noise = math.sqrt(2) * torch.erfinv((2 * _uniform(centres, generators) - 1) * mass)
    log_q = -0.5 * noise.square().flatten(1).sum(1)
    log_q -= centres[0].numel() * (0.5 * math.log(2 * math.pi) + math.log(sigma) + math.log(mass))
    return Dequantized(alpha * centres + sigma * noise, t, log_q.cpu(), -noise / sigma, sigma)


DEQUANTIZATIONS: dict[str, Dequantization] = {
    "none": none,
    "uniform": uniform,
    "truncated_normal": truncated_normal,
}


def _uniform(x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    draws = [
        torch.rand(x.shape[1:], generator=g, device=g.device, dtype=finest_dtype(g.device)).cpu() for g in generators
    ]
    return torch.stack(draws).to(x)
