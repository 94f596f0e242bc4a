"""From command-line arguments to the network and the scheduler that are trained, new or pretrained."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..models import NCSNpp
from .pipeline_folder import (
    NETWORKS,
    SCHEDULERS,
    Components,
    load_pipeline_folder,
    network_class,
    sde_name,
)


# What a network must be told about its SDE, whichever of the two families it comes from.
_VARIANCE_PRESERVING = {"time_embedding_type": "positional", "scale_by_sigma": False, "center_input_sample": False}
NETWORK_FOR_SDE: dict[str, dict[str, Any]] = {
    "ve": {"time_embedding_type": "fourier", "scale_by_sigma": True, "center_input_sample": True},
    "vp": _VARIANCE_PRESERVING,
    "subvp": _VARIANCE_PRESERVING,
}
# The paper's closed-form SDE; the table that VPSDEScheduler reads by default is for DDPM's networks.
SCHEDULER_FOR_SDE: dict[str, dict[str, Any]] = {"ve": {}, "vp": {"continuous": True}, "subvp": {}}
SAMPLING = ("predictor", "corrector", "snr")
SIZE = ("block_out_channels", "layers_per_block", "attention_resolutions", "dropout")
DEFAULT_RESOLUTION = 64


def build_components(args: argparse.Namespace, image_channels: int) -> Components:
    """The network and scheduler that the arguments describe.

    New weights are drawn from torch's global generator.

    Args:
        args: see `arguments.parse_args`.
        image_channels: channels of the data, for a new network where ``args.channels`` is None.

    Raises:
        ValueError: ``--sde``, ``--resolution`` or ``--channels`` contradict a pretrained network.
    """
    if args.pretrained_model_name_or_path is not None:
        components = _pretrained(args)
    else:
        name = args.sde or "vp"
        options = {**SCHEDULER_FOR_SDE[name], **_given(args, "prediction_type", "sigma_min", "sigma_max", *SAMPLING)}
        scheduler = SCHEDULERS[name](**options)
        unet = _network(args, name, args.channels or image_channels)
        components = Components(unet, scheduler, scheduler.data_range)
    _check_shape(args, components.unet)
    return components


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The arguments of these names that were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _pretrained(args: argparse.Namespace) -> Components:
    components = load_pipeline_folder(args.pretrained_model_name_or_path, args.cache_dir, args.hub_token)
    name = sde_name(components.scheduler)
    if args.sde not in (None, name):
        raise ValueError(f"--sde is {args.sde}, but the pretrained network was trained with {name}")
    # The VE network's own noise levels may be widened; everything else of the schedule is the network's.
    changes = _given(args, "sigma_min", "sigma_max", *SAMPLING)
    if changes:
        components.scheduler = type(components.scheduler).from_config(components.scheduler.config, **changes)
    return components


def _network(args: argparse.Namespace, name: str, channels: int) -> Any:
    if args.model_config_name_or_path is not None:
        config = _read_config(args)
        return network_class(config.get("_class_name", "NCSNpp")).from_config(config)
    return NETWORKS[args.network or ("ncsnpp" if name == "ve" else "ddpmpp")](
        sample_size=args.resolution or DEFAULT_RESOLUTION,
        in_channels=channels,
        out_channels=channels,
        **{**NETWORK_FOR_SDE[name], **_given(args, *SIZE)},
    )


def _read_config(args: argparse.Namespace) -> dict[str, Any]:
    """A network's config from a json file, a folder or a Hub id."""
    path = Path(args.model_config_name_or_path)
    if path.is_file():
        return json.loads(path.read_text())
    return NCSNpp.load_config(args.model_config_name_or_path, cache_dir=args.cache_dir, token=args.hub_token)


def network_resolution(unet: Any) -> int | None:
    """The side of the (square) images that a network was configured for, if it says so."""
    size = unet.config.get("sample_size")
    return size if size is None or isinstance(size, int) else int(size[0])


def _check_shape(args: argparse.Namespace, unet: Any) -> None:
    own = {"channels": unet.config.in_channels, "resolution": network_resolution(unet)}
    for name, value in own.items():
        given = getattr(args, name)
        if given is not None and value is not None and given != value:
            raise ValueError(f"--{name} is {given}, but the network is made for {value}")
