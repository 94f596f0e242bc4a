"""31 of the 39 published configurations (all but the 8 of NCSNv1), each as its differences from another one.

A preset says which network and which scheduler a published checkpoint needs, and how it was trained. Names are those of the
official repository's configuration files, which also name the folders of the published checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...schedulers import SDEScheduler, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from ...schedulers.checks import check_choice
from ...schedulers.init_parameters import init_parameters
from ..ddpmpp import DDPMpp
from ..ncsnpp import NCSNpp
from ..ncsnv2 import NCSNv2


MODELS: dict[str, type[NCSNpp | NCSNv2]] = {"NCSNpp": NCSNpp, "DDPMpp": DDPMpp, "NCSNv2": NCSNv2}
SCHEDULERS: dict[str, type[SDEScheduler]] = {
    "VESDEScheduler": VESDEScheduler,
    "VPSDEScheduler": VPSDEScheduler,
    "SubVPSDEScheduler": SubVPSDEScheduler,
}


@dataclass(frozen=True)
class Preset:
    """One configuration: class names with their arguments, and the hyperparameters of its training.

    Attributes:
        model_class, model: a key of `MODELS`, and the arguments that differ from that class's defaults.
        scheduler_class, scheduler: a key of `SCHEDULERS`, and its arguments.
        training: `iterations`, `batch_size`, `learning_rate`, `ema_decay`, `warmup`, `grad_clip`.
    """

    model_class: str
    scheduler_class: str
    model: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """All arguments of the network, defaults included."""
        parameters = init_parameters(MODELS[self.model_class])
        return {name: item.default for name, item in parameters.items() if name != "self"} | dict(self.model)

    def make_model(self) -> NCSNpp | NCSNv2:
        """The network, with fresh weights."""
        return MODELS[self.model_class](**self.model)

    def make_scheduler(self) -> SDEScheduler:
        """The scheduler, sampling as published."""
        return SCHEDULERS[self.scheduler_class](**self.scheduler)


_TRAINING = {
    "iterations": 1_300_000,
    "batch_size": 128,
    "learning_rate": 2e-4,
    "ema_decay": 0.9999,
    "warmup": 5000,
    "grad_clip": 1.0,
}
_VE = {
    "num_train_timesteps": 1000,
    "sigma_min": 0.01,
    "sigma_max": 50.0,
    "snr": 0.16,
    "sampling_eps": 1e-5,
    "predictor": "reverse_diffusion",
    "corrector": "langevin",
}
_VP = {"predictor": "ancestral", "corrector": None, "sampling_eps": 1e-3}
_DDPM = {
    "layers_per_block": 2,
    "resnet_type": "ddpm",
    "norm_num_groups": 32,
    "skip_rescale": False,
}
_SKIP = {"input_pyramid": "input_skip", "output_pyramid": "output_skip", "dropout": 0.0}
_RESIDUAL = {"fir": True, "input_pyramid": "residual"}

_ROOTS = {
    "ve/cifar10_ncsnpp_continuous": Preset(
        "NCSNpp", "VESDEScheduler", {"dropout": 0.1}, _VE, _TRAINING | {"ema_decay": 0.999}
    ),
    "vp/cifar10_ddpmpp": Preset("DDPMpp", "VPSDEScheduler", {"dropout": 0.1}, _VP, _TRAINING),
    "subvp/cifar10_ddpmpp_continuous": Preset(
        "DDPMpp", "SubVPSDEScheduler", {"dropout": 0.1}, _VP | {"predictor": "euler_maruyama"}, _TRAINING
    ),
    "ve/ncsnv2/cifar10": Preset(
        "NCSNv2",
        "VESDEScheduler",
        {},
        _VE | {"num_train_timesteps": 232, "snr": 0.176, "correct_steps": 5, "predictor": None}
        | {"corrector": "annealed_langevin"},
        _TRAINING | {"iterations": 300_000, "learning_rate": 1e-4, "ema_decay": 0.999, "warmup": 0, "grad_clip": None},
    ),
}  # fmt: skip

_EM = {"predictor": "euler_maruyama"}
_DEEP: dict[str, Any] = {"model": {"layers_per_block": 8}, "training": {"iterations": 950_000}}
_AS_NCSNPP: dict[str, Any] = {"model_class": "NCSNpp", "model": _RESIDUAL | {
    "center_input_sample": False, "time_embedding_type": "positional", "scale_by_sigma": False,
}}  # fmt: skip
_LEVELS_256 = {"sample_size": 256, "block_out_channels": (128, 128, 256, 256, 256, 256, 256), "layers_per_block": 2}
_LEVELS_1024 = {
    "sample_size": 1024,
    "block_out_channels": (16, 32, 64, 128, 256, 512, 512, 512),
    "layers_per_block": 1,
}
_LEVELS_DDPM_256 = {"sample_size": 256, "block_out_channels": (128, 128, 256, 256, 512, 512), "dropout": 0.0}

# name: (what it is like, where it differs)
_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "ve/cifar10_ncsnpp_deep_continuous": ("ve/cifar10_ncsnpp_continuous", _DEEP),
    "ve/cifar10_ncsnpp": (
        "ve/cifar10_ncsnpp_continuous",
        {"model": {"time_embedding_type": "positional", "discrete_sigmas": True}},
    ),
    "ve/cifar10_ddpm": (
        "ve/cifar10_ncsnpp",
        {"model_class": "DDPMpp", "model": _DDPM | {"center_input_sample": True, "scale_by_sigma": True}},
    ),
    "ve/celeba_ncsnpp": (
        "ve/cifar10_ncsnpp",
        {"model": {"sample_size": 64, "sigma_max": 90.0}, "scheduler": {"sigma_max": 90.0, "snr": 0.17}},
    ),
    "ve/bedroom_ncsnpp_continuous": (
        "ve/cifar10_ncsnpp_continuous",
        {
            "model": _LEVELS_256 | _SKIP | {"sigma_max": 378.0, "num_train_timesteps": 2000},
            "scheduler": {"sigma_max": 378.0, "num_train_timesteps": 2000, "snr": 0.075},
            "training": {"iterations": 2_400_000, "batch_size": 64},
        },
    ),
    "ve/church_ncsnpp_continuous": (
        "ve/bedroom_ncsnpp_continuous",
        {"model": {"sigma_max": 380.0}, "scheduler": {"sigma_max": 380.0}},
    ),
    "ve/ffhq_256_ncsnpp_continuous": (
        "ve/bedroom_ncsnpp_continuous",
        {"model": {"sigma_max": 348.0}, "scheduler": {"sigma_max": 348.0}},
    ),
    "ve/celebahq_256_ncsnpp_continuous": ("ve/ffhq_256_ncsnpp_continuous", {}),
    "ve/ffhq_ncsnpp_continuous": (
        "ve/bedroom_ncsnpp_continuous",
        {
            "model": _LEVELS_1024 | {"sigma_max": 1348.0},
            "scheduler": {"sigma_max": 1348.0, "snr": 0.15},
            "training": {"batch_size": 8, "ema_decay": 0.9999},
        },
    ),
    "ve/celebahq_ncsnpp_continuous": ("ve/ffhq_ncsnpp_continuous", {}),
    "vp/cifar10_ddpmpp_continuous": ("vp/cifar10_ddpmpp", {"scheduler": {"continuous": True} | _EM}),
    "vp/cifar10_ddpmpp_deep_continuous": ("vp/cifar10_ddpmpp_continuous", _DEEP),
    "vp/cifar10_ncsnpp": ("vp/cifar10_ddpmpp", _AS_NCSNPP | {"scheduler": {"predictor": "reverse_diffusion"}}),
    "vp/cifar10_ncsnpp_continuous": ("vp/cifar10_ncsnpp", {"scheduler": {"continuous": True} | _EM}),
    "vp/cifar10_ncsnpp_deep_continuous": ("vp/cifar10_ncsnpp_continuous", _DEEP),
    "vp/ddpm/cifar10": ("vp/cifar10_ddpmpp", {"model": _DDPM}),
    "vp/ddpm/cifar10_unconditional": ("vp/ddpm/cifar10", {"model": {"time_conditioning": False}}),
    "vp/ddpm/cifar10_continuous": ("vp/ddpm/cifar10", {"scheduler": {"continuous": True} | _EM}),
    "vp/ddpm/bedroom": (
        "vp/ddpm/cifar10",
        {
            "model": _LEVELS_DDPM_256,
            "training": {"iterations": 2_400_000, "batch_size": 64, "learning_rate": 2e-5},
        },
    ),
    "vp/ddpm/church": ("vp/ddpm/bedroom", {}),
    "vp/ddpm/celebahq": ("vp/ddpm/bedroom", {}),
    "subvp/cifar10_ddpmpp_deep_continuous": ("subvp/cifar10_ddpmpp_continuous", _DEEP),
    "subvp/cifar10_ncsnpp_continuous": ("subvp/cifar10_ddpmpp_continuous", _AS_NCSNPP),
    "subvp/cifar10_ncsnpp_deep_continuous": ("subvp/cifar10_ncsnpp_continuous", _DEEP),
    "subvp/cifar10_ddpm_continuous": ("subvp/cifar10_ddpmpp_continuous", {"model": _DDPM}),
    "ve/ncsnv2/celeba": (
        "ve/ncsnv2/cifar10",
        {
            "model": {"sample_size": 64, "sigma_max": 90.0, "num_train_timesteps": 500},
            "scheduler": {"sigma_max": 90.0, "num_train_timesteps": 500, "snr": 0.128},
        },
    ),
    "ve/ncsnv2/bedroom": (
        "ve/ncsnv2/cifar10",
        {
            "model": {
                "sample_size": 128,
                "block_out_channels": (128, 256, 256, 512, 512),
                "dilations": (1, 1, 1, 2, 4),
                "sigma_max": 190.0,
                "num_train_timesteps": 1086,
            },
            "scheduler": {"sigma_max": 190.0, "num_train_timesteps": 1086, "snr": 0.095, "correct_steps": 3},
            "training": {"ema_decay": 0.9999},
        },
    ),
}


def _vary(base: Preset, changes: Mapping[str, Any]) -> Preset:
    merged: dict[str, Any] = {
        name: {**getattr(base, name), **value} if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }
    return replace(base, **merged)


def _build() -> dict[str, Preset]:
    presets = dict(_ROOTS)
    for name, (base, changes) in _ROWS.items():
        presets[name] = _vary(presets[base], changes)
    return dict(sorted(presets.items()))


PRESETS: dict[str, Preset] = _build()


def preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        ValueError: naming the presets there are.
    """
    check_choice("name", name, PRESETS)
    return PRESETS[name]
