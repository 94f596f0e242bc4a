"""The one place where a network's output becomes a score, and a time becomes what the network is told.

With x = alpha x_0 + sigma z a network may be trained to predict

    score         grad log p_t(x) = -z / sigma          (the official VE networks)
    epsilon       z                                     (DDPM, the official VP and sub-VP networks)
    sample        x_0
    v_prediction  alpha z - sigma x_0                   (Salimans & Ho 2022; here for any alpha and sigma)

and is told the time as ``sigma`` (the noise-to-signal ratio sigma / alpha, VE), ``scaled`` (999 t, continuous VP and
sub-VP) or ``index`` (N t - 1, the index into a DDPM table of N betas).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_choice
from .sde import SDE, as_time, expand_to


PREDICTION_TYPES = ("score", "epsilon", "sample", "v_prediction")
TIME_CONVENTIONS = ("sigma", "scaled", "index")
TIME_SCALE = 999.0


@dataclass(frozen=True)
class Parameterization:
    """What a network predicts and what it is told as its time.

    Args:
        prediction_type: "score", "epsilon", "sample" or "v_prediction".
        time: "sigma", "scaled" or "index".
        num_train_timesteps: N of the convention "index".

    Raises:
        ValueError: for a name that is not in these lists.
    """

    prediction_type: str = "epsilon"
    time: str = "scaled"
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)
        check_choice("time", self.time, TIME_CONVENTIONS)

    def network_time(self, sde: SDE, t: Tensor) -> Tensor:
        """What the network is told for the SDE's time `t`; same shape and dtype."""
        t = as_time(t)
        if self.time == "sigma":
            return sde.noise_ratio(t)
        if self.time == "scaled":
            return TIME_SCALE * t
        return (t * self.num_train_timesteps - 1).clamp_min(0)

    def t_from_network_time(self, sde: SDE, time: Tensor) -> Tensor:
        """The SDE's time for what a network is told (the inverse of `network_time`), float64."""
        time = as_time(time).to(torch.float64)
        if self.time == "sigma":
            return sde.t_from_log_snr(-2 * torch.log(time))
        if self.time == "scaled":
            return time / TIME_SCALE
        return (time + 1) / self.num_train_timesteps

    def score(self, sde: SDE, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The score grad log p_t(x), shape of `x`, from the network's output; `t` of shape () or (B,)."""
        if self.prediction_type == "score":
            return output
        alpha, sigma = expand_to(sde.alpha(as_time(t)), x), expand_to(sde.sigma(as_time(t)), x)
        if self.prediction_type == "epsilon":
            return -output / sigma
        if self.prediction_type == "sample":
            return (alpha * output - x) / sigma**2
        return -(alpha * output / sigma + x) / (alpha**2 + sigma**2)

    def output(self, sde: SDE, score: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The output of a network whose score is `score` (the inverse of `score`)."""
        if self.prediction_type == "score":
            return score
        alpha, sigma = expand_to(sde.alpha(as_time(t)), x), expand_to(sde.sigma(as_time(t)), x)
        if self.prediction_type == "epsilon":
            return -sigma * score
        if self.prediction_type == "sample":
            return (x + sigma**2 * score) / alpha
        return -sigma * ((alpha**2 + sigma**2) * score + x) / alpha

    def target(self, sde: SDE, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The regression target of a network for the clean image `x0` and the noise z, shape of `x0`."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x0
        alpha, sigma = expand_to(sde.alpha(as_time(t)), x0), expand_to(sde.sigma(as_time(t)), x0)
        if self.prediction_type == "score":
            return -noise / sigma
        return alpha * noise - sigma * x0
