"""From command-line arguments to the network and the scheduler that are trained, new or pretrained."""

import argparse
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..models import NCSNpp, with_augment_labels
from ..models.config_checks import height_and_width
from ..schedulers import SDEScheduler
from ..schedulers.checks import shown
from .augmentation import AUGMENT_DIM
from .class_embedding import class_report, fine_tuned_names, with_class_names
from .data import ImageStore, to_data_range
from .model_names import locate
from .objectives import OBJECTIVES, Objective, ObjectiveOptions, make_objective
from .pipeline_folder import NETWORKS, SCHEDULERS, Components, load_pipeline_folder, network_class


SAMPLING = ("predictor", "corrector", "snr")
SIZE = ("block_out_channels", "layers_per_block", "attention_resolutions", "dropout")
PREDICTION = ("prediction_type", "sigma_data", "data_mean")
DEFAULT_RESOLUTION = 64
MEASURED_IMAGES = 2000


def imported_object(name: str, argument: str) -> Any:
    """What `module:name` stands for; modules in the current folder are found.

    Raises:
        ValueError: it is not of this form, or is not there.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{argument} must be a known name or module:name, got {shown(name)}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{argument} must be something that can be imported, got {shown(name)}: {error}") from error


def scheduler_class(name: str) -> type[SDEScheduler]:
    """The scheduler class of "ve", "vp", "subvp" or of `module:Class`.

    Raises:
        ValueError: there is none, or it is no subclass of `SDEScheduler`.
    """
    found = SCHEDULERS[name] if name in SCHEDULERS else imported_object(name, "sde")
    if not (isinstance(found, type) and issubclass(found, SDEScheduler)):
        raise ValueError(f"sde must be one of {sorted(SCHEDULERS)} or a subclass of SDEScheduler, got {shown(name)}")
    return found


def build_objective(args: argparse.Namespace, scheduler: SDEScheduler) -> Objective:
    """The objective that the arguments describe, for the data and noise levels of `scheduler`."""
    if args.objective is None and scheduler.config.prediction_type == "edm":
        args.objective = "edm"  # stored with the run's settings, as if it had been given
    name = args.objective or "score_matching"
    if name not in OBJECTIVES:
        found = imported_object(name, "objective")
        if not isinstance(found, Objective):
            raise ValueError(f"objective must be an Objective, got {shown(name)}, a {type(found).__name__}")
        return found
    options = ObjectiveOptions(
        training_eps=args.training_eps,
        sigma_data=scheduler.config.get("sigma_data") or ObjectiveOptions.sigma_data,
        P_mean=args.P_mean,
        P_std=args.P_std,
        snr_gamma=args.snr_gamma,
        num_train_timesteps=scheduler.config.num_train_timesteps,
    )
    return make_objective(name, options)


def build_components(
    args: argparse.Namespace,
    image_channels: int,
    scheduler: SDEScheduler | None = None,
    class_names: list[str] | None = None,
    say: Callable[[str], object] = print,
) -> Components:
    """The network and scheduler that the arguments describe.

    New weights are drawn from torch's global generator.

    Args:
        args: see `arguments.parse_args`.
        image_channels: channels of the data, for a new network where `args.channels` is None.
        scheduler: of a new network, instead of what the arguments say.
        class_names: the classes of the images; None to train without, a pretrained network with the label for "no
            class".
        say: is told which classes of a pretrained network are kept and which are new.

    Raises:
        ValueError: `--sde`, `--resolution` or `--channels` contradict a pretrained network.
    """
    if args.pretrained_model_name_or_path is not None:
        components = _pretrained(args)
        found, class_names = class_names, fine_tuned_names(components.class_names, class_names)
        if found is not None and components.class_names is not None:
            say(class_report(components.class_names, found))
    else:
        scheduler = new_scheduler(args) if scheduler is None else scheduler
        unet = _network(args, scheduler, image_channels, class_names)
        components = Components(unet, scheduler, scheduler.data_range)
    _check_shape(args, components.unet)
    unet = with_class_names(components.unet, class_names, components.class_names)
    if args.augment_prob:
        unet = _with_augmentation(unet)
    return replace(components, unet=unet, class_names=class_names)


def _with_augmentation(unet: Any) -> Any:
    """`unet` as a network that is told how its images were augmented."""
    if not isinstance(unet, NCSNpp):
        raise ValueError(
            f"augment_prob must be 0 for a network other than NCSNpp and DDPMpp, got {type(unet).__name__}"
        )
    if unet.config.augment_dim not in (None, AUGMENT_DIM):
        raise ValueError(f"augment_prob needs a network with augment_dim={AUGMENT_DIM}, got {unet.config.augment_dim}")
    return unet if unet.config.augment_dim == AUGMENT_DIM else with_augment_labels(unet, AUGMENT_DIM)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The arguments of these names that were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


# ------------------------------------------------------------------ schedulers


def new_scheduler(args: argparse.Namespace) -> SDEScheduler:
    """The scheduler that the arguments describe, for a new network."""
    cls = scheduler_class(args.sde or "vp")
    options = _given(args, "prediction_type", "sigma_data", "data_mean", "sigma_min", "sigma_max", *SAMPLING)
    if "continuous" in inspect.signature(cls.__init__).parameters:
        # The paper's closed-form SDE; the table, which is the class's default, is for DDPM's networks.
        options["continuous"] = args.objective != "ddpm"
    return cls(**{**options, **parse_options(args.scheduler_options or ())})


def parse_options(words: Any) -> dict[str, Any]:
    """`NAME=VALUE` words as a dictionary; a value that is not JSON is a string.

    Raises:
        ValueError: a word has no "=".
    """
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"scheduler_options must be NAME=VALUE, got {word!r}")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _pretrained(args: argparse.Namespace) -> Components:
    components = load_pipeline_folder(args.pretrained_model_name_or_path, args.cache_dir, args.hub_token)
    trained_with = type(components.scheduler)
    wanted = trained_with if args.sde is None else scheduler_class(args.sde)
    if not issubclass(trained_with, wanted):
        raise ValueError(f"sde must be that of the pretrained network, {trained_with.__name__}, got {args.sde}")
    _check_repeated(args, components)
    # The VE network's own noise levels may be widened; everything else of the schedule is the network's.
    changes = {**_given(args, "sigma_min", "sigma_max", *SAMPLING), **parse_options(args.scheduler_options or ())}
    if changes:
        components.scheduler = trained_with.from_config(components.scheduler.config, **changes)
    return components


def _check_repeated(args: argparse.Namespace, components: Components) -> None:
    """Raises ValueError where an argument that describes a network differs from the pretrained one."""
    unet, scheduler = components.unet.config, components.scheduler.config
    own = {name: unet.get(name) for name in SIZE} | {name: scheduler.get(name) for name in PREDICTION}
    own["network"] = next((name for name, cls in NETWORKS.items() if type(components.unet) is cls), None)
    for name, value in _given(args, *own).items():
        theirs = list(own[name]) if isinstance(own[name], tuple) else own[name]
        if value != theirs:
            raise ValueError(f"{name} must be the pretrained network's, {theirs!r}, or left out, got {value!r}")


def with_data_statistics(scheduler: SDEScheduler, images: ImageStore, args: argparse.Namespace) -> SDEScheduler:
    """The scheduler of a preconditioned network with mean and standard deviation of the data, given or measured.

    Both are measured over all values of at most 2000 images that are evenly spaced in the data set.
    """
    if scheduler.config.prediction_type != "edm":
        return scheduler
    count = min(len(images), MEASURED_IMAGES)
    chosen = torch.arange(count).mul(len(images)).div(count, rounding_mode="floor").tolist()
    values = to_data_range(images[chosen], scheduler.data_range).double()
    mean = float(values.mean()) if args.data_mean is None else args.data_mean
    std = float((values - mean).square().mean().sqrt()) if args.sigma_data is None else args.sigma_data
    if not std > 0:
        raise ValueError(f"sigma_data must be positive, got {std}: all images are one color")
    changes: dict[str, Any] = {"sigma_data": round(std, 4), "data_mean": round(mean, 4)}
    changed: Any = type(scheduler).from_config(scheduler.config, **changes)
    return changed


# ------------------------------------------------------------------ networks


def network_options(scheduler: SDEScheduler) -> dict[str, Any]:
    """The arguments of a network that depend on its SDE, for both families."""
    sigma, scaled = scheduler.time_convention == "sigma", scheduler.config.prediction_type == "edm"
    return {
        "time_embedding_type": "fourier" if sigma else "positional",
        "scale_by_sigma": sigma and not scaled,
        "center_input_sample": scheduler.data_range[0] == 0 and not scaled,
    }


def _network(
    args: argparse.Namespace, scheduler: SDEScheduler, image_channels: int, class_names: list[str] | None
) -> Any:
    if args.model_config_name_or_path is not None:
        config = _read_config(args)
        return network_class(config.get("_class_name", "NCSNpp")).from_config(config)
    channels = args.channels or image_channels
    return NETWORKS[args.network or ("ncsnpp" if scheduler.time_convention == "sigma" else "ddpmpp")](
        sample_size=args.resolution or DEFAULT_RESOLUTION,
        in_channels=channels,
        out_channels=channels,
        num_class_embeds=None if class_names is None else len(class_names),
        **{**network_options(scheduler), **_given(args, *SIZE)},
    )


def _read_config(args: argparse.Namespace) -> dict[str, Any]:
    """A network's config from a json file, a folder (of the network, or of a pipeline), a shipped name or a Hub id."""
    name = args.model_config_name_or_path
    if Path(name).is_file():
        return json.loads(Path(name).read_text())
    place = locate(name)
    if isinstance(place, Path):
        return NCSNpp.load_config(place / "unet" if (place / "unet").is_dir() else place)
    return NCSNpp.load_config(name, cache_dir=args.cache_dir, token=args.hub_token)


def _check_shape(args: argparse.Namespace, unet: Any) -> None:
    channels, size = unet.config.in_channels, unet.config.get("sample_size")
    if args.channels not in (None, channels):
        raise ValueError(f"channels must be the network's, {channels}, got {args.channels}")
    if args.resolution and size and height_and_width(args.resolution) != height_and_width(size):
        raise ValueError(
            f"resolution must be the network's, {height_and_width(size)}, got {height_and_width(args.resolution)}"
        )
