"""Pictures of any size in the size of a network, and back: for pipelines (`resize`), commands (`--fit`) and the page.

The geometry is that of training images (`training/image_format.py`).
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .schedulers import LinearOperator, MaskOperator
from .schedulers.checks import check_choice
from .training.image_format import FITS, fitted_sides, overlap


# A pixel of a fitted mask is white where more than this share of it comes from white pixels.
WHITE_SHARE = 0.02


def fit_images(images: Tensor, size: tuple[int, int], resize: str | None, border: float = 0.0) -> Tensor:
    """Images in [0, 1], (B, C, H, W), in another size.

    Args:
        size: height and width of the result.
        resize: "crop" resizes until the image just covers `size` and cuts out the middle; "pad" shrinks a larger image until
            it fits, and centres it on a border; None leaves images as they are.
        border: value of the border.

    Raises:
        ValueError: for another `resize`.
    """
    check_choice("resize", resize, FITS, optional=True)
    if resize is None:
        return images
    images = resampled(images, fitted_sides(_sides(images), size, resize))
    canvas = images.new_full((*images.shape[:2], *size), border)
    (source_y, target_y), (source_x, target_x) = map(overlap, _sides(images), size)
    canvas[..., target_y, target_x] = images[..., source_y, source_x]
    return canvas


def inside(sides: tuple[int, int], size: tuple[int, int], resize: str | None) -> tuple[slice, slice]:
    """Rows and columns of a fitted image, `size`, that are of the image with `sides`: all but the border of "pad"."""
    if resize is None:
        return slice(0, size[0]), slice(0, size[1])
    (_, rows), (_, columns) = map(overlap, fitted_sides(sides, size, resize), size)
    return rows, columns


def measured_inside(operator: LinearOperator, place: tuple[slice, slice], size: tuple[int, int]) -> LinearOperator:
    """An operator with measurements (B, C, *size), of which those outside of `place` are not known."""
    known = torch.zeros(1, 1, *size, dtype=torch.bool, device="cpu")
    known[..., place[0], place[1]] = True
    return operator if bool(known.all()) else MaskOperator(known) @ operator


def put_back(fitted: Tensor, images: Tensor, resize: str | None) -> Tensor:
    """The original images, (B, C, H, W), with what `fit_images` made of them replaced by `fitted`, (B, C, h, w).

    Pixels beyond the middle that "crop" cuts out are those of `images`, up to resampling.
    """
    if resize is None:
        return fitted
    whole = resampled(images, fitted_sides(_sides(images), _sides(fitted), resize)).clone()
    (source_y, target_y), (source_x, target_x) = map(overlap, _sides(whole), _sides(fitted))
    whole[..., source_y, source_x] = fitted[..., target_y, target_x]
    return resampled(whole, _sides(images))


def fit_masks(repaint: Tensor, size: tuple[int, int], resize: str | None) -> Tensor:
    """Masks, bool (B, 1, H, W), in another size; what the border of "pad" covers is not known, so it is repainted.

    Raises:
        ValueError: for pixels to repaint beyond the middle that "crop" cuts out.
    """
    if resize is None:
        return repaint
    fitted = fit_images(repaint.float(), size, resize, border=1.0) > WHITE_SHARE
    reached = (
        put_back(torch.ones_like(fitted, dtype=torch.float32), torch.zeros_like(repaint, dtype=torch.float32), resize)
        >= 0.5
    )
    if bool((repaint & ~reached).any()):
        raise ValueError(
            "mask_image must be black outside of the middle that resize='crop' cuts out, got white pixels there: "
            "choose resize='pad' or cut the image around the mask"
        )
    if bool(fitted.flatten(1).all(1).any()):
        raise ValueError(f"mask_image must be black somewhere at the network's size {size}, got a mask that is not")
    return fitted


def without_repainted(images: Tensor, repaint: Tensor) -> Tensor:
    """Images with the mean of their known pixels where `repaint`, (B, 1, H, W), is True: resampling spreads pixels."""
    mean = (images * ~repaint).sum((2, 3), keepdim=True) / (~repaint).sum((2, 3), keepdim=True)
    return torch.where(repaint, mean, images)


def resampled(images: Tensor, sides: tuple[int, int]) -> Tensor:
    """Images in [0, 1], (B, C, H, W), on the CPU, resized to (height, width) by Pillow's Lanczos filter."""
    if _sides(images) == sides:
        return images
    planes = [
        np.asarray(Image.fromarray(plane).resize((sides[1], sides[0]), Image.Resampling.LANCZOS))
        for plane in images.flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(planes)).reshape(*images.shape[:2], *sides).clamp(0, 1)


def _sides(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
