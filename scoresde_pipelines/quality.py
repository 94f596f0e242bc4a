"""Presets of the pipelines: which sampler and how many network calls, where the user and the scheduler chose none.

The figures of each preset are in docs/samplers.md.
"""

import copy
from dataclasses import dataclass
from typing import Any

from .schedulers import SDEScheduler
from .schedulers.checks import check_choice
from .schedulers.predictors import has_own_grid
from .schedulers.scheduling_config import OWN_SPACING, SAMPLER_KEYS


LARGEST_SCALE_OF_HIGH_ORDER, STABLE_ORDER = 4.0, 2


@dataclass(frozen=True)
class SamplerPreset:
    """A sampler and its number of noise levels.

    Attributes:
        predictor, corrector, timestep_spacing: of the scheduler.
        levels: for images.
        posterior_levels: for images given a measurement, where a level takes three evaluations.
    """

    predictor: str
    corrector: str | None
    timestep_spacing: str | None
    levels: int
    posterior_levels: int


#: "paper" is the predictor-corrector sampler of Song et al. (2021), with two network calls per level.
QUALITIES = {
    "draft": SamplerPreset("restart", None, None, levels=20, posterior_levels=8),
    "default": SamplerPreset("restart", None, None, levels=100, posterior_levels=35),
    "paper": SamplerPreset("reverse_diffusion", "langevin", "linspace", levels=1000, posterior_levels=1000),
}


def choose_sampler(
    scheduler: SDEScheduler,
    quality: str | None,
    num_inference_steps: int | None,
    *,
    posterior: bool = False,
    own_levels: int = 1000,
) -> tuple[SDEScheduler, int]:
    """The scheduler that samples, and its number of noise levels.

    A `quality` other than "default" replaces the scheduler's sampler. Without it, `num_inference_steps` means that many
    levels of the scheduler as it is, and with neither a scheduler whose configuration names a sampler keeps it.

    Args:
        scheduler: the pipeline's; it stays as it is.
        quality: a key of `QUALITIES`.
        num_inference_steps: wins over the number of the preset.
        posterior: whether the images are drawn given a measurement.
        own_levels: the number of levels of a scheduler that keeps its sampler, unless that has a grid of its own. The others
            are first order: with as few levels as a preset they are 5 to 40 % off (docs/samplers.md).

    Raises:
        ValueError: for an unknown `quality`.
    """
    check_choice("quality", quality, QUALITIES, optional=True)
    preset = QUALITIES[quality or "default"]
    levels = preset.posterior_levels if posterior else preset.levels
    as_it_is = quality is None and num_inference_steps is not None
    if as_it_is or (quality in (None, "default") and names_its_sampler(scheduler)):
        default = levels if has_own_grid(scheduler.predictor) else own_levels
        return scheduler, default if num_inference_steps is None else num_inference_steps
    chosen = copy.copy(scheduler)
    # The predictor first: the scheduler's own may not take the grid of the preset.
    chosen.register_to_config(timestep_spacing=preset.timestep_spacing)
    chosen.predictor = preset.predictor
    chosen.corrector = preset.corrector
    return chosen, levels if num_inference_steps is None else num_inference_steps


def stable_under_guidance(scheduler: SDEScheduler, guidance_scale: float) -> SDEScheduler:
    """The scheduler, or a copy with multistep steps of order two where the guidance scale is large.

    Higher orders diverge there (docs/samplers.md). A `multistep_order` of the configuration is kept.
    """
    config, order = scheduler.config, getattr(scheduler.predictor, "order", 1)
    own = config.get("multistep_order") is not None or not isinstance(config.predictor, str)
    if guidance_scale <= LARGEST_SCALE_OF_HIGH_ORDER or own or order <= STABLE_ORDER:
        return scheduler
    stable = copy.copy(scheduler)
    stable.register_to_config(multistep_order=STABLE_ORDER)
    stable.predictor = config.predictor
    return stable


def names_its_sampler(scheduler: Any) -> bool:
    """Whether somebody chose the predictor, the corrector or the time grid of this scheduler."""
    config = scheduler.config
    return config.get(OWN_SPACING) is not None or bool({*SAMPLER_KEYS} - {*config.get("_use_default_values", [])})
