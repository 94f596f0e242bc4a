"""The options that the calls of all sampling pipelines share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from .image_sizes import TileSize
from .schedulers.checks import (
    Generator,
    check_finite,
    check_function,
    check_generator,
    check_integer,
    check_values,
    shown,
)


StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]


@dataclass(frozen=True)
class CallOptions:
    """See `ScoreSdePipeline.__call__`."""

    num_inference_steps: int | None = None
    generator: Generator = None
    latents: Tensor | None = None
    quality: str | None = None
    output_type: str = "pil"
    return_dict: bool = True
    callback_on_step_end: StepCallback | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    height: int | None = None
    width: int | None = None
    tile_size: TileSize = None
    tile_overlap: int | None = None
    tile_batch_size: int = 16

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Self:
        """The options among the arguments of a pipeline's call, given as the `locals()` at its begin."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})

    def __post_init__(self) -> None:
        if self.num_inference_steps is not None:
            check_integer("num_inference_steps", self.num_inference_steps)
        check_integer("tile_batch_size", self.tile_batch_size)

    def check(self, batch_size: int, shape: tuple[int, ...], tensors: Sequence[str]) -> None:
        """Raises TypeError or ValueError, naming the option that does not fit.

        Args:
            batch_size: number of images.
            shape: of an image.
            tensors: names that `callback_on_step_end_tensor_inputs` may hold.
        """
        if isinstance(self.generator, tuple):
            raise TypeError("generator must be a torch.Generator or a list of them, got a tuple")
        check_generator("generator", self.generator, batch_size)
        expected, latents = (batch_size, *shape), self.latents
        if latents is not None and tuple(check_finite("latents", latents, torch.float32).shape) != expected:
            raise ValueError(f"latents must have shape {expected}, got {tuple(latents.shape)}")
        if latents is not None:
            check_values("latents", latents)
        check_function("callback_on_step_end", self.callback_on_step_end, 4, optional=True)
        names: Any = self.callback_on_step_end_tensor_inputs
        if not isinstance(names, (list, tuple)) or any(name not in tensors for name in names):
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be a list of names among {tensors}, got {shown(names)}"
            )

    def changed_state(self, pipe: Any, i: int, timestep: Tensor, x: Tensor) -> Tensor | None:
        """Calls the callback after step `i`; what it puts in the place of the state `x`, or None.

        Raises:
            TypeError, ValueError: for anything but None or a dictionary with finite latents like `x`.
        """
        if self.callback_on_step_end is None:
            return None
        names = self.callback_on_step_end_tensor_inputs
        changed: Any = self.callback_on_step_end(pipe, i, timestep, {name: x for name in names})
        if changed is not None and (not isinstance(changed, dict) or set(changed) - {"latents"}):
            got = list(changed) if isinstance(changed, dict) else type(changed).__name__
            raise TypeError(f"callback_on_step_end must return None or a dictionary with latents alone, got {got}")
        latents = changed.get("latents", x) if changed else x
        if latents is x:
            return None
        if check_finite("latents of callback_on_step_end", latents).shape != x.shape:
            raise ValueError(
                f"callback_on_step_end must return latents of shape {tuple(x.shape)}, got {tuple(latents.shape)}"
            )
        return latents.to(x)
