"""Size and channels of training images: pictures of any size and mode to uint8 arrays of one shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..models.config_checks import height_and_width
from ..schedulers.checks import check_choice, check_integer, is_integer, shown
from .pil_pictures import IMAGE_MODES, WHITE, to_8_bit


FITS = ("crop", "pad")
MOST = 2**14  # pixels of a side: beyond it one picture fills the memory


@dataclass(frozen=True)
class ImageFormat:
    """How a picture of any size and mode becomes a uint8 array (channels, height, width); see `pil_pictures`.

    Attributes:
        resolution: side in pixels, or (height, width).
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        fit: "crop" resizes an image until it just covers the resolution and crops the centre; "pad" keeps an image that
            fits at its own size (a larger one is shrunk to fit) and centres it on a constant border.
        pad_value: the border's value for "pad", 0 (black) to 255.
        background: gray value, 0 to 255, on which transparent images are composited.

    Raises:
        ValueError: for a value out of its range, naming the attribute.
    """

    resolution: int | tuple[int, int]
    channels: int
    fit: str = "crop"
    pad_value: int = 0
    background: int = WHITE

    def __post_init__(self) -> None:
        if not is_integer(self.channels) or self.channels not in IMAGE_MODES:
            raise ValueError(f"channels must be one of {sorted(IMAGE_MODES)}, got {shown(self.channels)}")
        check_choice("fit", self.fit, FITS)
        sides: Any = (self.resolution, self.resolution) if is_integer(self.resolution) else self.resolution
        pair = isinstance(sides, (tuple, list)) and len(sides) == 2
        if not pair or not all(is_integer(side) and 1 <= side <= MOST for side in sides):
            raise ValueError(
                f"resolution must be one side or (height, width), from 1 to {MOST}, got {shown(self.resolution)}"
            )
        for name in ("pad_value", "background"):
            check_integer(name, getattr(self, name), 0, 255)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return height_and_width(self.resolution)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (int(self.channels), *self.size)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """A picture of any size and mode as uint8, shape (channels, height, width)."""
        if not isinstance(image, Image.Image):
            raise TypeError(f"image must be a PIL image, got {type(image).__name__}")
        if 0 in image.size:
            raise ValueError(f"image must hold at least one pixel, got size {image.size}")
        image = self._resized(to_8_bit(image, self.channels, self.background))
        pixels = np.asarray(image).reshape(image.height, image.width, self.channels).transpose(2, 0, 1)
        canvas = np.full(self.shape, self.pad_value, dtype=np.uint8)
        (source_y, target_y), (source_x, target_x) = map(overlap, pixels.shape[1:], self.size)
        canvas[:, target_y, target_x] = pixels[:, source_y, source_x]
        return canvas

    def _resized(self, image: Image.Image) -> Image.Image:
        height, width = fitted_sides((image.height, image.width), self.size, self.fit)
        return image.resize((width, height), Image.Resampling.LANCZOS)


def fitted_sides(sides: tuple[int, int], size: tuple[int, int], fit: str) -> tuple[int, int]:
    """Height and width to which "crop" or "pad" resize a picture of the given sides for `size`, both (height, width)."""
    # By target / source of the side that decides: the one that needs the larger factor for "crop", else the smaller.
    decides = 0 if (size[0] * sides[1] >= size[1] * sides[0]) == (fit == "crop") else 1
    target, source = size[decides], sides[decides]
    if target == source or (fit == "pad" and target > source):
        return sides
    height, width = (max(1, round(length * target / source)) for length in sides)
    return height, width


def overlap(source: int, target: int) -> tuple[slice, slice]:
    """The centred common part of two lengths, as slices into either."""
    length = min(source, target)
    start, offset = (source - length) // 2, (target - length) // 2
    return slice(start, start + length), slice(offset, offset + length)
