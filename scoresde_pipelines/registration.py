"""Names of a user's own schedulers in a saved pipeline; `schedulers/scheduling_registration.py` has those of the package."""

from typing import Any

from .schedulers.scheduling_conversion import is_sde_scheduler, sde_scheduler_class


PACKAGE = "scoresde_pipelines"


def stable_name(component: Any) -> Any:
    """The entry of `model_index.json` for a scheduler: this package for every subclass of `SDEScheduler`, a user's too.

    diffusers would write the user's module, in which it then finds no base class to load by. `__getattr__` of the package
    gives the class back once the user's module is imported.
    """
    library, name = component if isinstance(component, (tuple, list)) and len(component) == 2 else (None, None)
    return (PACKAGE, name) if library != "diffusers" and is_sde_scheduler(name) else component


def imported_scheduler(name: str) -> Any:
    """A user's own `SDEScheduler` subclass as an attribute of the package; raises AttributeError where there is none."""
    if not is_sde_scheduler(name):
        raise AttributeError(
            f"module {PACKAGE!r} has no attribute {name!r} (of a scheduler of your own import the module that defines it "
            "first)"
        )
    return sde_scheduler_class(name)
