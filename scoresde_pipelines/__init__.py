"""Score-based generative modelling through SDEs (Song et al., ICLR 2021), the diffusers way.

Everything public is importable from here; these are also the names that a saved pipeline's `model_index.json` holds.
`public_names` lists them. It is imported with the first name that is asked for, so that `scoresde --help` needs no torch.
"""

import sys as _sys
from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .public_names import *  # noqa: F403

if not (_Path(__file__).parent / "schedulers").is_dir():
    # A bare checkout: schedulers/, models/ and training/ are next to this folder, not inside it.
    __path__.append(  # noqa: F405
        str(_Path(__file__).parent.parent)
    )


__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("models", "schedulers", "training"):
        # `from .. import models` asks here first; `public_names` imports what may be half imported at that moment.
        return _import_module(f"{__name__}.{name}")
    public = _import_module(f"{__name__}.public_names")
    if hasattr(public, name):
        return getattr(public, name)
    if f"{__name__}.{name}" in _sys.modules:
        return _sys.modules[f"{__name__}.{name}"]
    # diffusers looks a saved scheduler of a user's own up here.
    from .registration import imported_scheduler

    return imported_scheduler(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_import_module(f"{__name__}.public_names").__all__})
