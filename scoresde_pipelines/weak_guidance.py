"""Autoguidance of a pipeline: a weak network beside its own (see `schedulers/autoguidance.py`)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .models.config_checks import height_and_width
from .pipeline_components import check_components
from .schedulers import SDE, AutoGuidance, SDEScheduler
from .schedulers.checks import check_number, shown
from .schedulers.guidance_scale import check_interval
from .schedulers.score_function import ScoreFunction
from .schedulers.sde import LARGEST_SIGMA


DEFAULT_SCALE = 2.0


@dataclass(frozen=True)
class WeakGuidance:
    """The weak network of a run, and how it guides.

    Attributes:
        unet: the weak network.
        scale: see `AutoGuidance`.
        interval: noise ratios between which the scale acts; `None` is everywhere.
    """

    unet: Any
    scale: float
    interval: tuple[float, float] | None

    def guide(self, score_fn: ScoreFunction, weak_score_fn: ScoreFunction, sde: SDE) -> AutoGuidance:
        """`score_fn` guided by the weak network's score."""
        return AutoGuidance(score_fn, weak_score_fn, self.scale, self.interval, sde.noise_ratio)


def check_weak_guidance(
    weak_unet: Any,
    scale: float | None,
    interval: tuple[float, float] | None,
    unet: Any,
    scheduler: SDEScheduler,
    device: torch.device,
) -> WeakGuidance | None:
    """The arguments `weak_unet`, `weak_guidance_scale` and `weak_guidance_interval` of a call; None without a weak network.

    Args:
        unet, scheduler: of the pipeline.
        device: where the pipeline runs.

    Raises:
        TypeError, ValueError: for an argument out of its range, or a network for other images, of another SDE or elsewhere.
    """
    if weak_unet is None:
        for name, value in (("weak_guidance_scale", scale), ("weak_guidance_interval", interval)):
            if value is not None:
                raise ValueError(f"{name} must be None without a weak_unet, got {shown(value)}")
        return None
    check_components(weak_unet, scheduler, "weak_unet")
    if not isinstance(weak_unet, nn.Module):
        raise TypeError(f"weak_unet must be a torch.nn.Module, got {type(weak_unet).__name__}")
    expected, got = _shape(unet), _shape(weak_unet)
    if expected != got:
        raise ValueError(f"weak_unet must be made for images of shape {expected} as unet is, got one for {got}")
    place = next((parameter.device for parameter in weak_unet.parameters()), device)
    if not hasattr(weak_unet, "_hf_hook") and not _same_device(place, device):  # hooks of accelerate move the inputs
        raise ValueError(f"weak_unet must be on the device of the pipeline, {device}, got one on {place}")
    value = check_number("weak_guidance_scale", DEFAULT_SCALE if scale is None else scale, 0, LARGEST_SIGMA)
    if interval is not None:
        interval = check_interval("weak_guidance_interval", interval)
    return WeakGuidance(weak_unet, value, interval)


def check_weak_classes(weak: WeakGuidance | None, unet: Any) -> None:
    """Raises ValueError unless the weak network knows as many classes as the network does."""
    if weak is None:
        return
    expected, got = (getattr(network.config, "num_class_embeds", None) for network in (unet, weak.unet))
    if expected != got:
        raise ValueError(f"weak_unet must know {expected} classes (num_class_embeds) as unet does, got {got}")


def _shape(unet: Any) -> tuple[int, ...]:
    size = unet.config.sample_size
    return (unet.config.in_channels, *(height_and_width(size) if size else ()))


def _same_device(first: torch.device, second: torch.device) -> bool:
    return first.type == second.type and (first.index == second.index or None in (first.index, second.index))
