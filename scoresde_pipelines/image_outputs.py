"""From states to what a pipeline returns: PIL images, arrays, tensors; with checks of the values."""

import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# Values beyond the data's range by more than this share of it are no rounding; so many of them cause a warning.
TOLERATED_EXCESS, TOLERATED_SHARE = 0.1, 0.005


def to_unit_range(x: Tensor, low: float, high: float) -> Tensor:
    """States with black at `low` and white at `high`, (B, C, H, W), as float32 images in [0, 1]."""
    return ((x.float() - low) / (high - low)).clamp(0, 1)


def export_images(images: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
    """Images in [0, 1], (B, C, H, W), as PIL images ("pil"), an array (B, H, W, C) ("np") or as they are ("pt")."""
    if output_type == "pt":
        return images
    array = images.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return array
    pixels = (array * 255).round().astype(np.uint8)
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels]


def warn_of_excess(x: Tensor, low: float, high: float) -> None:
    """Warns where many values of the states `x` (B, *D) lie outside of [low, high] and will be clipped."""
    margin = TOLERATED_EXCESS * (high - low)
    share = float(((x < low - margin) | (x > high + margin)).float().mean())
    if share > TOLERATED_SHARE:
        warnings.warn(
            f"{share:.1%} of the pixel values lie outside of the data's range [{low:g}, {high:g}] by more than a tenth of "
            f"it (from {float(x.min()):.3g} to {float(x.max()):.3g}) and are clipped: the network is inaccurate there, or "
            "data_min and data_max are not those of its training",
            stacklevel=4,
        )


def all_finite(x: Tensor) -> bool:
    """Whether `x` has neither NaN nor infinity."""
    return bool(torch.isfinite(x).all())
