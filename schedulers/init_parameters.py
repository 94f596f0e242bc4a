"""The parameters of a class whose `__init__` passes **kwargs to that of its base class."""

import inspect
from typing import Any


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
