"""The former place of `to_sde_scheduler`, which leaves with the next release."""

import warnings

from .schedulers.scheduling_conversion import to_sde_scheduler


warnings.warn(
    "scoresde_pipelines.scheduler_coercion leaves with the next release: import to_sde_scheduler from "
    "scoresde_pipelines.schedulers",
    FutureWarning,
    stacklevel=2,
)

__all__ = ["to_sde_scheduler"]
