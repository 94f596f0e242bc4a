r"""What is minimised: a density of the training times and a weighting of the squared error of the score.

    E_t  lambda(t) E |s(x_t, t) - grad log p(x_t | x_0)|^2,      t ~ `times`,   lambda = `weighting`

| name                    | times                           | lambda(t)                                    |
|-------------------------|---------------------------------|----------------------------------------------|
| `score_matching`        | uniform                         | sigma^2 (Song et al. 2021, eq. 7)            |
| `likelihood`            | uniform                         | g^2 (Song, Durkan et al. 2021)               |
| `likelihood_importance` | proportional to g^2 / sigma^2   | the same expected loss with less variance    |
| `edm`                   | log-normal noise level          | plain mean square of EDM's network output    |
| `min_snr`               | uniform                         | sigma^2 min(1, gamma / SNR) (Hang et al. 2023) |
| `smld`                  | N noise levels                  | sigma^2 (eq. 1)                              |
| `ddpm`                  | N entries of a table of betas   | sigma^2: the noise prediction (eq. 3)        |

An objective of your own:

    from scoresde_pipelines.training.objectives import Objective

    def soft(sde, t):
        return sde.sigma(t) ** 2 / (1 + sde.sigma(t) ** 2)

    Trainer(args, objective=Objective(soft)).train()
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ..schedulers.checks import check_choice, check_integer, check_number
from ..schedulers.sde import SDE
from .time_sampling import ImportanceTimes, IndexTimes, LogNormalTimes, TimeDensity, UniformTimes


Weighting = Callable[[SDE, Tensor], Tensor]


def score_matching(sde: SDE, t: Tensor) -> Tensor:
    """lambda = sigma^2 (Song et al. 2021, section 3.3): every time counts alike in units of the noise."""
    return sde.sigma(t).square()


def likelihood(sde: SDE, t: Tensor) -> Tensor:
    """lambda = g^2 (Song, Durkan et al. 2021, theorem 1): the bound on the log-likelihood."""
    return sde.diffusion(t).square()


@dataclass(frozen=True)
class EDMWeighting:
    r"""lambda = sigma^2 (r^2 + sigma_data^2) / sigma_data^2 with r = sigma / alpha.

    For a network with `prediction_type="edm"` the loss is then the plain mean square of its output's error
    (Karras et al. 2022, table 1: (r^2 + sigma_data^2) / (r sigma_data)^2 on the denoised image).
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_number("sigma_data", self.sigma_data, 0, ends="()")

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        variance = sde.sigma(t).square()
        return variance * (1 + variance / (sde.alpha(t) * self.sigma_data).square())


@dataclass(frozen=True)
class MinSNR:
    """lambda = sigma^2 min(1, gamma / SNR) with SNR = alpha^2 / sigma^2: min(SNR, gamma) on the denoised image.

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, 0, ends="()")

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.sigma(t).square() * (self.gamma * (-sde.log_snr(t)).exp()).clamp_max(1.0)


@dataclass(frozen=True)
class Objective:
    """What a training run minimises.

    Args:
        weighting: `(sde, t) -> lambda`, both tensors of shape (B,), float64.
        times: `(sde, u) -> t`, the quantile function of the times' density; u uniform in [0, 1), shape (B,), float64.
        name: shown in the model card.
    """

    weighting: Weighting = score_matching
    times: TimeDensity = field(default_factory=UniformTimes)
    name: str = "custom"


@dataclass(frozen=True)
class ObjectiveOptions:
    """Options of the objectives that have a name.

    Args:
        training_eps: smallest time of the continuous objectives.
        sigma_data: standard deviation of the data ("edm").
        P_mean, P_std: mean and standard deviation of the log noise level ("edm").
        snr_gamma: largest weight, as a signal-to-noise ratio ("min_snr").
        num_train_timesteps: number of noise levels ("smld", "ddpm").
    """

    training_eps: float = 1e-5
    sigma_data: float = 0.5
    P_mean: float = -1.2
    P_std: float = 1.2
    snr_gamma: float = 5.0
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        check_number("training_eps", self.training_eps, 0, 1, ends="()")
        for name in ("sigma_data", "P_std", "snr_gamma"):
            check_number(name, getattr(self, name), 0, ends="()")
        check_number("P_mean", self.P_mean)
        check_integer("num_train_timesteps", self.num_train_timesteps, 2)


def _importance(options: ObjectiveOptions) -> Objective:
    times = ImportanceTimes(options.training_eps)
    return Objective(times.weighting, times)


def _edm(options: ObjectiveOptions) -> Objective:
    times = LogNormalTimes(options.P_mean, options.P_std, options.training_eps)
    return Objective(EDMWeighting(options.sigma_data), times)


OBJECTIVES: dict[str, Callable[[ObjectiveOptions], Objective]] = {
    "score_matching": lambda o: Objective(score_matching, UniformTimes(o.training_eps)),
    "likelihood": lambda o: Objective(likelihood, UniformTimes(o.training_eps)),
    "likelihood_importance": _importance,
    "edm": _edm,
    "min_snr": lambda o: Objective(MinSNR(o.snr_gamma), UniformTimes(o.training_eps)),
    "smld": lambda o: Objective(score_matching, IndexTimes(o.num_train_timesteps, from_zero=True)),
    "ddpm": lambda o: Objective(score_matching, IndexTimes(o.num_train_timesteps)),
}


def make_objective(name: str, options: ObjectiveOptions | None = None) -> Objective:
    """The objective of this name.

    Raises:
        ValueError: there is none of this name, or an option is out of its range.
    """
    check_choice("name", name, OBJECTIVES)
    if options is not None and not isinstance(options, ObjectiveOptions):
        raise TypeError(f"options must be ObjectiveOptions or None, got {type(options).__name__}")
    made = OBJECTIVES[name](options or ObjectiveOptions())
    return Objective(made.weighting, made.times, name)
