"""PIL images of every mode as pixels: upright, on one background, gray or color.

The rules, for every entry of the package:

- The EXIF orientation is applied.
- Transparency is composited on one background, white by default, unless four channels are required.
- Color becomes gray with Pillow's ITU-R 601 weights, (0.299, 0.587, 0.114); every other color space passes through RGB.
- "I;16" spans 0..65535. "I" and "F" do not say their range: the largest value decides whether it is 1 ("F" alone), 255 or
  65535. An "I" image that was read from a file is a 16-bit one.
"""

import struct

import numpy as np
from PIL import Image, ImageOps


IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GRAY_MODES = ("1", "L", "LA", "La", "I", "F")
WHITE = 255


def is_wide(image: Image.Image) -> bool:
    """Whether the pixels hold more than 8 bits, which Pillow's `convert` would clip."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def is_gray(image: Image.Image) -> bool:
    """Whether the image has no color, by its mode and palette; pixels are not read."""
    if image.mode in ("P", "PA"):
        palette = image.getpalette("RGB") or []
        return palette[0::3] == palette[1::3] == palette[2::3]
    return image.mode in GRAY_MODES or is_wide(image)


def has_transparency(image: Image.Image) -> bool:
    """Whether the image can be transparent anywhere, by its mode and header; pixels are not read."""
    palette = image.palette
    return (
        image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        or "transparency" in image.info
        or (image.mode == "P" and palette is not None and palette.mode.endswith("A"))
    )


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; an unreadable EXIF block counts as none."""
    try:
        orientation = image.getexif().get(0x0112, 1)
        return image if orientation == 1 else ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return image


def to_8_bit(image: Image.Image, channels: int, background: int = WHITE, name: str = "image") -> Image.Image:
    """An image of any mode in mode "L" (1 channel), "RGB" (3) or "RGBA" (4).

    Args:
        image: any PIL image.
        channels: 1, 3 or 4; 4 keeps the opacity.
        background: gray value, 0 (black) to 255 (white), on which transparency is composited.
        name: of the argument, for errors.

    Raises:
        ValueError: for a mode that Pillow does not convert, a number of channels without a mode, and 32-bit values that
            are negative, NaN or above 65535.
    """
    if channels not in IMAGE_MODES:
        raise ValueError(f"{name} as a PIL image must have {sorted(IMAGE_MODES)} channels, the network has {channels}")
    if is_wide(image):
        values = _wide_values(image, background, name)
        return Image.fromarray(np.rint(values * 255).astype(np.uint8)).convert(IMAGE_MODES[channels])
    image = upright(image)
    try:
        if has_transparency(image):
            # "La" and "RGBa" are premultiplied by their opacity.
            image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
            if channels != 4:
                ground = Image.new("RGBA", image.size, (background,) * 3 + (255,))
                image = Image.alpha_composite(ground, image)
        elif image.mode != "L":
            image = image.convert("RGB")
        # From RGBA to L Pillow drops the opacity, which is full by now.
        return image.convert(IMAGE_MODES[channels])
    except ValueError as error:
        raise ValueError(f"{name} must be in a mode that Pillow converts, got {image.mode}") from error


def to_unit(image: Image.Image, channels: int, background: int = WHITE, name: str = "image") -> np.ndarray:
    """An image of any mode as float32 in [0, 1], shape (height, width, channels).

    Equal to `to_8_bit` divided by 255 except for 16-bit and float modes, which keep their precision. Arguments and errors
    are those of `to_8_bit`.
    """
    if is_wide(image) and channels in IMAGE_MODES:
        gray = _wide_values(image, background, name)[..., None]
        alpha = [np.ones_like(gray)] if channels == 4 else []
        return np.concatenate([gray] * min(channels, 3) + alpha, axis=-1).astype(np.float32)
    pixels = np.asarray(to_8_bit(image, channels, background, name), dtype=np.float32)
    return np.atleast_3d(pixels) / np.float32(255)


def _wide_values(image: Image.Image, background: int, name: str) -> np.ndarray:
    # Gray values in [0, 1] of a 16-bit, 32-bit or float image, float64 (H, W).
    pixels = np.asarray(upright(image)).astype(np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 65535:
        raise ValueError(f"{name} in mode {image.mode} must hold values from 0 to 65535, got {low:g} to {high:g}")
    if image.mode == "F":
        white = next(top for top in (1.0, 255.0, 65535.0) if high <= top)
    else:
        white = 255.0 if image.mode == "I" and high <= 255 and image.format is None else 65535.0
    values = pixels / white
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[pixels == transparent] = background / 255
    return values
