"""Deprecated: the presets are in `models.official`."""

import warnings
from typing import Any

from .official import presets


def __getattr__(name: str) -> Any:
    value = getattr(presets, name)
    message = f"scoresde_pipelines.models.presets is deprecated: import {name} from scoresde_pipelines.models.official"
    warnings.warn(message, FutureWarning, stacklevel=2)
    return value
