"""Class-conditional networks: the label "no class", and embeddings of other classes in a network for fine-tuning."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..models import NCSNpp, with_classes


LISTED = 12  # names of classes in one line


def _extra_embeddings(unet: Any) -> int:
    # `num_class_embeds` of our networks counts the classes, that of UNet2DModel the embeddings, one more.
    return 0 if isinstance(unet, NCSNpp) else 1


def null_label(unet: Any) -> int:
    """The label that stands for "no class": the last embedding of a class-conditional network."""
    return unet.config.num_class_embeds - _extra_embeddings(unet)


def fine_tuned_names(known: Sequence[str] | None, found: Sequence[str] | None) -> list[str] | None:
    """The classes of a fine-tuned network, by label.

    Args:
        known: of the pretrained network; None where it has none.
        found: of the images; None where it is trained without classes.

    Returns:
        Where one is None, the other. Else exactly `found`: first those that the network knows, in its order, then the
        new ones in the order of the images.
    """
    if known is None or found is None:
        names = known if found is None else found
        return None if names is None else list(names)
    return [name for name in known if name in found] + [name for name in found if name not in known]


def class_report(known: Sequence[str], names: Sequence[str]) -> str:
    """One line: which of the classes `names` the pretrained network knows, which are new, and which it loses."""
    parts = {
        "kept": [name for name in names if name in known],
        "new, from the embedding of no class": [name for name in names if name not in known],
        "left out": [name for name in known if name not in names],
    }
    return "classes: " + "; ".join(f"{what}: {list_names(some)}" for what, some in parts.items() if some)


def list_names(names: list[str]) -> str:
    """Names of classes in one line, at most the first 12 of them."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def with_class_names(unet: Any, class_names: list[str] | None, known: Sequence[str] | None = None) -> Any:
    """`unet` with an embedding of each of these classes and of "no class".

    A network without classes is copied and gets embeddings that are zero, so that its outputs stay. One with the classes
    `known` is changed: a name that it knows keeps its embedding, a new one starts from that of "no class". With it the
    network models all the images that it has seen, which the mean of the embeddings, used with no image so far, does
    not promise.

    Args:
        class_names: by label; None where the network is trained without classes.
        known: names of the network's present classes by label, or None.

    Raises:
        ValueError: the network has other classes, and their names are not known.
    """
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
    if known is not None and list(known) != class_names:
        _choose_embeddings(unet, class_names, list(known))
    elif own != wanted:
        raise ValueError(f"num_class_embeds must be {wanted} for {len(class_names)} classes, got {own}")
    return unet


@torch.no_grad()
def _choose_embeddings(unet: Any, class_names: list[str], known: list[str]) -> None:
    null = null_label(unet)
    rows = [known.index(name) if name in known else null for name in class_names]
    weight = unet.class_embedding.weight
    chosen = weight[torch.tensor([*rows, null], device=weight.device)].clone()
    unet.class_embedding = nn.Embedding.from_pretrained(chosen, freeze=not weight.requires_grad)
    unet.register_to_config(num_class_embeds=len(class_names) + _extra_embeddings(unet))


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
