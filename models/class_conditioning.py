"""Giving a trained network classes, or knowledge of augmentation, for fine-tuning: its outputs are at first the same."""

from typing import Any

import torch
from torch import nn

from ..schedulers.checks import check_integer
from .layers import ResnetBlock
from .ncsnpp import NCSNpp


def with_classes(network: NCSNpp, num_classes: int) -> NCSNpp:
    """A class-conditional copy of `network` whose outputs are at first those of `network`, whatever the label.

    It has `num_classes + 1` embeddings, all zero; the last, label `num_classes`, stands for "no class", as does
    `class_labels=None`. Dropping labels to it in training makes the network fit for classifier-free guidance.

    Args:
        network: an `NCSNpp` or `DDPMpp` without classes; it is left as it is.
        num_classes: number of classes K, at least 1.

    Returns:
        A network of the same class and configuration with `num_class_embeds=num_classes`, in the dtype, device and mode of
        `network`.

    Raises:
        TypeError: `network` is no `NCSNpp` or `DDPMpp`.
        ValueError: it has classes already, or `num_classes` is no positive integer.

    Example:
        >>> network = with_classes(ScoreSdePipeline.from_pretrained(folder).unet, num_classes=10)
        >>> score = network(x, sigma, class_labels=torch.tensor([3, 10])).sample  # class 3, and no class
    """
    if not isinstance(network, NCSNpp):
        raise TypeError(f"network must be an NCSNpp or DDPMpp, got {type(network).__name__}")
    present = network.config.num_class_embeds
    if present is not None:
        raise ValueError(f"network must have no classes (num_class_embeds=None), got one of {present}")
    check_integer("num_classes", num_classes)
    return _extended(network, "class_embedding.weight", num_class_embeds=num_classes)


def with_augment_labels(network: NCSNpp, augment_dim: int) -> NCSNpp:
    """A copy of `network` that takes `augment_labels` (B, augment_dim); its outputs are at first those of `network`.

    Args:
        network: an `NCSNpp` or `DDPMpp` without them; it is left as it is.
        augment_dim: entries of `augment_labels`, at least 1.

    Raises:
        TypeError: `network` is no `NCSNpp` or `DDPMpp`.
        ValueError: it takes them already, or `augment_dim` is no positive integer.
    """
    if not isinstance(network, NCSNpp):
        raise TypeError(f"network must be an NCSNpp or DDPMpp, got {type(network).__name__}")
    if network.config.augment_dim is not None:
        raise ValueError(f"network must take no augment_labels, got one with augment_dim={network.config.augment_dim}")
    check_integer("augment_dim", augment_dim)
    return _extended(network, "augment_embedding.weight", augment_dim=augment_dim)


def _extended(network: NCSNpp, added: str, **config: Any) -> NCSNpp:
    """A copy with a changed configuration whose one new weight, of the name `added`, is zero."""
    with torch.random.fork_rng(devices=[]):  # the fresh weights are overwritten: the caller's random state stays
        made: Any = type(network).from_config(network.config, **config)
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    zeros = torch.zeros_like(made.get_parameter(added), dtype=network.dtype, device=network.device)
    made.to(network.device).load_state_dict({**state, added: zeros}, assign=True)
    if network.time_embedding is None and network.class_embedding is None and network.augment_embedding is None:
        _silence_embedding(made)
    trained = dict(network.named_parameters())
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name not in trained or trained[name].requires_grad)
    return made.train(network.training)


def _silence_embedding(network: NCSNpp) -> None:
    # Without a noise level the blocks had no embedding: their layers for it, unused so far, must add nothing.
    for module in network.modules():
        if isinstance(module, ResnetBlock):
            nn.init.zeros_(module.time_emb_proj.bias)
