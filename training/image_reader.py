"""The one reader from user images to tensors: PIL images of every mode, arrays and tensors of the usual layouts, lists.

Training, likelihood, evaluation, inpainting and colorization all read through this file and `pil_pictures.py` (which says
how color, transparency and 16-bit values are read), so that one picture has the same numbers whichever entry it takes.
"""

import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..schedulers.checks import describe, is_dense
from .pil_pictures import IMAGE_MODES, WHITE, is_gray, to_unit


GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, those of Pillow's mode "L"


def images_to_tensor(
    images: Any,
    channels: int,
    size: tuple[int, int] | None = None,
    name: str = "image",
    *,
    background: int = WHITE,
    integer_white: int | None = None,
    warn_of_color: bool = True,
) -> Tensor:
    """Images as float32 in [0, 1], shape (B, channels, height, width), on the CPU.

    Args:
        images: a PIL image of any mode, an array (H, W), (H, W, C), (B, H, W), (B, H, W, C) or (B, C, H, W), a tensor
            (H, W), (C, H, W), (H, W, C), (B, H, W), (B, C, H, W) or (B, H, W, C), or a list of these. `size` decides where
            a shape allows two readings; of what is left an array has its channels last, a tensor first. Integers are 8-bit
            values, uint16 ones 16-bit values, booleans black and white; floats lie in [0, 1].
        channels: how many channels come back. Gray fills all; color becomes gray with the weights (0.299, 0.587, 0.114);
            four channels become three on `background`, and three become four with full opacity.
        size: (height, width) that is required.
        name: of the argument, for errors.
        background: gray value, 0 to 255, on which transparent images are composited.
        integer_white: the value of white in integer arrays, instead of 255 (or 65535 for uint16).
        warn_of_color: warn where one channel comes back and the images have color, which is lost.

    Raises:
        TypeError: for something that is no image.
        ValueError: for another size or number of channels, values out of range or NaN, a shape with two readings, or no
            image at all.
    """
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError(f"{name} must hold at least one image, got an empty list")
        options: dict[str, Any] = {"background": background, "integer_white": integer_white}
        options["warn_of_color"] = warn_of_color
        parts = [images_to_tensor(image, channels, size, name, **options) for image in images]
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        if len(shapes) > 1:
            raise ValueError(f"{name} must hold images of one size, got {shapes}")
        return torch.cat(parts)
    if isinstance(images, Image.Image):
        if 0 in images.size:
            raise ValueError(f"{name} must hold at least one pixel, got an image of size {images.size}")
        tensor = torch.from_numpy(to_unit(images, channels, background, name)).movedim(-1, 0)[None]
        if warn_of_color and channels == 1 and not is_gray(images):
            _warn_of_color(to_unit(images, 3, background, name), name)
    elif isinstance(images, (np.ndarray, Tensor)):
        pixels = _numbers(images, name)
        pixels = _channels_last(pixels, channels, size, name, last=isinstance(images, np.ndarray))
        if pixels.dtype == np.uint8 and integer_white is None and pixels.shape[-1] not in (1, channels):
            # Pillow's own rounding, so that an 8-bit array and the image made of it give equal numbers.
            pictures, options = [_to_pil(array) for array in pixels], {"warn_of_color": warn_of_color}
            return images_to_tensor(pictures, channels, size, name, background=background, **options)
        unit = _unit_range(pixels, integer_white, name)
        if warn_of_color and channels == 1 and unit.shape[-1] in (3, 4):
            _warn_of_color(unit, name)
        tensor = torch.from_numpy(_with_channels(unit, channels, background / 255, name)).movedim(-1, 1)
    else:
        hint = ": open the file with PIL.Image.open" if isinstance(images, (str, bytes)) else ""
        raise TypeError(
            f"{name} must be a PIL image, an array, a tensor or a list of them, got {type(images).__name__}{hint}"
        )
    if size is not None and tuple(tensor.shape[-2:]) != tuple(size):
        raise ValueError(f"{name} must have height and width {tuple(size)}, got {tuple(tensor.shape[-2:])}: resize it")
    return tensor.contiguous()


def images_to_pixels(
    images: Any, channels: int, size: tuple[int, int] | None = None, levels: int = 256, name: str = "images"
) -> Tensor:
    """Images as int64 pixel values from 0 to `levels` - 1, shape (B, channels, height, width), on the CPU.

    Args:
        images, channels, size, name: as in `images_to_tensor`; with other `levels` than 256, integer arrays and tensors
            hold the pixel values themselves. Floats and 16-bit values are rounded to the nearest level.
        levels: number of pixel values.
    """
    white = None if levels == 256 else levels - 1
    unit = images_to_tensor(images, channels, size, name, integer_white=white)
    return (unit.cpu().double() * (levels - 1)).round().long()


def _warn_of_color(pixels: np.ndarray, name: str) -> None:
    if (np.ptp(pixels[..., :3], axis=-1) > 0).any():
        warnings.warn(f"{name} has color, and one channel is needed: its gray values are used", stacklevel=4)


