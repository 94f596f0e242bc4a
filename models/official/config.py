"""From the official code's nested configuration (sections `data`, `model`, `training`, `sampling`) to a `Preset`."""

from collections.abc import Mapping
from typing import Any

from .presets import Preset


_MISSING = object()
_PREDICTORS = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
    "none": None,
    None: None,
}
_CORRECTORS = {"langevin": "langevin", "ald": "annealed_langevin", "none": None, None: None}
_DEFAULT_SAMPLERS = {"vesde": ("reverse_diffusion", "langevin"), "vpsde": ("euler_maruyama", "none")}
_DEFAULT_SAMPLERS["subvpsde"] = _DEFAULT_SAMPLERS["vpsde"]
_NCSNV2_STAGES = {
    "ncsnv2_64": ((1, 2, 2, 2), (1, 1, 2, 4)),
    "ncsnv2_128": ((1, 2, 2, 4, 4), (1, 1, 1, 2, 4)),
    "ncsnv2_256": ((1, 2, 2, 2, 4, 4), (1, 1, 1, 1, 2, 4)),
}
_ACTIVATIONS = {"swish": "silu", "elu": "elu", "relu": "relu", "lrelu": "lrelu"}


class _Section:
    """One section of the configuration; what it lacks is named in the error."""

    def __init__(self, config: Mapping[str, Any], name: str, optional: bool = False) -> None:
        try:
            section = config[name]
        except KeyError:
            if not optional:
                raise ValueError(f"config lacks the section {name!r}") from None
            section = {}
        self.name, self.values = name, dict(section)

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """An entry; ValueError where it is absent and has no default."""
        value = self.values.get(key, default)
        if value is _MISSING:
            raise ValueError(f"config[{self.name!r}] lacks {key!r}")
        return value

    def choose(self, key: str, table: Mapping[Any, Any], default: Any = _MISSING) -> Any:
        """An entry translated by `table`; ValueError names what is allowed."""
        value = self.get(key, default)
        value = value.lower() if isinstance(value, str) else value
        if value not in table:
            raise ValueError(f"config[{self.name!r}][{key!r}] must be one of {list(table)}, got {value!r}")
        return table[value]


def preset_from_official_config(config: Mapping[str, Any]) -> Preset:
    """The network and scheduler of an official configuration.

    Args:
        config: nested mapping (a dictionary or an ml_collections `ConfigDict`) with the sections `data`, `model`
            and `training`; `sampling` is optional.

    Raises:
        ValueError: a section or entry is missing, or has a value that the official code does not have.
    """
    data, model, training = (_Section(config, name) for name in ("data", "model", "training"))
    sde = training.choose("sde", {name: name for name in _DEFAULT_SAMPLERS})
    continuous = bool(training.get("continuous", True))
    family = model.choose("name", {name: name for name in ("ncsnpp", "ddpm", *_NCSNV2_STAGES)})
    if family in _NCSNV2_STAGES:
        model_class, arguments = "NCSNv2", _ncsnv2(data, model, family)
    else:
        arguments = _common(data, model) | (_ncsnpp(model) if family == "ncsnpp" else _ddpm())
        positional = arguments["time_embedding_type"] == "positional"
        arguments["discrete_sigmas"] = sde == "vesde" and not continuous and positional
        plain = arguments["input_pyramid"] == arguments["output_pyramid"] == "none"
        model_class = "DDPMpp" if plain else "NCSNpp"
    scheduler_class, scheduler = _scheduler(sde, continuous, model, _Section(config, "sampling", optional=True))
    return Preset(model_class, scheduler_class, arguments, scheduler)


def _sigmas(model: _Section) -> dict[str, Any]:
    return {
        "sigma_min": float(model.get("sigma_min", 0.01)),
        "sigma_max": float(model.get("sigma_max", 50.0)),
        "num_train_timesteps": int(model.get("num_scales")),
    }


