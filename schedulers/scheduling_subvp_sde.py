"""The sub-VP SDE as a diffusers scheduler."""

import numpy as np
from diffusers.configuration_utils import register_to_config

from .beta_schedules import beta_table, continuous_betas
from .discrete_sdes import DiscreteSubVPSDE
from .scheduling_sde import SDEScheduler
from .sde import DATA_STD, SDE, SubVPSDE


class SubVPSDEScheduler(SDEScheduler):
    """Predictor-corrector sampling of the sub-VP SDE (paper eq. 12); the network's timestep is 999 t.

    Args:
        beta_start (`float`), beta_end (`float`): beta(t) runs from `num_train_timesteps * beta_start` to
            `num_train_timesteps * beta_end`.
        beta_schedule (`str`): "linear"; the sub-VP SDE of the paper is continuous.
        trained_betas (`list`, *optional*): a table of betas whose interpolation replaces the linear beta(t).

    The other arguments are those of `SDEScheduler`.

    Example:

    ```python
    >>> from scoresde_pipelines import SubVPSDEScheduler
    >>> scheduler = SubVPSDEScheduler(corrector="langevin", snr=0.1)
    >>> scheduler.sde.beta_max
    20.0
    ```
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        prediction_type: str = "epsilon",
        predictor: str | None = "reverse_diffusion",
        corrector: str | None = None,
        snr: float = 0.16,
        correct_steps: int = 1,
        batch_mean_norm: bool = False,
        sampling_eps: float = 1e-3,
        timestep_spacing: str | None = None,
        prologue: bool = False,
        sigma_data: float = DATA_STD,
        data_mean: float | list[float] = 0.0,
        learned_steps: dict[str, dict[str, list]] | None = None,
        last_noise_level: float = 0.0,
        multistep_order: int | None = None,
    ):
        self.betas = beta_table(self.config)
        self.setup()

    def make_sde(self) -> SDE:
        if self.config.trained_betas is not None:
            return DiscreteSubVPSDE(self.betas)
        return SubVPSDE(*continuous_betas(self.config))
