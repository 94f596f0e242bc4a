"""The one conversion of diffusers' schedulers to SDE schedulers, and of names in configurations to classes.

A scheduler object and the configuration that it saves give the same result: both are read as an object of the stock class.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers.schedulers
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from .beta_schedules import BETA_SCHEDULES
from .checks import shown
from .parameterization import PREDICTION_TYPES
from .scheduling_config import SCHEDULE_KEYS, subclasses
from .scheduling_sde import SDEScheduler
from .scheduling_ve_sde import VESDEScheduler
from .scheduling_vp_sde import VPSDEScheduler


_FLOW = "its network predicts the velocity of flow matching, which no SDE of this package has"
_DISTILLED = "its network is distilled to jump to clean images, and its output is no score"
_EDM = "its network is preconditioned and told ln(sigma) / 4, which no time convention of this package is"
_TOKENS = "it samples discrete tokens, which have no SDE"
REFUSED = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "CMStochasticIterativeScheduler": _DISTILLED,
    "ConsistencyDecoderScheduler": _DISTILLED,
    "CosineDPMSolverMultistepScheduler": "its network is preconditioned and told 2 atan(sigma) / pi",
    "DDPMWuerstchenScheduler": "its network is told a ratio of its continuous cosine schedule, no index into a table",
    "DiscreteDDIMScheduler": _TOKENS,
    "EDMDPMSolverMultistepScheduler": _EDM,
    "EDMEulerScheduler": _EDM,
    "EntropyBoundScheduler": _TOKENS,
    "IPNDMScheduler": "its noise levels depend on the number of steps",
    "KarrasVeScheduler": "its pipeline preconditions the network in a way of its own",
    "LCMScheduler": _DISTILLED,
    "SCMScheduler": "its network predicts the velocity of TrigFlow, which no SDE of this package has",
    "TCDScheduler": _DISTILLED,
    "UnCLIPScheduler": "its network predicts a variance as well, or embeddings instead of images",
    "VQDiffusionScheduler": _TOKENS,
}


def to_sde_scheduler(scheduler: Any) -> SDEScheduler:
    """The SDE scheduler of a stock scheduler or of its configuration; an SDE scheduler is returned as it is.

    DDPMScheduler becomes ancestral sampling, DDIM's the exponential predictor, ScoreSdeVeScheduler reverse diffusion with
    Langevin correction, ScoreSdeVpScheduler the closed-form VP SDE; any other scheduler with a table of betas keeps that
    table. Options at the stock class's default become our defaults, others are kept where we have them.

    Args:
        scheduler: an `SDEScheduler`, a diffusers scheduler, or a configuration with `_class_name`, as
            `SDEScheduler.load_config` reads it.

    Raises:
        TypeError: for anything else.
        ValueError: if it describes no SDE of this package; names the class and the reason.
    """
    if isinstance(scheduler, SDEScheduler):
        return scheduler
    if isinstance(scheduler, Mapping):
        return _from_config(scheduler)
    if not isinstance(scheduler, SchedulerMixin) or not isinstance(scheduler, ConfigMixin):
        raise TypeError(f"scheduler must be a diffusers scheduler or its config, got {type(scheduler).__name__}")
    name = type(scheduler).__name__
    _check(name, scheduler.config)
    try:
        return _SCORE_SDES.get(name, _from_table)(scheduler)
    except (TypeError, ValueError) as error:
        raise _refusal(name, str(error)) from error


def sde_scheduler_class(name: str) -> type[SDEScheduler]:
    """The subclass of `SDEScheduler` with this name, ours or a user's: any that has been imported.

    Nothing is imported: a file must not choose what code runs. Of several classes of one name the last defined counts.

    Raises:
        ValueError: there is none.
    """
    found = [cls for cls in subclasses(SDEScheduler) if cls.__name__ == name]
    if not found:
        raise ValueError(
            f"{shown(name)} must be an imported subclass of SDEScheduler: import the module that defines it first"
        )
    return found[-1]


def is_sde_scheduler(name: Any) -> bool:
    """Whether an imported subclass of `SDEScheduler` has this name."""
    return any(cls.__name__ == name for cls in subclasses(SDEScheduler))


def _from_config(config: Mapping[str, Any]) -> SDEScheduler:
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ValueError(f"scheduler config must hold its class under '_class_name', got {shown(name)}")
    if name in REFUSED:
        raise _refusal(name, REFUSED[name])
    stock = getattr(diffusers.schedulers, name, None) or getattr(diffusers.schedulers.deprecated, name, None)
    stock = stock or next((cls for cls in subclasses(SchedulerMixin) if cls.__name__ == name), None)
    if stock is None or (isinstance(stock, type) and issubclass(stock, SDEScheduler)):
        ours: Any = sde_scheduler_class(name)
        return ours.from_config(dict(config))
    if not isinstance(stock, type) or not issubclass(stock, ConfigMixin) or not issubclass(stock, SchedulerMixin):
        raise ValueError(f"scheduler config must name a scheduler under '_class_name', got {shown(name)}")
    try:
        scheduler = stock.from_config(dict(config))
    except (TypeError, NotImplementedError, ImportError) as error:
        raise _refusal(name, f"it cannot be made of its config: {error}") from error
    return to_sde_scheduler(scheduler)


def _check(name: str, config: Mapping[str, Any]) -> None:
    reason = REFUSED.get(name)
    if reason is not None or name in _SCORE_SDES:
        pass
    elif "Flow" in name or config.get("use_flow_sigmas") or "flow" in str(config.get("prediction_type")):
        reason = _FLOW
    elif config.get("variance_type") in ("learned", "learned_range"):
        reason = f"variance_type {config['variance_type']!r}: its network predicts a variance in half of its channels"
    elif config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        reason = _EDM
    elif "beta_start" not in config:
        reason = "it has no table of betas and is no score SDE"
    elif config.get("prediction_type", "epsilon") not in PREDICTION_TYPES:
        reason = f"prediction_type must be one of {PREDICTION_TYPES}, got {config['prediction_type']!r}"
    if reason is not None:
        raise _refusal(name, reason)


def _refusal(name: str, reason: str) -> ValueError:
    return ValueError(
        f"scheduler must describe an SDE of this package, got {name}: {reason}. Pass a VESDEScheduler, VPSDEScheduler or "
        "SubVPSDEScheduler with the noise schedule that the network was trained on"
    )


def _from_score_sde_ve(scheduler: Any) -> SDEScheduler:
    return VESDEScheduler.from_config(scheduler.config, predictor="reverse_diffusion", corrector="langevin")


def _from_score_sde_vp(scheduler: Any) -> SDEScheduler:
    config = scheduler.config
    n = config["num_train_timesteps"]
    return VPSDEScheduler(
        num_train_timesteps=n,
        beta_start=config["beta_min"] / n,
        beta_end=config["beta_max"] / n,
        sampling_eps=config["sampling_eps"],
        continuous=True,
    )


_SCORE_SDES = {"ScoreSdeVeScheduler": _from_score_sde_ve, "ScoreSdeVpScheduler": _from_score_sde_vp}


def _from_table(scheduler: Any) -> SDEScheduler:
    config, defaults = scheduler.config, inspect.signature(type(scheduler).__init__).parameters
    # Saving writes the defaults out, so that chosen values and defaults cannot be distinguished later: drop both.
    chosen = {
        key: value
        for key, value in config.items()
        if key != "_use_default_values" and not (key in defaults and _same(defaults[key].default, value))
    }
    # Named one by one, as the stock class's defaults may differ from ours.
    overrides = {key: config[key] for key in (*SCHEDULE_KEYS, "trained_betas") if key in config}
    if chosen.get("variance_type", "") is None:
        overrides["variance_type"] = "fixed_small"
    if "DDIM" in type(scheduler).__name__ and "predictor" not in config:
        overrides["predictor"] = "exponential"
    if overrides["beta_schedule"] in BETA_SCHEDULES:
        ours = VPSDEScheduler.from_config(chosen, **overrides)
        if torch.allclose(ours.alphas_cumprod, scheduler.alphas_cumprod.float(), rtol=0, atol=1e-6):
            return ours
    # A schedule that we do not name, or a table that the stock class changes afterwards (CogVideoX).
    table = {
        "trained_betas": _betas(scheduler.alphas_cumprod),
        "beta_schedule": "linear",
        "rescale_betas_zero_snr": False,
    }
    return VPSDEScheduler.from_config(chosen, **{**overrides, **table})


def _betas(alphas_cumprod: Tensor) -> list[float]:
    alphas = alphas_cumprod.double()
    ratios = alphas / torch.cat([torch.ones_like(alphas[:1]), alphas[:-1]])
    return (1 - ratios).clamp(1e-12, 1).tolist()


def _same(default: Any, value: Any) -> bool:
    # Tuples come back from disk as lists; a table given as an array is never a default.
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return list(default) == list(value)
    return default is value or (isinstance(value, (str, bool, int, float)) and default == value)
