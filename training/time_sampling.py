r"""Densities of the training time t, each as its quantile function: from uniforms u in [0, 1) to times.

A density is a function `(sde, u) -> t`; both of shape (B,), float64. One of your own is a function of two arguments.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..schedulers.checks import check_flag, check_integer, check_number
from ..schedulers.sde import SDE


TimeDensity = Callable[[SDE, Tensor], Tensor]
TABLE_SIZE = 10_001


def _check_smallest(training_eps: float, sde: SDE) -> None:
    if not 0 < training_eps < sde.T:
        raise ValueError(f"training_eps must be a time between 0 and T = {sde.T}, got {training_eps}")


@dataclass(frozen=True)
class UniformTimes:
    """Uniform on [training_eps, T] (Song et al. 2021, eq. 7)."""

    training_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_number("training_eps", self.training_eps, 0, 1, ends="()")

    def __call__(self, sde: SDE, u: Tensor) -> Tensor:
        _check_smallest(self.training_eps, sde)
        return self.training_eps + (sde.T - self.training_eps) * u


@dataclass(frozen=True)
class ImportanceTimes:
    r"""Density proportional to g^2 / sigma^2 on [training_eps, T].

    The importance sampling of likelihood-weighted training (Song, Durkan, Murray and Ermon 2021, "Maximum Likelihood
    Training of Score-Based Diffusion Models", section 5). With Z the integral of g^2 / sigma^2, the weighting
    `sigma^2 Z / (T - training_eps)` makes the expected loss that of g^2 under uniform times.
    """

    training_eps: float = 1e-5
    _tables: weakref.WeakKeyDictionary[SDE, tuple[np.ndarray, np.ndarray, float]] = field(
        default_factory=weakref.WeakKeyDictionary, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_number("training_eps", self.training_eps, 0, 1, ends="()")

    def _table(self, sde: SDE) -> tuple[np.ndarray, np.ndarray, float]:
        """The cumulative distribution, its nodes in log t (where the density is smooth) and Z."""
        if sde not in self._tables:
            _check_smallest(self.training_eps, sde)
            log_t = torch.linspace(math.log(self.training_eps), math.log(sde.T), TABLE_SIZE, dtype=torch.float64)
            t = log_t.exp().clamp(max=sde.T)
            density = t * (sde.diffusion(t) / sde.sigma(t)).square()
            cells = 0.5 * (density[1:] + density[:-1]) * log_t.diff()
            cumulative = torch.cat([cells.new_zeros(1), cells.cumsum(0)])
            total = float(cumulative[-1])
            self._tables[sde] = (cumulative / total).numpy(), log_t.numpy(), total
        return self._tables[sde]

    def normalizer(self, sde: SDE) -> float:
        """Z, the integral of g^2 / sigma^2 over [training_eps, T]."""
        return self._table(sde)[2]

    def __call__(self, sde: SDE, u: Tensor) -> Tensor:
        cumulative, log_t, _ = self._table(sde)
        t = torch.from_numpy(np.exp(np.interp(u.cpu().numpy(), cumulative, log_t)))
        return t.to(u.device).clamp(self.training_eps, sde.T)

    def weighting(self, sde: SDE, t: Tensor) -> Tensor:
        """lambda(t) = sigma^2 Z / (T - training_eps)."""
        return sde.sigma(t).square() * (self.normalizer(sde) / (sde.T - self.training_eps))


@dataclass(frozen=True)
class LogNormalTimes:
    r"""Log-normal noise level: log(sigma / alpha) ~ N(P_mean, P_std^2), truncated to the levels of [training_eps, T].

    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1.
    """

    P_mean: float = -1.2
    P_std: float = 1.2
    training_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_number("P_mean", self.P_mean)
        check_number("P_std", self.P_std, 0, ends="()")
        check_number("training_eps", self.training_eps, 0, 1, ends="()")

    def __call__(self, sde: SDE, u: Tensor) -> Tensor:
        _check_smallest(self.training_eps, sde)
        ends = torch.tensor([self.training_eps, sde.T], dtype=torch.float64, device=u.device)
        low, high = torch.special.ndtr((-0.5 * sde.log_snr(ends) - self.P_mean) / self.P_std)
        log_ratio = self.P_mean + self.P_std * torch.special.ndtri(low + (high - low) * u)
        return sde.t_from_log_snr(-2 * log_ratio).clamp(self.training_eps, sde.T)


@dataclass(frozen=True)
class IndexTimes:
    """Uniform over N noise levels: the times i / (N - 1) of SMLD, or (i + 1) / N of a DDPM table.

    Args:
        num_train_timesteps: N, at least 2.
        from_zero: whether the first level is t = 0 (SMLD: sigma_min) or T / N (DDPM: the first beta).
    """

    num_train_timesteps: int = 1000
    from_zero: bool = False

    def __post_init__(self) -> None:
        check_integer("num_train_timesteps", self.num_train_timesteps, 2)
        check_flag("from_zero", self.from_zero)

    def __call__(self, sde: SDE, u: Tensor) -> Tensor:
        if self.from_zero and not float(sde.sigma(torch.zeros((), dtype=torch.float64))) > 0:
            raise ValueError("the smld objective needs an SDE with sigma(0) > 0 (VE), got sigma(0) = 0")
        index = (u * self.num_train_timesteps).floor().clamp_max(self.num_train_timesteps - 1)
        steps = index / (self.num_train_timesteps - 1) if self.from_zero else (index + 1) / self.num_train_timesteps
        return sde.T * steps
