"""The variance-preserving SDE as a diffusers scheduler."""

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from .beta_schedules import beta_table, continuous_betas
from .checks import check_choice, check_flag
from .discrete_sdes import DiscreteVPSDE
from .predictors import Predictor
from .scheduling_sde import SDEScheduler
from .sde import DATA_STD, SDE, VPSDE


VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")


class VPSDEScheduler(SDEScheduler):
    """Predictor-corrector sampling of the VP SDE (paper eq. 11 and 32).

    The beta arguments have exactly DDPMScheduler's names and defaults, so that its configurations keep their meaning.

    Args:
        beta_start (`float`), beta_end (`float`), beta_schedule (`str`), trained_betas (`list`, *optional*): DDPM's
            table of betas; "linear", "scaled_linear", "squaredcos_cap_v2" or "sigmoid".
        variance_type (`str`): which variance the "ancestral" predictor uses, DDPM's "fixed_small" or "fixed_large".
        rescale_betas_zero_snr (`bool`): rescale the table to zero terminal SNR.
        continuous (`bool`): `False` interpolates the table, and the network's timestep is an index into it (DDPM,
            Stable Diffusion). `True` is the paper's closed form beta(t) = N beta_start + t N (beta_end - beta_start), and
            the network's timestep is 999 t.

    The other arguments are those of `SDEScheduler`.

    Example:

    ```python
    >>> from diffusers import DDPMScheduler
    >>> from scoresde_pipelines import VPSDEScheduler
    >>> scheduler = VPSDEScheduler.from_config(DDPMScheduler().config, corrector="langevin", snr=0.01)
    >>> scheduler.order
    2
    ```
    """

    # The continuous SDE too: the table of the same config is its discretisation, off by O(1 / N).
    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        variance_type: str = "fixed_small",
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        continuous: bool = False,
        predictor: str | None = "ancestral",
        corrector: str | None = None,
        snr: float = 0.01,
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
        check_choice("variance_type", variance_type, VARIANCE_TYPES)
        check_flag("continuous", continuous)
        self.betas = beta_table(self.config)
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas, dim=0)
        self.time_convention = "scaled" if continuous else "index"
        self.setup()

    def make_sde(self) -> SDE:
        if self.config.continuous:
            return VPSDE(*continuous_betas(self.config))
        return DiscreteVPSDE(self.betas)

    def _make_predictor(self, predictor: str | Predictor | None) -> Predictor | None:
        large = (
            isinstance(predictor, str)
            and predictor == "ancestral"
            and self.config.variance_type.startswith("fixed_large")
        )
        return super()._make_predictor("ancestral_large" if large else predictor)

    @property
    def smallest_time(self) -> float:
        """The last time at which the network is called; a table's first index is at 1 / N."""
        eps = float(self.config.sampling_eps)
        return eps if self.config.continuous else max(eps, 1.0 / len(self.betas))
