"""What users pass as images and masks, as checked tensors: PIL images of any mode, arrays and tensors, one or many."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .schedulers.checks import check_integer, check_number


PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
WIDE_MODES = ("I;16", "I;16B", "I;16L", "I", "F")


def images_to_tensor(images: Any, channels: int, size: tuple[int, int] | None = None, name: str = "image") -> Tensor:
    """Images as float32 in [0, 1], shape (B, channels, height, width).

    Args:
        images: a PIL image of any mode, an array (H, W), (H, W, C), (B, H, W) or (B, H, W, C), a tensor (H, W),
            (C, H, W) or (B, C, H, W), or a list of these. Integers are 8-bit values, floats lie in [0, 1]. Transparent
            PIL images are put on white; gray ones fill all channels.
        channels: how many channels come back.
        size: (height, width) that is required.
        name: of the argument, for errors.

    Raises:
        TypeError: for something that is no image.
        ValueError: for another size or number of channels, values out of range or NaN, or an empty list.
    """
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError(f"{name} must hold at least one image, got an empty list")
        parts = [images_to_tensor(image, channels, size, name) for image in images]
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        if len(shapes) > 1:
            raise ValueError(f"{name} must hold images of one size, got {shapes}")
        return torch.cat(parts)
    if isinstance(images, Image.Image):
        tensor = _from_pil(images, channels, name)
    elif isinstance(images, np.ndarray):
        if images.dtype.kind not in "buif":
            raise TypeError(f"{name} must be an array of numbers, got one of dtype {images.dtype}")
        images = images.astype(np.int64) if images.dtype.kind == "u" else images
        values = _to_float(torch.from_numpy(np.ascontiguousarray(images)), name)
        tensor = _from_array(values, channels, name, size)
    elif isinstance(images, Tensor):
        tensor = _from_tensor(_to_float(images, name), channels, name)
    else:
        raise TypeError(
            f"{name} must be a PIL image, an array, a tensor or a list of them, got {type(images).__name__}"
        )
    if size is not None and tuple(tensor.shape[-2:]) != tuple(size):
        raise ValueError(f"{name} must have height and width {tuple(size)}, got {tuple(tensor.shape[-2:])}: resize it")
    return tensor


def masks_to_tensor(mask_image: Any, batch_size: int, size: tuple[int, int]) -> Tensor:
    """Which pixels to repaint, bool, shape (batch_size, 1, height, width); white (at least one half) is True.

    Args:
        mask_image: as in `images_to_tensor`, with one channel (of more, the mean counts); one mask for all images or
            one for each.
        batch_size: number of images.
        size: (height, width) of the images.

    Raises:
        ValueError: also for a number of masks that is neither 1 nor `batch_size`, and for masks with nothing to repaint
            or nothing known.
    """
    if isinstance(mask_image, np.ndarray) and mask_image.dtype == bool:
        mask_image = mask_image.astype(np.float32)
    repaint = images_to_tensor(mask_image, 1, size, "mask_image") >= 0.5
    if len(repaint) not in (1, batch_size):
        raise ValueError(f"mask_image must hold 1 mask or one per image, {batch_size}, got {len(repaint)}")
    flat = repaint.flatten(1)
    if not bool(flat.any(1).all()):
        raise ValueError("mask_image must be white somewhere: a mask without a white pixel leaves nothing to repaint")
    if bool(flat.all(1).any()):
        raise ValueError("mask_image must be black somewhere: under a white mask nothing of the image is known")
    return repaint.expand(batch_size, -1, -1, -1)


def check_count(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is an integer of at least 1."""
    check_integer(name, value)


def check_nonnegative(name: str, value: Any) -> None:
    """Raises TypeError or ValueError unless `value` is a finite real number of at least 0."""
    check_number(name, value, 0)


def _from_pil(image: Image.Image, channels: int, name: str) -> Tensor:
    if image.mode in WIDE_MODES:  # `convert` would clip these to 255
        values = torch.from_numpy(np.asarray(image).astype(np.float32))
        # "I" and "F" hold 8-bit or unit values as well; the largest value tells.
        top = next((top for top in (1.0, 255.0) if float(values.max()) <= top), 65535.0)
        scale = 65535.0 if ";" in image.mode else top
        return _to_float(values / scale, name)[None, None].expand(1, channels, -1, -1).clone()
    if image.mode in ("La", "RGBa"):  # premultiplied by their opacity
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if channels != 4 and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    try:
        array = np.asarray(image.convert(PIL_MODES[channels]))
    except ValueError as error:
        raise ValueError(f"{name} must be in a mode that Pillow converts, got {image.mode}") from error
    return _from_array(torch.from_numpy(array.copy()).float() / 255, channels, name)


def _to_float(values: Tensor, name: str) -> Tensor:
    if values.numel() == 0:
        raise ValueError(f"{name} must hold at least one image, got shape {tuple(values.shape)}")
    if values.is_complex():
        raise TypeError(f"{name} must be an array of real numbers, got one of dtype {values.dtype}")
    if values.dtype == torch.bool:
        return values.float()
    if not values.is_floating_point():
        if int(values.min()) < 0 or int(values.max()) > 255:
            raise ValueError(f"{name} of integers must lie in 0..255, got {int(values.min())}..{int(values.max())}")
        return values.float() / 255
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name} of floats must lie in [0, 1], got values from {low:g} to {high:g}")
    return values.float()


def _from_array(values: Tensor, channels: int, name: str, size: tuple[int, int] | None = None) -> Tensor:
    if values.ndim == 2:
        values = values[None, :, :, None]
    elif values.ndim == 3:
        color = values.shape[-1] in PIL_MODES and (size is None or tuple(values.shape[:2]) == tuple(size))
        values = values[None] if color else values[..., None]
    return _with_channels(values.movedim(-1, 1) if values.ndim == 4 else values, channels, name)


def _from_tensor(values: Tensor, channels: int, name: str) -> Tensor:
    if values.ndim == 2:
        values = values[None]
    return _with_channels(values[None] if values.ndim == 3 else values, channels, name)


def _with_channels(values: Tensor, channels: int, name: str) -> Tensor:
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(f"{name} must be one image or a batch of images, got shape {tuple(values.shape)}")
    if values.shape[1] == channels:
        return values
    if values.shape[1] == 1:
        return values.expand(-1, channels, -1, -1)
    if channels == 1:
        return values[:, :3].mean(1, keepdim=True)
    raise ValueError(f"{name} must have {channels} channels, got {values.shape[1]}")