def _numbers(images: np.ndarray | Tensor, name: str) -> np.ndarray:
    # As a NumPy array of booleans, integers or floats in native byte order.
    if isinstance(images, Tensor):
        if images.is_complex() or not is_dense(images):
            raise TypeError(f"{name} must be a dense tensor of real numbers, got {describe(images)}")
        if images.is_meta:
            raise ValueError(f"{name} must have data, got a tensor on the device 'meta'")
        images = images.detach().cpu().resolve_neg()
        images = (images.float() if images.is_floating_point() and images.itemsize < 4 else images).numpy()
    if images.dtype.kind not in "buif":
        raise TypeError(f"{name} must be an array of real numbers, got one of dtype {images.dtype}")
    if images.size == 0:
        raise ValueError(f"{name} must hold at least one image, got shape {images.shape}")
    if images.ndim not in (2, 3, 4):
        raise ValueError(f"{name} must be one image or a batch of images, got shape {images.shape}")
    return np.ascontiguousarray(images.astype(images.dtype.newbyteorder("="), copy=False))


def _channels_last(
    pixels: np.ndarray, channels: int, size: tuple[int, int] | None, name: str, last: bool
) -> np.ndarray:
    # (B, H, W, C): the first reading of the shape, in the order of the convention, that `channels` and `size` allow.
    if pixels.ndim == 2:
        return pixels[None, :, :, None]
    known = {1, channels, *IMAGE_MODES}
    if pixels.ndim == 4:
        at_end, at_front = (pixels, known | {2}), (np.moveaxis(pixels, 1, -1), known | {2})
        readings = [at_end, at_front] if last else [at_front, at_end]
    else:
        # Two planes are a batch of gray images; two values per pixel are gray and opacity.
        at_end, at_front = (pixels[None], known | {2}), (np.moveaxis(pixels, 0, -1)[None], known)
        gray = (pixels[..., None], {1})
        readings = [at_end, gray, at_front] if last else [at_front, at_end, gray]
    fitting = [reading for reading, allowed in readings if reading.shape[-1] in allowed and _has_size(reading, size)]
    if last and len(fitting) > 1 and channels > 1 and len(pixels) in (3, 4) and fitting[0] is gray[0]:
        raise ValueError(
            f"{name} must have channels last where it is an array, (H, W, C) or (B, H, W, 1), got {pixels.shape}, which may "
            "be one image in (C, H, W) or a batch of gray ones"
        )
    return (fitting or [reading for reading, allowed in readings if reading.shape[-1] in allowed] or [readings[0][0]])[
        0
    ]


def _has_size(pixels: np.ndarray, size: tuple[int, int] | None) -> bool:
    return size is None or pixels.shape[1:3] == tuple(size)


def _unit_range(pixels: np.ndarray, white: int | None, name: str) -> np.ndarray:
    # float32 in [0, 1].
    if pixels.dtype.kind == "b":
        return pixels.astype(np.float32)
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            hint = ": (x + 1) / 2 brings images from [-1, 1] there" if -1 <= low < 0 and high <= 1 else ""
            hint = ": divide 8-bit values by 255" if low >= 0 and 1 < high <= 255 else hint
            raise ValueError(f"{name} of floats must lie in [0, 1], got values from {low:g} to {high:g}{hint}")
        return pixels.astype(np.float32)
    white = white or (65535 if pixels.dtype == np.uint16 else 255)
    if low < 0 or high > white:
        raise ValueError(f"{name} of integers must lie in 0..{white}, got {low}..{high}")
    if white == 255:
        return pixels.astype(np.float32) / np.float32(255)
    return (pixels / white).astype(np.float32)


def _with_channels(unit: np.ndarray, channels: int, background: float, name: str) -> np.ndarray:
    # From (B, H, W, C) to (B, H, W, channels).
    if unit.shape[-1] == channels:
        return unit
    alpha = unit[..., -1:] if unit.shape[-1] in (2, 4) else np.ones_like(unit[..., :1])
    color = unit[..., :-1] if unit.shape[-1] in (2, 4) else unit
    if color.shape[-1] not in (1, 3) or (channels not in IMAGE_MODES and color.shape[-1] != 1):
        raise ValueError(f"{name} must have {channels} channels, got {unit.shape[-1]}")
    if channels != 4:
        color = color * alpha + background * (1 - alpha)
    if channels == 1:
        return (color @ np.asarray(GRAY_WEIGHTS, unit.dtype))[..., None] if color.shape[-1] == 3 else color
    color = np.repeat(color, 3 if channels == 4 else channels, axis=-1) if color.shape[-1] == 1 else color
    return np.concatenate([color, alpha], axis=-1) if channels == 4 else color


def _to_pil(array: np.ndarray) -> Image.Image:
    # uint8 (H, W, C) of 2, 3 or 4 channels.
    mode = {2: "LA", 3: "RGB", 4: "RGBA"}.get(array.shape[-1])
    if mode is None:
        raise ValueError(f"image must have 1, 2, 3 or 4 channels, got {array.shape[-1]}")
    return Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())
