"""Class-conditional networks: the label "no class", and embeddings added to an unconditional network."""

from __future__ import annotations

from typing import Any

import torch

from ..models import NCSNpp, with_classes


def _extra_embeddings(unet: Any) -> int:
    # `num_class_embeds` of our networks counts the classes, that of UNet2DModel the embeddings, one more.
    return 0 if isinstance(unet, NCSNpp) else 1


def null_label(unet: Any) -> int:
    """The label that stands for "no class": the last embedding of a class-conditional network."""
    return unet.config.num_class_embeds - _extra_embeddings(unet)


def with_class_names(unet: Any, class_names: list[str] | None) -> Any:
    """`unet` with an embedding of these classes and of "no class"; a new one is zero, so that the outputs stay."""
    own = unet.config.get("num_class_embeds")
    if class_names is None:
        if own is not None:
            raise ValueError(
                f"the network has num_class_embeds = {own}: train it with --class_conditional, on images in folders that "
                "have the names of its classes"
            )
        return unet
    wanted = len(class_names) + _extra_embeddings(unet)
    if own is None:
        return with_classes(unet, wanted) if isinstance(unet, NCSNpp) else _unet2d_with_classes(unet, wanted)
    if own != wanted:
        raise ValueError(f"num_class_embeds must be {wanted} for {len(class_names)} classes, got {own}")
    return unet


def _unet2d_with_classes(unet: Any, num_class_embeds: int) -> Any:
    """The same diffusers network with class embeddings of zero: whatever the label, its output is that of `unet`."""
    # Without the entries that begin with "_": one of them makes diffusers keep the defaults.
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    extended = type(unet).from_config({**config, "num_class_embeds": num_class_embeds})
    missing, unexpected = extended.load_state_dict(unet.state_dict(), strict=False)
    if unexpected or any(not name.startswith("class_embedding.") for name in missing):
        raise ValueError(f"{type(unet).__name__} cannot be given classes: {[*missing, *unexpected]}")
    torch.nn.init.zeros_(extended.class_embedding.weight)
    return extended
