"""The former place of `to_sde_scheduler`, which leaves with the next release."""

from .schedulers.scheduling_conversion import to_sde_scheduler


__all__ = ["to_sde_scheduler"]
