"""The variance-exploding SDE as a diffusers scheduler."""

import numpy as np
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from .beta_schedules import SMALLEST_BETA, checked_betas
from .checks import check_timesteps
from .discrete_sdes import DiscreteVESDE
from .scheduling_sde import SDEScheduler
from .sde import DATA_STD, SDE, VESDE


class VESDEScheduler(SDEScheduler):
    """Predictor-corrector sampling of the VE SDE (paper eq. 9 and 30); the network's timestep is sigma.

    Defaults are those of diffusers' ScoreSdeVeScheduler, so that its configurations (google/ncsnpp-*) keep their
    meaning: reverse diffusion with one Langevin step per noise level. The step size of the default corrector is a function
    of t alone; `corrector="langevin"` is the paper's, with the bias that `schedulers/correctors.py` states.

    Args:
        sigma_min (`float`): noise at t = 0.
        sigma_max (`float`): noise at t = 1, the standard deviation of the prior.
        trained_betas (`list`, *optional*): a DDPM table instead of `sigma_min` and `sigma_max`, in its VE form.

    The other arguments are those of `SDEScheduler`.

    Example:

    ```python
    >>> from scoresde_pipelines import VESDEScheduler
    >>> scheduler = VESDEScheduler(sigma_max=50.0, snr=0.16)
    >>> scheduler.set_timesteps(1000)
    >>> scheduler.order, len(scheduler.timesteps)
    (2, 2000)
    ```
    """

    time_convention = "sigma"
    data_range = (0.0, 1.0)

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 2000,
        snr: float = 0.15,
        sigma_min: float = 0.01,
        sigma_max: float = 1348.0,
        sampling_eps: float = 1e-5,
        correct_steps: int = 1,
        prediction_type: str = "score",
        predictor: str | None = "reverse_diffusion",
        corrector: str | None = "annealed_langevin",
        batch_mean_norm: bool = False,
        timestep_spacing: str | None = None,
        prologue: bool = False,
        trained_betas: np.ndarray | list[float] | None = None,
        sigma_data: float = DATA_STD,
        data_mean: float | list[float] = 0.0,
        learned_steps: dict[str, dict[str, list]] | None = None,
        last_noise_level: float = 0.0,
        multistep_order: int | None = None,
    ):
        if trained_betas is not None:
            self.betas = checked_betas("trained_betas", trained_betas, SMALLEST_BETA).float()
        self.setup()

    def make_sde(self) -> SDE:
        if self.config.trained_betas is not None:
            return DiscreteVESDE(self.betas)
        return VESDE(self.config.sigma_min, self.config.sigma_max)

    def _time_of(self, timesteps: Tensor, samples: Tensor) -> Tensor:
        if not check_timesteps(timesteps, len(samples)).is_floating_point():
            raise ValueError(
                "timesteps must be noise levels sigma in floating point (entries of scheduler.timesteps) for a VE "
                f"scheduler, got {timesteps.dtype}"
            )
        return super()._time_of(timesteps, samples)
