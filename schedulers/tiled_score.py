r"""The score of pictures larger than those that a network was trained on: the mean of its scores on overlapping tiles.

With the tile number k cut out by P_k and windows w_k whose sum is 1 at each pixel,

    score(x, t) = sum_k w_k P_k^T score_tile(P_k x, t).

At each step all tiles are parts of one state, so that what they share is sampled once (MultiDiffusion, Bar-Tal et al. 2023,
eq. 3-5). The denoised image is affine in the score: to average one is to average the other.

A window is a product of one function of the row and one of the column, which rises as sin^2 over the overlap of two tiles
and is flat at the border of the picture.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .checks import check_function, check_integer, check_state, check_time, is_integer, shown
from .score_function import ScoreFunction, check_score, part, select_rows
from .transfers import to_device


MAX_BATCH = 16


class TiledScore:
    """A score function for pictures of any size, made of one for tiles; a score function `(x, t) -> score` itself.

    Args:
        score_fn: the score of tiles, `(x, t) -> (n, C, tile height, tile width)`. What it holds for each sample (labels)
            serves all tiles of the sample.
        tile_size: height and width of a tile, or one number for both; a larger tile than the picture is cut to its size.
        overlap: by how many pixels neighbouring tiles overlap at least; by default half a tile. More hides the seams better,
            and costs more tiles: about (tile_size / (tile_size - overlap))^2 times the pixels.
        max_batch: number of tiles that `score_fn` is called with at a time, which bounds the memory. Where gradients are
            recorded and there are more tiles, each derivative evaluates `score_fn` a second time instead of storing
            activations.

    Raises:
        TypeError, ValueError: for an argument of another type or out of its range, an overlap of a whole tile among them.

    Example:

    ```python
    score_fn = TiledScore(scheduler.score_fn(unet), tile_size=32)
    posterior = MomentMatching(score_fn, scheduler.sde, GrayOperator(), gray_photo)
    ```
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        tile_size: int | Sequence[int],
        overlap: int | None = None,
        max_batch: int = MAX_BATCH,
    ) -> None:
        check_function("score_fn", score_fn, 2)
        self.score_fn = score_fn
        self.tile_size = check_tile_size(tile_size)
        self.overlaps = check_overlap(overlap, self.tile_size)
        self.max_batch = check_integer("max_batch", max_batch)

    def __call__(self, x: Tensor, t: Tensor, **values: Tensor) -> Tensor:
        """The score of the pictures `x` (B, C, H, W) at the time `t`, () or (B,); `values` (B, ...) go to `score_fn`."""
        if check_state("x", x).ndim != 4:
            raise ValueError(f"x must have shape (B, C, H, W), got {tuple(x.shape)}")
        t = check_time("t", t, x)
        rows, columns = (tiles_along(*side) for side in zip(x.shape[-2:], self.tile_size, self.overlaps))
        if len(rows.starts) == len(columns.starts) == 1:
            return check_score(self.score_fn(x, t, **values), x)
        tiles = columns.cut(rows.cut(x, -2), -1)  # (columns, rows, B, C, height, width)
        grid = tiles.shape[:2]
        index = torch.arange(len(x), device=x.device).repeat(grid.numel())
        score = self._score(tiles.flatten(0, 2), t, index, values)
        return rows.join(columns.join(score.unflatten(0, (*grid, len(x))), -1), -2)

    def _score(self, tiles: Tensor, t: Tensor, index: Tensor, values: dict[str, Tensor]) -> Tensor:
        """The score of tiles (n, C, h, w), of which number k belongs to the sample `index[k]`."""

        def score(tile: Tensor, samples: Tensor) -> Tensor:
            time = t[samples.to(t.device)] if t.numel() > 1 else t
            own = {name: value[samples.to(value.device)] for name, value in values.items()}
            return check_score(select_rows(self.score_fn, samples)(tile, time, **own), tile)

        batches = list(zip(tiles.split(self.max_batch), index.split(self.max_batch)))
        if len(batches) == 1 or not (torch.is_grad_enabled() and tiles.requires_grad):
            return torch.cat([score(*batch) for batch in batches])
        return torch.cat([checkpoint(score, *batch, use_reentrant=False) for batch in batches])

    def rows(self, index: Tensor) -> "TiledScore":
        """The same for the samples `index` (b,) alone."""
        return part(self, index, "score_fn")


