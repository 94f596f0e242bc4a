"""The sizes of images that networks run at, whole or on tiles."""

from collections.abc import Sequence
from typing import Any

from .schedulers.checks import check_integer, shown
from .schedulers.tiled_score import check_overlap, check_tile_size


TileSize = int | tuple[int, int] | None


def check_tiles(tile_size: TileSize, tile_overlap: int | None) -> tuple[int, int] | None:
    """Height and width of a tile, or None without tiles; raises ValueError for a size or an overlap out of range."""
    if tile_size is None:
        if tile_overlap is not None:
            raise ValueError(f"tile_overlap must be None without a tile_size, got {shown(tile_overlap)}")
        return None
    tile = check_tile_size(tile_size)
    check_overlap(tile_overlap, tile, "tile_overlap")
    return tile


def check_sides(
    networks: Sequence[Any],
    own: tuple[int, int],
    height: int | None,
    width: int | None,
    tile: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """Height and width of images of another size than `own`, which `None` stands for.

    Args:
        networks: all run at this size, or at that of a tile, where the image is larger.
        own: the size that they were trained at.

    Raises:
        TypeError, ValueError: for a size at which a network does not run.
    """
    sides = (
        own[0] if height is None else check_integer("height", height),
        own[1] if width is None else check_integer("width", width),
    )
    levels = [len(getattr(network.config, "block_out_channels", ())) for network in networks]
    for side_name, side, default, largest in zip(("height", "width"), sides, own, tile or sides):
        name, seen = (side_name, side) if side <= largest else ("tile_size", largest)
        if seen == default:
            continue
        if 0 in levels:
            only = type(networks[levels.index(0)]).__name__
            raise ValueError(f"{name} must be {default}, the only one of {only}, got {seen}")
        factor = 2 ** (max(levels) - 1)
        if seen % factor == 0:
            continue
        divided = f"divisible by {factor} for {max(levels)} levels"
        if tile and seen >= factor and name != "tile_size":
            most = seen - seen % factor
            raise ValueError(
                f"tile_size must be at most {most} in the {name} {seen}, got {largest}: {name} is not {divided}"
            )
        raise ValueError(f"{name} must be {divided}, got {seen}")
    return sides
