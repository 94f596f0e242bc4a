"""How the configurations of our schedulers are saved, loaded and passed to other schedulers."""

import copy
import warnings
from typing import Any

from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .checks import check_config_kind
from .init_parameters import init_parameters, stored_arguments
from .predictors import has_own_grid


# Ends the `beta_schedule` that is saved for SDEs without a DDPM table.
NO_TABLE = " (no DDPM table)"
#: What makes a sampler. A file holds them only if they were chosen, so that defaults stay defaults.
SAMPLER_KEYS = ("predictor", "corrector", "timestep_spacing")
FORMAT = 2  # of files; those without a number are of version 0.1

#: What a VP scheduler's network was trained on: never left to the defaults of the class that reads it.
SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")

# The values of `timestep_spacing` that stock schedulers know. Any other is kept under a key that they do not read.
STOCK_SPACINGS = ("linspace", "leading", "trailing")
OWN_SPACING = "sde_timestep_spacing"
# The name in files of their `trained_betas`, which a stock scheduler would take for those of a VP SDE.
OWN_TABLE = "sde_trained_betas"


class SDEConfigMixin(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # both name their config file, alike
    """Configurations in which arguments may be passed on by **kwargs, hold functions, or describe no DDPM table."""

    config: Any  # type: ignore[assignment]  # diffusers declares a dict; its keys are attributes
    sde: Any
    # Stock schedulers interpolate a DDPM table: those of `VPSDEScheduler` alone mean the same SDE.
    _compatibles: list[str] = []

    def register_to_config(self, **kwargs: Any) -> None:
        """Store the arguments: see `stored_arguments`."""
        super().register_to_config(**stored_arguments(type(self), kwargs))

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Make one from a configuration; arguments as in diffusers."""
        return super().from_config(check_config_kind(config), return_unused_kwargs, **kwargs)

    @classmethod
    def _get_compatibles(cls) -> list[type[Any]]:
        # Without a scheduler's library (torchsde) diffusers lists a placeholder that only raises.
        found = [other for other in super()._get_compatibles() if issubclass(other, SchedulerMixin)]
        return found or [cls]  # a list of diffusers is never empty: a class is compatible with itself

    @staticmethod
    def _get_init_keys(input_class: type[Any]) -> set[str]:
        return {*init_parameters(input_class)}

    def _refuse_stock_schedulers(self) -> None:
        """Lets stock schedulers refuse the configuration of an SDE without a DDPM table, in memory as from a file.

        They read the keys that they share, and drop those marked as defaults; an unknown `beta_schedule` is an error.
        """
        if self._compatibles:
            # Marked as defaults, these would become those of the other class: other betas for HeunDiscreteScheduler.
            marks = [name for name in self.config.get("_use_default_values", []) if name not in SCHEDULE_KEYS]
            self.register_to_config(_use_default_values=marks)
            return
        marks = [name for name in self.config.get("_use_default_values", []) if name != "beta_schedule"]
        table = self.config.get("trained_betas")
        own = {} if table is None else {OWN_TABLE: table, "_use_default_values": [*marks, "trained_betas"]}
        self.register_to_config(
            **{"beta_schedule": type(self).__name__ + NO_TABLE, "_use_default_values": marks} | own
        )

    def _keep_own_spacing(self) -> None:
        """Lets stock schedulers take their own default for a `timestep_spacing` of ours that they would refuse."""
        spacing, defaults = self.config["timestep_spacing"], self.config.get("_use_default_values", [])
        if spacing not in STOCK_SPACINGS and "timestep_spacing" not in defaults:
            # `from_config` leaves out what is marked as a default.
            self.register_to_config(**{OWN_SPACING: spacing, "_use_default_values": [*defaults, "timestep_spacing"]})

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """As in diffusers, without the marks that `to_json_string` and `_keep_own_spacing` leave.

        Files of earlier versions keep their sampler. Another predictor than the configuration's brings its own grid, if it
        has one and `timestep_spacing` is not given.
        """
        defaults = config_dict.get("_use_default_values", [])
        own = config_dict.get(OWN_SPACING)
        config_dict = {key: value for key, value in config_dict.items() if key != OWN_SPACING}
        if own is not None and ("timestep_spacing" in defaults or "timestep_spacing" not in config_dict):
            left = [name for name in defaults if name != "timestep_spacing"]
            config_dict |= {"timestep_spacing": own, "_use_default_values": left}
        config_dict = _of_this_version(config_dict)
        predictor = kwargs.get("predictor", config_dict.get("predictor"))
        if predictor != config_dict.get("predictor") and has_own_grid(predictor):
            kwargs.setdefault("timestep_spacing", None)
        config_dict = cls._with_own_table(dict(config_dict))
        return super().extract_init_dict(config_dict, **kwargs)

    @classmethod
    def _with_own_table(cls, config: dict[str, Any]) -> dict[str, Any]:
        # Without the marks for stock schedulers. A configuration of another SDE is refused: its network knows other states.
        schedule = str(config.get("beta_schedule", ""))
        if schedule.endswith(NO_TABLE):
            name = schedule.removesuffix(NO_TABLE)
            if name not in {base.__name__ for base in (*cls.__mro__, *subclasses(cls))}:
                raise ValueError(
                    f"config must describe the SDE of a {cls.__name__}, got that of a {name}, which takes other networks; "
                    f"for a new network call {cls.__name__}(...)"
                )
            del config["beta_schedule"]
        elif schedule and "beta_schedule" not in cls._get_init_keys(cls):
            raise ValueError(
                f"config must describe the SDE of a {cls.__name__}, got a table of betas (beta_schedule {schedule!r}), a VP "
                f"SDE; for a new network call {cls.__name__}(...)"
            )
        if OWN_TABLE in config:
            config["trained_betas"] = config.pop(OWN_TABLE)
            config["_use_default_values"] = [n for n in config.get("_use_default_values", []) if n != "trained_betas"]
        return config

    def to_json_string(self) -> str:
        """The configuration as JSON. Functions in the place of names are left out, and samplers that nobody chose.

        A stock scheduler reads the keys that it shares from any file, and would make a VP table of every SDE. An unknown
        `beta_schedule` makes it raise an error instead, as a table comes under a name that it does not know. A time spacing
        of ours is written under `OWN_SPACING`.
        """
        unchosen = {*SAMPLER_KEYS} & {*self.config.get("_use_default_values", [])}
        config = {key: value for key, value in self.config.items() if not callable(value) and key not in unchosen}
        config["_format"] = FORMAT
        if not self._compatibles:
            config["beta_schedule"] = type(self).__name__ + NO_TABLE
            if config.get("trained_betas") is not None:
                config[OWN_TABLE] = config.pop("trained_betas")
        if "timestep_spacing" in config and config["timestep_spacing"] not in STOCK_SPACINGS:
            config[OWN_SPACING] = config.pop("timestep_spacing")
        twin = copy.copy(self)
        twin._internal_dict = FrozenDict(config)  # type: ignore[has-type]
        return super(SDEConfigMixin, twin).to_json_string()

    def save_config(self, *args: Any, **kwargs: Any) -> None:
        """Writes the configuration to a file, as in diffusers; warns of functions that cannot be written."""
        for key in [key for key, value in self.config.items() if callable(value)]:
            warnings.warn(
                f"{key} must be a name to be saved, got a function: the file leaves it out, and {key} must be set again "
                "after loading",
                stacklevel=2,
            )
        super().save_config(*args, **kwargs)


def _of_this_version(config: dict[str, Any]) -> dict[str, Any]:
    # "exponential_multistep" was another solver in files of version 0.1, which always name their time grid.
    if "_diffusers_version" not in config or "_format" in config:
        return config
    old = config.get("predictor") == "exponential_multistep" and config.get("timestep_spacing") is not None
    return {**config, "_format": FORMAT, **({"predictor": "exponential_adams_bashforth"} if old else {})}


def subclasses(cls: type[Any]) -> list[type[Any]]:
    """All classes derived from `cls`, in the order of their definition, each before those derived from it."""
    return [other for own in cls.__subclasses__() for other in (own, *subclasses(own))]