def _common(data: _Section, model: _Section) -> dict[str, Any]:
    channels, width = int(data.get("num_channels", 3)), int(model.get("nf"))
    levels = tuple(width * factor for factor in model.get("ch_mult"))
    return {
        "sample_size": int(data.get("image_size")),
        "in_channels": channels,
        "out_channels": channels,
        "center_input_sample": not data.get("centered"),
        "block_out_channels": levels,
        "base_channels": None if levels[0] == width else width,
        "layers_per_block": int(model.get("num_res_blocks")),
        "attention_resolutions": tuple(model.get("attn_resolutions")),
        "dropout": float(model.get("dropout")),
        "act_fn": model.choose("nonlinearity", _ACTIVATIONS, "swish"),
        "resample_with_conv": bool(model.get("resamp_with_conv")),
        "time_conditioning": bool(model.get("conditional")),
        "scale_by_sigma": bool(model.get("scale_by_sigma")),
        **_sigmas(model),
    }


def _ncsnpp(model: _Section) -> dict[str, Any]:
    def one_of(key: str, *names: str) -> str:
        return model.choose(key, {name: name for name in names})

    return {
        "time_embedding_type": one_of("embedding_type", "fourier", "positional"),
        "fourier_scale": float(model.get("fourier_scale", 16.0)),
        "resnet_type": one_of("resblock_type", "biggan", "ddpm"),
        "fir": bool(model.get("fir")),
        "fir_kernel": tuple(model.get("fir_kernel", (1, 3, 3, 1))),
        "input_pyramid": one_of("progressive_input", "none", "input_skip", "residual"),
        "output_pyramid": one_of("progressive", "none", "output_skip", "residual"),
        "pyramid_combine": one_of("progressive_combine", "sum", "cat"),
        "skip_rescale": bool(model.get("skip_rescale")),
        "init_scale": float(model.get("init_scale", 0.0)),
    }


def _ddpm() -> dict[str, Any]:
    return {
        "time_embedding_type": "positional",
        "resnet_type": "ddpm",
        "norm_num_groups": 32,
        "fir": False,
        "input_pyramid": "none",
        "output_pyramid": "none",
        "skip_rescale": False,
    }


def _ncsnv2(data: _Section, model: _Section, family: str) -> dict[str, Any]:
    factors, dilations = _NCSNV2_STAGES[family]
    channels = int(data.get("channels", data.get("num_channels", 3)))
    return {
        "sample_size": int(data.get("image_size")),
        "in_channels": channels,
        "out_channels": channels,
        "center_input_sample": not data.get("centered"),
        "block_out_channels": tuple(int(model.get("nf")) * factor for factor in factors),
        "dilations": dilations,
        "act_fn": model.choose("nonlinearity", _ACTIVATIONS, "elu"),
        **_sigmas(model),
    }


def _scheduler(sde: str, continuous: bool, model: _Section, sampling: _Section) -> tuple[str, dict[str, Any]]:
    predictor, corrector = _DEFAULT_SAMPLERS[sde]
    steps = int(model.get("num_scales"))
    common = {
        "num_train_timesteps": steps,
        "predictor": sampling.choose("predictor", _PREDICTORS, predictor),
        "corrector": sampling.choose("corrector", _CORRECTORS, corrector),
    }
    if common["corrector"] is not None:
        common["snr"] = float(sampling.get("snr", 0.16))
        common["correct_steps"] = int(sampling.get("n_steps_each", 1))
    if sde == "vesde":
        low, high = float(model.get("sigma_min", 0.01)), float(model.get("sigma_max", 50.0))
        return "VESDEScheduler", common | {"sigma_min": low, "sigma_max": high, "sampling_eps": 1e-5}
    common["beta_start"] = float(model.get("beta_min", 0.1)) / steps
    common["beta_end"] = float(model.get("beta_max", 20.0)) / steps
    common["sampling_eps"] = 1e-3
    if sde == "vpsde":
        return "VPSDEScheduler", common | {"continuous": continuous}
    return "SubVPSDEScheduler", common