class Tiles:
    """Tiles along one side of a picture, as evenly spaced as whole pixels allow.

    Args:
        length: of the side, in pixels.
        tile: length of a tile.
        overlap: of neighbours, at least; less than `tile`.

    Attributes:
        starts: the first pixel of each tile.
        windows: weights of their pixels, float64, (number of tiles, length of a tile); their sum is 1 at each pixel.
    """

    def __init__(self, length: int, tile: int, overlap: int):
        self.length, self.tile = length, min(length, tile)
        count = max(1, math.ceil((length - overlap) / (tile - overlap))) if length > tile else 1
        self.starts = [round(k * (length - self.tile) / max(count - 1, 1)) for k in range(count)]
        self.windows = self._windows()

    def _windows(self) -> Tensor:
        windows = torch.ones(len(self.starts), self.tile, dtype=torch.float64, device="cpu")
        for k, (start, following) in enumerate(zip(self.starts, self.starts[1:])):
            shared = start + self.tile - following
            pixels = torch.arange(shared, dtype=torch.float64, device="cpu") + 0.5
            rise = torch.sin(0.5 * math.pi * pixels / max(shared, 1)) ** 2
            windows[k + 1, :shared] *= rise
            windows[k, self.tile - shared :] *= rise.flip(0)
        total = torch.stack([self._placed(window, -1, start) for window, start in zip(windows, self.starts)]).sum(0)
        return torch.stack([window / total[start : start + self.tile] for window, start in zip(windows, self.starts)])

    def cut(self, x: Tensor, dim: int) -> Tensor:
        """The tiles of `x` along `dim`, (number of tiles, *shape with `tile` in the place of `length`)."""
        return torch.stack([x.narrow(dim, start, self.tile) for start in self.starts])

    def join(self, tiles: Tensor, dim: int) -> Tensor:
        """The mean, weighted by the windows, of what `cut` returns; `dim` is -1 or -2."""
        windows = to_device(self.windows, tiles.device, tiles.dtype)
        weights = windows if dim == -1 else windows[..., None]
        parts = (self._placed(w * tile, dim, start) for w, tile, start in zip(weights, tiles, self.starts))
        return sum(parts)  # type: ignore[return-value]

    def _placed(self, part: Tensor, dim: int, start: int) -> Tensor:
        # With zeros around it. Not in place: derivatives and `vmap` pass through.
        padding = (0, 0) * (-1 - dim) + (start, self.length - self.tile - start)
        return functional.pad(part, padding)


@lru_cache(maxsize=64)
def tiles_along(length: int, tile: int, overlap: int) -> Tiles:
    """`Tiles`, made once: a run asks for the same ones at every network call."""
    return Tiles(length, tile, overlap)


def check_tile_size(tile_size: Any) -> tuple[int, int]:
    """Height and width of a tile; raises ValueError for anything but one or two positive integers."""
    sides = (tile_size, tile_size) if is_integer(tile_size) else tile_size
    if not isinstance(sides, (tuple, list)) or len(sides) != 2:
        raise ValueError(f"tile_size must be a positive integer or (height, width), got {shown(tile_size)}")
    height, width = (check_integer("tile_size", side) for side in sides)
    return height, width


def check_overlap(overlap: Any, tile_size: tuple[int, int], name: str = "overlap") -> tuple[int, int]:
    """The overlaps of rows and of columns of tiles; `None` is half a tile. Raises ValueError for others than allowed."""
    if overlap is None:
        return tile_size[0] // 2, tile_size[1] // 2
    overlap = check_integer(name, overlap, least=0)
    if overlap >= min(tile_size):
        raise ValueError(f"{name} must be less than tile_size {tile_size}, got {overlap}")
    return overlap, overlap
