"""How the configurations of our schedulers are saved, loaded and passed to other schedulers."""

import copy
import inspect
import warnings
from typing import Any

from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerMixin


# Ends the `beta_schedule` that is saved for SDEs without a DDPM table.
NO_TABLE = " (no DDPM table)"
# The name in files of their `trained_betas`, which a stock scheduler would take for those of a VP SDE.
OWN_TABLE = "sde_trained_betas"


class SDEConfigMixin(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # both name their config file, alike
    """Configurations in which arguments may be passed on by **kwargs, hold functions, or describe no DDPM table."""

    config: Any  # type: ignore[assignment]  # diffusers declares a dict; its keys are attributes
    sde: Any
    # Stock schedulers interpolate a DDPM table: those of `VPSDEScheduler` alone mean the same SDE.
    _compatibles: list[str] = []

    @classmethod
    def _get_compatibles(cls) -> list[type[Any]]:
        # Without a scheduler's library (torchsde) diffusers lists a placeholder that only raises.
        return [other for other in super()._get_compatibles() if issubclass(other, SchedulerMixin)]

    @staticmethod
    def _get_init_keys(input_class: type[Any]) -> set[str]:
        # Where `__init__` takes **kwargs it passes them to its base class: those keys are the class's own as well.
        keys: set[str] = set()
        for base in input_class.__mro__:
            if "__init__" in vars(base):
                parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
                keys |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
                if not any(p.kind == p.VAR_KEYWORD for p in parameters):
                    break
        return keys

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """As in diffusers, without the marks that `to_json_string` leaves."""
        if not cls._compatibles:
            config_dict = dict(config_dict)
            if str(config_dict.get("beta_schedule")).endswith(NO_TABLE):
                del config_dict["beta_schedule"]
            if OWN_TABLE in config_dict:
                config_dict["trained_betas"] = config_dict.pop(OWN_TABLE)
        return super().extract_init_dict(config_dict, **kwargs)

    def to_json_string(self) -> str:
        """The configuration as JSON. Functions in the place of names are left out.

        A stock scheduler reads the keys that it shares from any file, and would make a VP table of every SDE. An unknown
        `beta_schedule` makes it raise an error instead, as a table comes under a name that it does not know.
        """
        config = {key: value for key, value in self.config.items() if not callable(value)}
        if not self._compatibles:
            config["beta_schedule"] = type(self).__name__ + NO_TABLE
            if config.get("trained_betas") is not None:
                config[OWN_TABLE] = config.pop("trained_betas")
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
