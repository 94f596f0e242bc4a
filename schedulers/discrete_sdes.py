"""SDEs that read a DDPM table of betas (DDPM, Stable Diffusion) instead of a formula.

Index i of a table of N betas is the time (i + 1) / N, where log alpha = 1/2 sum_{j<=i} log(1 - beta_j). Between these
times a monotone cubic interpolates log alpha, so that an SDE exists at every t.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .beta_schedules import checked_betas
from .checks import as_time
from .sde import SDE, VPSDE, SubVPSDE, finest_dtype
from .transfers import to_device


class BetaTable:
    """log alpha(t) from a DDPM table of betas: the mix-in of the `Discrete...` SDEs.

    Index i of the table is the time (i + 1) / N, where log alpha = 1/2 sum_{j<=i} log(1 - beta_j) exactly; between the
    nodes (t = 0 included) runs a monotone cubic, so that coefficients are continuous and solvers keep their order.

    Args:
        betas: N numbers in (0, 1), first the least noisy step. The last may be 1; its alpha of zero is raised to 2^-12,
            or half of its neighbour if that is less.
    """

    T: float = 1.0

    def __init__(self, betas: Sequence[float] | Tensor):
        table = checked_betas("betas", betas)
        log_alpha = 0.5 * torch.log1p(-table).cumsum(0)
        if table[-1] == 1:
            log_alpha[-1] = min(float(log_alpha[-2]) - math.log(2), -12 * math.log(2))
        self.betas = table
        self.nodes = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), log_alpha])
        self.slopes = _monotone_slopes(self.nodes)

    def _cell(self, t: Tensor) -> tuple[Tensor, ...]:
        # The position u in [0, 1] inside its cell, the two nodes around it and their slopes per cell.
        position = as_time(t, latest=self.T) * len(self.betas)
        cell = position.detach().nan_to_num(0.0).floor().clamp(0, len(self.betas) - 1)
        low = cell.long()
        nodes, slopes = (to_device(table, position.device, position.dtype) for table in (self.nodes, self.slopes))
        # An index of no dimension, `nodes[low]`, would be read: a wait for the device, and a break of a graph.
        return position - cell, *(table[at[None]][0] for table in (nodes, slopes) for at in (low, low + 1))

    def log_alpha(self, t: Tensor) -> Tensor:
        u, left, right, slope_left, slope_right = self._cell(t)
        rise = right - left
        return left + u * (
            slope_left + u * (3 * rise - 2 * slope_left - slope_right + u * (slope_left + slope_right - 2 * rise))
        )

    def beta(self, t: Tensor) -> Tensor:
        """Noise rate beta(t) = -2 d log alpha / dt."""
        u, left, right, slope_left, slope_right = self._cell(t)
        rise = right - left
        slope = slope_left + u * (
            2 * (3 * rise - 2 * slope_left - slope_right) + 3 * u * (slope_left + slope_right - 2 * rise)
        )
        return -2 * len(self.betas) * slope

    def _t_from_integral(self, integral: Tensor) -> Tensor:
        # The cell by search, then Newton on its cubic, kept inside the bracket by bisection where it would leave.
        target = (-0.5 * integral.to(finest_dtype(integral.device))).clamp_min(float(self.nodes[-1]))
        nodes, slopes = (to_device(table, target.device, target.dtype) for table in (self.nodes, self.slopes))
        low = (torch.searchsorted(-nodes, -target) - 1).clamp(0, len(self.betas) - 1)
        start, first, last = nodes[low], slopes[low], slopes[low + 1]
        rise = nodes[low + 1] - start
        square, cube = 3 * rise - 2 * first - last, first + last - 2 * rise
        left, right = torch.zeros_like(target), torch.ones_like(target)
        u = ((target - start) / rise).clamp(0, 1)
        for _ in range(12):
            miss = start + u * (first + u * (square + u * cube)) - target
            left, right = torch.where(miss > 0, u, left), torch.where(miss > 0, right, u)
            newton = u - miss / (first + u * (2 * square + 3 * u * cube))
            u = torch.where((newton >= left) & (newton <= right), newton, 0.5 * (left + right))
        return ((low + u) / len(self.betas)).to(integral.dtype)


def _monotone_slopes(nodes: Tensor) -> Tensor:
    # Central differences, limited as in Fritsch & Carlson (1980) so that the cubic never turns upwards.
    rise = nodes.diff()
    inner = 0.5 * (rise[1:] + rise[:-1])
    slopes = torch.cat([1.5 * rise[:1] - 0.5 * rise[1:2], inner, 1.5 * rise[-1:] - 0.5 * rise[-2:-1]])
    steepest = 3 * torch.cat([rise[:1], torch.maximum(rise[1:], rise[:-1]), rise[-1:]])
    return torch.maximum(slopes, steepest).clamp_max(0)


class DiscreteVPSDE(BetaTable, VPSDE):
    """The VP SDE behind a DDPM table of betas (DDPM, Stable Diffusion: linear, scaled_linear, cosine, trained).

    With it every epsilon-predicting diffusers model is a VP score model: between neighbouring indices the transition is
    N(sqrt(1 - beta_i) x, beta_i I), which is DDPM's forward step.
    """


class DiscreteSubVPSDE(BetaTable, SubVPSDE):
    """The sub-VP SDE with the drift of a DDPM table of betas."""


class DiscreteVESDE(SDE):
    """The VE form of a DDPM table of betas: x / alpha, so that alpha = 1 and sigma = sigma_VP / alpha_VP."""

    def __init__(self, betas: Sequence[float] | Tensor):
        self.vp = DiscreteVPSDE(betas)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(self._time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.vp.log_snr(t))

    def drift_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(self._time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        # d(x / alpha) = g / alpha dw
        return self.vp.diffusion(t) / self.vp.alpha(t)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.vp.t_from_log_snr(log_snr)
