"""Images and masks that users pass to a pipeline, as checked tensors. `training/image_reader.py` reads them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .training.image_reader import images_to_pixels, images_to_tensor


__all__ = [
    "gray_to_tensor",
    "images_to_pixels",
    "images_to_tensor",
    "masks_to_tensor",
]


def gray_to_tensor(
    image: Any, weights: Sequence[float], size: tuple[int, int] | None = None, name: str = "image"
) -> Tensor:
    """Gray images, float32, shape (B, 1, height, width), of gray images or of colors by the given weights.

    Args:
        image, size, name: as in `images_to_tensor`.
        weights: of red, green and blue. Gray images are taken as they are, whatever the weights.
    """
    if len(weights) != 3:
        return images_to_tensor(image, 1, size, name, warn_of_color=False)
    color = images_to_tensor(image, 3, size, name)
    weighted = (color * color.new_tensor(weights).reshape(3, 1, 1)).sum(1, keepdim=True)
    is_gray = (color == color[:, :1]).flatten(1).all(1)
    return color[:, :1].where(is_gray[:, None, None, None], weighted)


def masks_to_tensor(mask_image: Any, batch_size: int, size: tuple[int, int]) -> Tensor:
    """Which pixels to repaint, bool, shape (batch_size, 1, height, width); white (at least one half) is True.

    Args:
        mask_image: as in `images_to_tensor`, with one channel (color is read as gray); one mask for all images or one for
            each.
        batch_size: number of images.
        size: (height, width) of the images.

    Raises:
        ValueError: also for a number of masks that is neither 1 nor `batch_size`, and for masks with nothing to repaint
            or nothing known.
    """
    repaint = images_to_tensor(mask_image, 1, size, "mask_image", warn_of_color=False) >= 0.5
    if len(repaint) not in (1, batch_size):
        raise ValueError(f"mask_image must hold 1 mask or one per image, {batch_size}, got {len(repaint)}")
    flat = repaint.flatten(1)
    if not bool(flat.any(1).all()):
        raise ValueError("mask_image must be white somewhere: a mask without a white pixel leaves nothing to repaint")
    if bool(flat.all(1).any()):
        raise ValueError("mask_image must be black somewhere: under a white mask nothing of the image is known")
    return repaint.expand(batch_size, -1, -1, -1)
