r"""Predictors: one step of the reverse process from t to s < t.

A predictor is a function ``(sde, x, score, t, s) -> (mean, std)``: given the state `x` of shape (B, *D), the score at
(x, t) and two times (0-dim float64 tensors), the next state is ``mean + std * noise``. A `std` of zero draws no noise.
With (scale, d) the kernel ``sde.transition(t, s)``, all of them are first order in the step:

    Euler-Maruyama      mean = x + (f x - g^2 score) (s - t)        std = g sqrt(t - s)              (paper eq. 6)
    reverse diffusion   mean = (2 - scale) x + d^2 score            std = d                          (appendix E, eq. 45-46)
    ancestral           mean = (x + d^2 score) / scale              std = d sigma_s / sigma_t        (appendix F; DDPM)
    ancestral, large    mean = (x + d^2 score) / scale              std = d                          (DDPM's beta)
    probability flow    mean = x + (f x - g^2 score / 2) (s - t)    std = 0                          (paper eq. 13)
    exponential         mean = alpha_s E[x_0|x] + sigma_s E[z|x]    std = 0                          (DDIM: Song et al. 2021)

The exponential predictor solves the probability-flow ODE exactly wherever the denoised image does not move.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .sde import SDE


Predictor = Callable[[SDE, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def euler_maruyama(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Euler-Maruyama on the reverse-time SDE (paper eq. 6)."""
    g = sde.diffusion(t)
    return x + (sde.drift(x, t) - g**2 * score) * (s - t), g * torch.sqrt(t - s)


def reverse_diffusion(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The forward kernel's discretisation, reversed (paper appendix E, eq. 45-46)."""
    scale, std = sde.transition(t, s)
    return (2 - scale) * x + std**2 * score, std


def ancestral(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """A draw from p(x_s | x_t, x_0 = E[x_0 | x_t]) (paper appendix F, eq. 47; DDPM with its smaller variance)."""
    mean, std = ancestral_large(sde, x, score, t, s)
    return mean, std * sde.sigma(s) / sde.sigma(t)


def ancestral_large(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Ancestral sampling with the forward step's variance (paper eq. 4; DDPM's "fixed_large")."""
    scale, std = sde.transition(t, s)
    return (x + std**2 * score) / scale, std


def probability_flow_euler(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Euler on the probability-flow ODE (paper eq. 13)."""
    return x + (sde.drift(x, t) - 0.5 * sde.diffusion(t) ** 2 * score) * (s - t), torch.zeros_like(t)


def exponential(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """First-order exponential integrator of the probability-flow ODE (DDIM)."""
    noise = -sde.sigma(t) * score
    return sde.alpha(s) * sde.denoise(x, score, t) + sde.sigma(s) * noise, torch.zeros_like(t)


PREDICTORS: dict[str, Predictor] = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "ancestral_large": ancestral_large,
    "probability_flow": probability_flow_euler,
    "exponential": exponential,
}
