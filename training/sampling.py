"""Sample grids while training, and the network's output as a function of state and time."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..models import packed_filters
from ..schedulers import SDEScheduler, sampling_loop
from ..schedulers.checks import check_integer
from .data import to_uint8
from .pipeline_folder import Components


def network_output(
    scheduler: SDEScheduler,
    model: Callable[..., Any],
    class_labels: torch.Tensor | None = None,
    augment_labels: torch.Tensor | None = None,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A network's output as a function `(x, t) -> output` of the state (B, C, H, W) and the SDE's time (B,)."""
    given = {"class_labels": class_labels, "augment_labels": augment_labels}
    labels = {name: value for name, value in given.items() if value is not None}

    def output(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        parameterization, sde = scheduler.parameterization, scheduler.sde
        result = model(parameterization.input(sde, x, t), parameterization.network_time(sde, t), **labels)
        return result.sample if hasattr(result, "sample") else result

    return output


@torch.no_grad()
def sample(
    components: Components,
    shape: Sequence[int],
    *,
    num_inference_steps: int,
    seed: int,
    device: torch.device | str,
    class_labels: Sequence[int] | None = None,
) -> torch.Tensor:
    """Generates images.

    Args:
        components: the network, in evaluation mode on `device`, and its scheduler, which is left as it is.
        shape: (B, channels, height, width).
        seed: image k is the one of generator `seed + k`, whatever the batch.
        class_labels: one per image, for a class-conditional network; "no class" by default.

    Returns:
        uint8 tensor of that shape, on the CPU.
    """
    generators = [torch.Generator().manual_seed(seed + k) for k in range(shape[0])]
    scheduler = copy.deepcopy(components.scheduler)
    scheduler.set_timesteps(num_inference_steps, device=device)
    noise = torch.stack([torch.randn(tuple(shape[1:]), generator=generator) for generator in generators])
    labels = {} if class_labels is None else {"class_labels": torch.as_tensor(class_labels, device=device)}
    with packed_filters(components.unet):
        score_fn = scheduler.score_fn(components.unet, **labels)
        x = sampling_loop(scheduler, score_fn, noise.to(device) * scheduler.init_noise_sigma, generators)
    return to_uint8(x, components.data_range).cpu()


def grid_labels(components: Components, count: int) -> tuple[list[int] | None, int | None]:
    """Labels of a sample grid of about `count` images, one row per class, and its columns; None without classes.

    With more classes than images the rows are evenly spaced classes, one image each.
    """
    if components.class_names is None:
        return None, None
    classes = len(components.class_names)
    rows, columns = min(classes, count), max(1, count // classes)
    return [row * classes // rows for row in range(rows) for _ in range(columns)], columns


def image_grid(images: torch.Tensor, columns: int | None = None, scale: int = 2) -> Image.Image:
    """One picture of many: uint8 images (B, C, H, W) in rows, each pixel `scale` x `scale`, 2 pixels apart."""
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise TypeError(f"images must be a uint8 tensor (B, C, H, W), got {got}")
    count, channels, height, width = images.shape
    check_integer("scale", scale, 1, 1000)
    if columns is not None:
        check_integer("columns", columns, 1, 10_000)
    if channels not in (1, 3, 4):
        raise ValueError(f"images must have 1, 3 or 4 channels, got {channels}")
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, channels), 255, dtype=np.uint8)
    for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
