r"""All conversions between a network's output and the score, and between the SDE's time and the network's.

With x = alpha x_0 + sigma z a network may be trained to predict

    score         grad log p_t(x) = -z / sigma          (the official VE networks)
    epsilon       z                                     (DDPM, the official VP and sub-VP networks)
    sample        x_0
    v_prediction  alpha z - sigma x_0                   (Salimans & Ho 2022; here for any alpha and sigma)
    edm           F, the preconditioned network of Karras et al. (2022), table 1, for any alpha and sigma:

        E[x_0 | x] = m + d^2 / h^2 y + r d / h F(y / h, time),    y = x / alpha - m,  r = sigma / alpha,  h^2 = d^2 + r^2

where d = `sigma_data` and m = `data_mean` describe the data. With F = 0 this is the exact denoiser of N(m, d^2 I). Input and
target of F have unit variance at every noise level, and the mean squared error of F is EDM's weighted loss.

The time argument of a network is `sigma` (the ratio sigma / alpha, VE), `scaled` (999 t, continuous VP and sub-VP) or
`index` (N t - 1, the index into a DDPM table of N betas).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .checks import (
    as_time,
    check_choice,
    check_instance,
    check_integer,
    check_like,
    check_number,
    check_numbers,
    check_state,
    check_time,
)
from .sde import DATA_STD, LARGEST_SIGMA, SDE, SMALLEST_SIGMA, expand_to, finest_dtype
from .step_checks import check_scored
from .transfers import to_device


PREDICTION_TYPES = ("score", "epsilon", "sample", "v_prediction", "edm")
TIME_CONVENTIONS = ("sigma", "scaled", "index")
TIME_SCALE = 999.0


@dataclass(frozen=True)
class Parameterization:
    """What a network predicts, its input, and its time argument.

    Args:
        prediction_type: "score", "epsilon", "sample", "v_prediction" or "edm".
        time: "sigma", "scaled" or "index".
        num_train_timesteps: N of the convention "index".
        sigma_data: standard deviation of the data; "edm" alone uses it.
        data_mean: mean of the data, one number or one per channel; "edm" alone uses it.

    Raises:
        TypeError, ValueError: for an unknown name, a `sigma_data` that is not positive or a `data_mean` that is not finite.
    """

    prediction_type: str = "epsilon"
    time: str = "scaled"
    num_train_timesteps: int = 1000
    sigma_data: float = DATA_STD
    data_mean: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)
        check_choice("time", self.time, TIME_CONVENTIONS)
        check_integer("num_train_timesteps", self.num_train_timesteps, most=10**7)
        largest = LARGEST_SIGMA
        sigma_data = check_number("sigma_data", self.sigma_data, SMALLEST_SIGMA, largest)
        several = isinstance(self.data_mean, (list, tuple))
        check_mean: Any = check_numbers if several else check_number
        object.__setattr__(self, "sigma_data", sigma_data)
        object.__setattr__(self, "data_mean", check_mean("data_mean", self.data_mean, -largest, largest))

    # ------------------------------------------------------------------ time

    def network_time(self, sde: SDE, t: Tensor) -> Tensor:
        """The network's time argument for the SDE's time `t`; same shape and dtype."""
        check_instance("sde", sde, SDE)
        t = as_time(t, latest=sde.T)
        if self.time == "sigma":
            return sde.noise_ratio(t)
        if self.time == "scaled":
            return TIME_SCALE * t
        return (t * self.num_train_timesteps - 1).clamp_min(0)

    def t_from_network_time(self, sde: SDE, time: Tensor) -> Tensor:
        """The SDE's time for a network's time argument (the inverse of `network_time`), in `finest_dtype`."""
        check_instance("sde", sde, SDE)
        time = as_time(time, "time")
        time = time.to(finest_dtype(time.device))
        if self.time == "sigma":
            return sde.t_from_log_snr(-2 * torch.log(time))
        if self.time == "scaled":
            return time / TIME_SCALE
        return (time + 1) / self.num_train_timesteps

    # ------------------------------------------------------------------ the network's input

    def input(self, sde: SDE, x: Tensor, t: Tensor) -> Tensor:
        """The network's input for the state `x` (B, *D) at `t`, () or (B,): y / h for "edm", else `x` itself."""
        return self._edm(sde, x, t)[0] if self.prediction_type == "edm" else x

    def state(self, sde: SDE, network_input: Tensor, t: Tensor) -> Tensor:
        """The state (B, *D) whose `input` is `network_input`."""
        if self.prediction_type != "edm":
            return network_input
        _, _, scale, alpha = self._edm(sde, network_input, t)
        return alpha * (network_input * scale + self._mean(network_input))

    # ------------------------------------------------------------------ the network's output

    def score(self, sde: SDE, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The score grad log p_t(x), shape of the state `x`, from the network's output; `t` of shape () or (B,)."""
        check_instance("sde", sde, SDE)
        check_like("output", output, check_state("x", x))
        t = check_time("t", t, x, latest=sde.T)
        if self.prediction_type == "score":
            return output
        if self.prediction_type == "edm":
            scaled, ratio, scale, alpha = self._edm(sde, x, t)
            return (self.sigma_data / ratio * output - scaled) / (alpha * scale)
        alpha, sigma = _coefficients(sde, x, t)
        if self.prediction_type == "epsilon":
            return -output / sigma
        if self.prediction_type == "sample":
            return (alpha * output - x) / sigma**2
        return -(alpha * output / sigma + x) / (alpha**2 + sigma**2)

    def output(self, sde: SDE, score: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The output of a network whose score is `score`: the inverse of the method `score`, used by analytic models."""
        t = check_scored(sde, x, score, t)
        if self.prediction_type == "score":
            return score
        if self.prediction_type == "edm":
            scaled, ratio, scale, alpha = self._edm(sde, x, t)
            return (alpha * scale * score + scaled) * ratio / self.sigma_data
        alpha, sigma = _coefficients(sde, x, t)
        if self.prediction_type == "epsilon":
            return -sigma * score
        if self.prediction_type == "sample":
            return (x + sigma**2 * score) / alpha
        return -sigma * ((alpha**2 + sigma**2) * score + x) / alpha

    def target(self, sde: SDE, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The regression target of a network for the clean image `x0` and the noise z, shape of `x0`."""
        check_instance("sde", sde, SDE)
        check_like("noise", noise, check_state("x0", x0), "x0")
        t = check_time("t", t, x0, "x0", sde.T)
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x0
        if self.prediction_type == "edm":
            _, ratio, scale, _ = self._edm(sde, x0, t)
            return (ratio / self.sigma_data * (x0 - self._mean(x0)) - self.sigma_data * noise) / scale
        alpha, sigma = _coefficients(sde, x0, t)
        if self.prediction_type == "score":
            return -noise / sigma
        return alpha * noise - sigma * x0

    # ------------------------------------------------------------------ inside

    def _edm(self, sde: SDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # y / h, r, h and alpha; the last three broadcast against x.
        t = as_time(t, latest=sde.T)
        ratio, alpha = expand_to(sde.noise_ratio(t), x), expand_to(sde.alpha(t), x)
        scale = torch.sqrt(self.sigma_data**2 + ratio**2)
        return (x / alpha - self._mean(x)) / scale, ratio, scale, alpha

    def _mean(self, x: Tensor) -> Tensor:
        mean = torch.as_tensor(self.data_mean, dtype=x.dtype, device="cpu")
        if mean.ndim == 0:
            return mean
        if len(mean) != x.shape[1]:
            raise ValueError(f"data_mean must have one number per channel, {x.shape[1]}, got {len(mean)}")
        return to_device(mean, x.device).reshape(-1, *(1,) * (x.ndim - 2))


def _coefficients(sde: SDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # alpha and sigma in a form that broadcasts against x.
    return expand_to(sde.alpha(t), x), expand_to(sde.sigma(t), x)
