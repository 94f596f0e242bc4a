"""Many images in one picture: grids with a row per class, and GIFs."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..image_inputs import images_to_tensor
from ..schedulers.checks import check_integer, check_path
from ..training.durable_files import written_whole
from ..training.sampling import image_grid


LAST_FRAME = 1500  # milliseconds: the result stays visible before the GIF starts again
COLORS = 64  # of a frame's palette: noise does not compress, and more colours double the file


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1], (B, C, H, W), as uint8 on the CPU."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def class_grid(images: Any, labels: Sequence[Any], scale: int = 2) -> Image.Image:
    """A grid with one row per class and the name of the class before it.

    Args:
        images: PIL images, an array (B, H, W, C) or a tensor (B, C, H, W) in [0, 1]: the `images` of a pipeline.
        labels: the class of each image, by name or number. Rows are in the order in which classes appear; shorter rows end
            in white.
        scale: side in pixels of each pixel.

    Returns:
        A picture in mode "RGB"; the names take the left margin, the images the rest, as `image_grid` places them.

    Raises:
        TypeError, ValueError: for a number of labels that is not that of the images, or a scale below 1.
    """
    check_integer("scale", scale)
    cells = to_bytes(images_to_tensor(images, 3, name="images"))
    if not isinstance(labels, Collection):
        raise TypeError(f"labels must be a sequence, one per image, got {type(labels).__name__}")
    if len(labels) != len(cells) or not len(cells):
        raise ValueError(f"labels must be one per image, {len(cells)}, got {len(labels)}")
    rows: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        rows.setdefault(str(label), []).append(index)
    columns = max(map(len, rows.values()))
    placed = torch.full((len(rows) * columns, *cells.shape[1:]), 255, dtype=torch.uint8)
    for row, members in enumerate(rows.values()):
        placed[row * columns : row * columns + len(members)] = cells[members]
    return _named(image_grid(placed, columns, scale), list(rows), (cells.shape[2] + 2) * scale)


def _named(grid: Image.Image, names: list[str], row_height: int) -> Image.Image:
    font = ImageFont.load_default(max(10, row_height // 4))
    margin = 8 + max(round(font.getlength(name)) for name in names)
    picture = Image.new("RGB", (margin + grid.width, grid.height), "white")
    picture.paste(grid, (margin, 0))
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(names):
        draw.text((margin - 4, row * row_height + row_height // 2), name, "black", font, anchor="rm")
    return picture


def save_gif(frames: Sequence[Image.Image], path: str | Path, milliseconds: int = 80) -> None:
    """An animation that repeats; the last frame is shown for 1.5 seconds.

    Args:
        frames: pictures of one size, at least one.
        path: of the GIF.
        milliseconds: time of each other frame, a multiple of 10.

    Raises:
        TypeError: for frames that are no PIL images.
        ValueError: for no frames, frames of several sizes, or less than 10 milliseconds.
    """
    check_integer("milliseconds", milliseconds, 10)
    check_path("path", path)
    pictures = frames if isinstance(frames, (list, tuple)) else [frames]
    kinds = [type(picture).__name__ for picture in pictures if not isinstance(picture, Image.Image)]
    if kinds or pictures is not frames:
        raise TypeError(f"frames must be a list of PIL images, got {kinds[0] if kinds else 'one'}")
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) != 1:
        raise ValueError(f"frames must be at least one picture, all of one size, got sizes {sizes}")
    first, *rest = (frame.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE) for frame in frames)
    durations = [milliseconds] * len(rest) + [LAST_FRAME]
    with written_whole(path) as scratch:
        first.save(scratch, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)


__all__ = ["class_grid", "save_gif"]
