r"""Predictors: one step of the reverse process from t to s < t.

A predictor is a function `(sde, x, score, t, s) -> (mean, std)`: given the state `x` of shape (B, *D), the score at (x, t)
and two times (0-dim float64 tensors), the next state is `mean + std * noise`. A `std` of zero draws no noise. With the
kernel (scale, d) = `sde.transition(t, s)`, the functions of this file are

    Euler-Maruyama      mean = x + (f x - g^2 score) (s - t)        std = g sqrt(t - s)              (paper eq. 6)
    reverse diffusion   mean = (2 - scale) x + d^2 score            std = d                          (appendix E, eq. 45-46)
    ancestral           mean = (x + d^2 score) / scale              std = d sigma_s / sigma_t        (appendix F; DDPM)
    ancestral, large    mean = (x + d^2 score) / scale              std = d                          (DDPM's beta)
    probability flow    mean = x + (f x - g^2 score / 2) (s - t)    std = 0                          (paper eq. 13)
    exponential         mean = alpha_s E[x_0|x] + sigma_s E[z|x]    std = 0                          (DDIM: Song et al. 2021)

all first order in the step. The exponential predictor solves the probability-flow ODE exactly wherever the denoised image
does not change.

A predictor with a memory, with several evaluations per level or with a last step of its own is an object with more members:
see `Predictor`. Examples are `multistep.ExponentialMultistep`, `restart.Restart` and `heun.Heun`.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from .adams_bashforth import ExponentialAdamsBashforth
from .checks import check_choice, check_function, check_order
from .heun import Heun
from .learned_steps import LearnedSteps
from .multistep import ExponentialMultistep
from .restart import Restart
from .sde import SDE
from .step_checks import check_step


class Predictor(Protocol):
    """One step of the reverse process. A function with this signature is enough.

    These members are used where an object has them:

    - `start()`: called when a sampling run is planned; an object with a memory clears it there. A copy of a
      scheduler gets a copy of such an object, so that two runs never share a memory.
    - `grid(sde, n, smallest_time) -> TimeGrid`: the time grid that the predictor is made for, used where the scheduler's
      `timestep_spacing` is `None`; `smallest_time` is the first time that the network was trained at. Its levels may
      increase where the predictor returns a state at the larger level (`restart.Restart`).
    - `prepare(sde, levels)`: called before `start`, with the times of all levels of the run, shape (n,).
    - `data_std`: set by a scheduler that makes the predictor by its name: the standard deviation of the data.
    - `denoise(sde, x, score, t) -> x_0`: the last step, from the last noise level to the clean image; E[x_0 | x] without it.
    - `times(sde, t, s) -> list of times`: for more than one network call per level, their times (`t` and `s` have shape
      (n,) there). The predictor is called after each, with the score at the state that it returned last, and with
      `evaluation=i` as a further argument from the second on (i = 1, ...); `t` and `s` are the two ends of the step every
      time. The last level takes one evaluation, which goes to `denoise`.
    """

    def __call__(self, sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, *D) and standard deviation () of the state at `s`, from the state `x` (B, *D) at `t` and its score."""
        ...


def euler_maruyama(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Euler-Maruyama on the reverse-time SDE (paper eq. 6)."""
    t, s = check_order(*check_step(sde, x, score, t, s))
    g = sde.diffusion(t)
    return x + (sde.drift(x, t) - g**2 * score) * (s - t), g * torch.sqrt(t - s)


def reverse_diffusion(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The forward kernel's discretisation, reversed (paper appendix E, eq. 45-46)."""
    t, s = check_step(sde, x, score, t, s)
    scale, std = sde.transition(t, s)
    return (2 - scale) * x + std**2 * score, std


def ancestral(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """A draw from p(x_s | x_t, x_0 = E[x_0 | x_t]) (paper appendix F, eq. 47; DDPM with its smaller variance)."""
    mean, std = ancestral_large(sde, x, score, t, s)
    return mean, std * sde.sigma(s) / sde.sigma(t)


def ancestral_large(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Ancestral sampling with the forward step's variance (paper eq. 4; DDPM's "fixed_large")."""
    t, s = check_step(sde, x, score, t, s)
    scale, std = sde.transition(t, s)
    return (x + std**2 * score) / scale, std


def probability_flow_euler(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Euler on the probability-flow ODE (paper eq. 13)."""
    t, s = check_step(sde, x, score, t, s)
    return x + (sde.drift(x, t) - 0.5 * sde.diffusion(t) ** 2 * score) * (s - t), torch.zeros_like(t)


def exponential(sde: SDE, x: Tensor, score: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """First-order exponential integrator of the probability-flow ODE (DDIM)."""
    t, s = check_step(sde, x, score, t, s)
    noise = -sde.sigma(t) * score
    return sde.alpha(s) * sde.denoise(x, score, t) + sde.sigma(s) * noise, torch.zeros_like(t)


#: By name; a class is instantiated for every scheduler, which then has a memory of its own.
PREDICTORS: dict[str, Any] = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "ancestral_large": ancestral_large,
    "probability_flow": probability_flow_euler,
    "exponential": exponential,
    "exponential_multistep": ExponentialMultistep,
    "exponential_adams_bashforth": ExponentialAdamsBashforth,
    "restart": Restart,
    "learned_steps": LearnedSteps,
    "heun": Heun,
}


def has_own_grid(predictor: Any) -> bool:
    """Whether the predictor, or that of a name, recommends a time grid."""
    return hasattr(PREDICTORS.get(predictor) if isinstance(predictor, str) else predictor, "grid")


def make_predictor(predictor: str | Predictor, **settings: Any) -> Predictor:
    """The predictor of a name, with those of a scheduler's `settings` that it has, or the given one.

    Raises:
        ValueError: for an unknown name.
        TypeError: for what is neither a name nor callable.
    """
    if not isinstance(predictor, str):
        if not callable(predictor):
            raise TypeError(f"predictor must be None, a name or a function, got {type(predictor).__name__}")
        check_function("predictor", predictor, 5)
        return predictor
    check_choice("predictor", predictor, PREDICTORS)
    found = PREDICTORS[predictor]
    if not isinstance(found, type):
        return found
    made = found()
    for key, value in settings.items():
        if hasattr(made, key):
            setattr(made, key, value)
    return made
