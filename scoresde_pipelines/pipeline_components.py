"""Whether the components of a pipeline fit each other."""

from typing import Any

from .registration import PACKAGE
from .schedulers import SDEScheduler, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler


NETWORK_LIBRARIES = ("diffusers", PACKAGE)  # a repository must not choose what is imported


def check_components(unet: Any, scheduler: SDEScheduler, name: str = "unet") -> None:
    """Raises TypeError or ValueError unless a network is called as in diffusers and its time argument is the scheduler's.

    Args:
        name: of the network, for the error.
    """
    config = getattr(unet, "config", None)
    if config is None or not hasattr(config, "in_channels"):
        raise TypeError(
            f"{name} must be a diffusers model with a config of in_channels and sample_size (unwrap DataParallel by "
            f".module), got {type(unet).__name__}"
        )
    if not isinstance(scheduler, (VESDEScheduler, VPSDEScheduler, SubVPSDEScheduler)):
        return  # a user's own scheduler may have any time argument
    embedding = getattr(config, "time_embedding_type", None)
    told_sigma = scheduler.time_convention == "sigma"
    knows_sigma = embedding == "fourier" or bool(getattr(config, "discrete_sigmas", False))
    if embedding in ("fourier", "positional") and told_sigma != knows_sigma:
        whose = type(unet).__name__ if name == "unet" else f"{name} ({type(unet).__name__})"
        told = "sigma" if told_sigma else scheduler.time_convention
        wanted = "noise levels sigma (the VE SDE)" if knows_sigma else "times or indices (the VP and sub-VP SDEs)"
        raise ValueError(
            f"scheduler must be one that {whose} was trained with: it has a {embedding} time "
            f"embedding for {wanted}, got {type(scheduler).__name__}, which tells it {told}"
        )


def null_label(unet: Any, id2label: dict[int, str] | None) -> int | None:
    """The label for "no class" of a class-conditional `UNet2DModel`: its last embedding, where that has no name; else None.

    Our own networks have one embedding more than `num_class_embeds`, and take `class_labels=None` for it.
    """
    embeddings = getattr(unet.config, "num_class_embeds", None)
    there = getattr(getattr(unet, "class_embedding", None), "num_embeddings", None)
    return len(id2label) if id2label and embeddings == there == len(id2label) + 1 else None
