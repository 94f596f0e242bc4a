"""What `__init__` of a class takes, base classes included, and how it is stored in a configuration of diffusers."""

import inspect
from collections.abc import Mapping
from typing import Any

from .checks import plain


MARK = "_use_default_values"  # diffusers' list of the arguments that were not given


def init_parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a class, by name, with those of base classes to which its `__init__` passes **kwargs."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} | found
            if not any(p.kind == p.VAR_KEYWORD for p in parameters):
                break
    return found


def stored_arguments(cls: type[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as `register_to_config` is to store them: numbers of NumPy as Python's, and given ones as given.

    diffusers marks what is given by position as a default, which `from_config` drops.
    """
    stored = {name: plain(value) for name, value in arguments.items()}
    if MARK in stored:
        known = init_parameters(cls)
        stored[MARK] = sorted(  # configurations that are the same compare equal
            name
            for name in stored[MARK]
            if name not in stored or name not in known or _same(stored[name], known[name].default)
        )
    return stored


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))
