"""From any diffusers scheduler to the SDE scheduler with the same noise schedule, by its configuration."""

from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .schedulers import SDEScheduler, VESDEScheduler, VPSDEScheduler


SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


def to_sde_scheduler(scheduler: Any) -> SDEScheduler:
    """The SDE scheduler of a stock scheduler's configuration; an SDE scheduler is returned as it is.

    DDPMScheduler becomes ancestral sampling, DDIMScheduler the exponential predictor, ScoreSdeVeScheduler reverse
    diffusion with Langevin correction; any other scheduler with a table of betas keeps that table.

    Args:
        scheduler: an `SDEScheduler` or a diffusers scheduler.

    Raises:
        TypeError: if it is not a scheduler.
        ValueError: if its configuration describes no SDE of this package (flow matching, for example).
    """
    if isinstance(scheduler, SDEScheduler):
        return scheduler
    if not isinstance(scheduler, SchedulerMixin) or not isinstance(scheduler, ConfigMixin):
        raise TypeError(f"scheduler must be a diffusers scheduler, got {type(scheduler).__name__}")
    config, name = scheduler.config, type(scheduler).__name__
    if name == "ScoreSdeVeScheduler":
        return VESDEScheduler.from_config(config)
    if name == "ScoreSdeVpScheduler":
        n = config["num_train_timesteps"]
        return VPSDEScheduler(
            num_train_timesteps=n,
            beta_start=config["beta_min"] / n,
            beta_end=config["beta_max"] / n,
            sampling_eps=config["sampling_eps"],
            continuous=True,
        )
    if "beta_start" in config:
        # Named one by one: `from_config` drops what was at the source's own default, which may differ from ours.
        overrides = {key: config[key] for key in SCHEDULE_KEYS if key in config}
        if name == "DDIMScheduler" and "predictor" not in config:
            overrides["predictor"] = "exponential"
        return VPSDEScheduler.from_config(config, **overrides)
    raise ValueError(
        f"{name} has no table of betas and is no score SDE: pass a VESDEScheduler, VPSDEScheduler or SubVPSDEScheduler "
        "with the noise schedule that the network was trained on"
    )
