"""Derivatives under `torch.inference_mode()`, whose tensors autograd cannot use: they are copied, and the mode is left."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor


Function = TypeVar("Function", bound=Callable[..., Any])


def ordinary(value: Any) -> Any:
    """`value`, as a copy where it is a tensor that was made under `torch.inference_mode()`."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def differentiates(function: Function) -> Function:
    """Decorator of functions that take derivatives: they work under `torch.inference_mode()` as under `torch.no_grad()`."""

    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        enabled = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        # Leaving inference mode switches gradients on.
        with torch.inference_mode(False), torch.set_grad_enabled(enabled):
            values = {name: ordinary(value) for name, value in options.items()}
            return function(*map(ordinary, arguments), **values)

    return wrapped  # type: ignore[return-value]
