r"""3x3 convolutions with half the multiplications: Winograd's F(4, 3) along the columns (Lavin & Gray 2016).

Four output rows of a 3-tap filter take six products instead of twelve: with polynomials evaluated at six points,

    y = A^T [ (G g) * (B^T d) ],     g 3 taps, d 6 rows, y 4 rows,

where every product is here a convolution along the row (1x3). The points are 0, infinity, +-3/4 and +-3/2, which round
less than the usual 0, +-1 and +-2. In channels_last memory a row of an image is one block, so that the transforms are long
additions. Points come in pairs, of which one is in memory at a time.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight


Pair = tuple[Tensor, Tensor]
RowConvolution = Callable[[Tensor, Tensor], Tensor]

NEAR, FAR = 0.75, 1.5
NEAR2, FAR2 = NEAR**2, FAR**2
CHUNK_BYTES = 16 << 20  # of transformed images: they should stay in the cache


def row_convolution(x: Tensor, row: Tensor) -> Tensor:
    """The convolution (B, C', H, W) of images (B, C, H, W) with filters (C', C, 1, 3)."""
    return F.conv2d(x, row, padding=(0, 1))


def transform_filters(weight: Tensor) -> Iterator[Pair]:
    """G g of filters (C', C, 3, 3): three pairs of rows (C', C, 1, 3) in channels_last memory."""
    g0, g1, g2 = weight.permute(2, 0, 3, 1)[:, :, None].contiguous()
    yield _images(g0 / (NEAR2 * FAR2)), _images(g2)
    for point, scale in _scales():
        even, odd = torch.add(g0, g2, alpha=point**2).mul_(scale), g1 * (scale * point)
        yield _images(even + odd), _images(even.sub_(odd))


def _scales() -> Iterator[tuple[float, float]]:
    # The products of the points +-p are p times Lagrange's: the second output row then is their plain sum.
    for point, other2 in ((NEAR, FAR2), (FAR, NEAR2)):
        yield point, 1 / (2 * point * (point**2 - other2))


def convolve(
    x: Tensor,
    filters: Iterable[Pair],
    out_channels: int,
    bias: Tensor | None,
    row_convolution: RowConvolution = row_convolution,
) -> Tensor:
    """The 3x3 convolution with padding 1.

    Args:
        x: images (B, C, H, W) in channels_last memory; H a multiple of 4.
        filters: from `transform_filters`, or what `row_convolution` takes in their place.
        out_channels: C'.
        bias: (C',) or None.

    Returns:
        (B, C', H, W) in channels_last memory.
    """
    count, _, height, width = x.shape
    # Not a view itself, so that the caller may add to it in place.
    shape = (count, out_channels, height, width)
    result = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    tiles, out = _tiles(x), _tiles(result)
    chunks = list(_chunks(tiles))
    if len(chunks) > 1:
        filters = list(filters)
    for images, start, stop in chunks:
        products = (
            (_rows(row_convolution(_images(v), g)), _rows(row_convolution(_images(w), h)))
            for (v, w), (g, h) in zip(_transform(tiles[images], start, stop), filters)
        )
        _combine(products, out[images, start:stop])
    return result if bias is None else result.add_(bias[:, None, None])


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient (C', C, 3, 3) of `(convolution of x * grad).sum()` to the filters.

    Args:
        x: (B, C, H, W), and
        grad: (B, C', H, W), both in channels_last memory; H a multiple of 4.
    """
    # G^T of the sum over the tiles of (B^T d) * (A y), all transposed.
    tiles, grads = _tiles(x), _tiles(grad)
    shape = (grad.shape[1], x.shape[1], 1, 3)
    total = x.new_zeros(3, 2, *shape)
    for images, start, stop in _chunks(tiles):
        pairs = zip(total, _transform(tiles[images], start, stop), _spread(grads[images, start:stop]))
        for sums, rows, spread in pairs:
            for one, v, y in zip(sums, rows, spread):
                one.add_(conv2d_weight(_images(v), shape, _images(y), padding=(0, 1)))
    (zero, g2), *others = total
    g0, g1 = zero.div_(NEAR2 * FAR2), torch.zeros_like(zero)
    for (plus, minus), (point, scale) in zip(others, _scales()):
        even, odd = plus + minus, plus.sub_(minus)
        g0.add_(even, alpha=scale)
        g1.add_(odd, alpha=scale * point)
        g2.add_(even, alpha=scale * point**2)
    return torch.cat([g0, g1, g2], dim=2)


def _tiles(x: Tensor) -> Tensor:
    # (B, C, H, W) in channels_last memory -> tiles of four rows (B, H/4, 4, W, C), a view.
    count, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).view(count, height // 4, 4, width, channels)


def _chunks(tiles: Tensor) -> Iterator[tuple[slice, int, int]]:
    # Images, and first and last row of tiles, of the pieces that fit the cache.
    count, rows, _, width, channels = tiles.shape
    rows_at_once = max(1, CHUNK_BYTES // (6 * width * channels * tiles.element_size()))
    images_at_once = max(1, rows_at_once // rows)
    for image in range(0, count, images_at_once):
        for start in range(0, rows, rows_at_once):
            yield slice(image, image + images_at_once), start, min(start + rows_at_once, rows)


def _images(rows: Tensor) -> Tensor:
    # (b, tiles, W, C) -> images (b, C, tiles, W) in channels_last memory, a view; filters likewise.
    return rows.permute(0, 3, 1, 2)


def _rows(images: Tensor) -> Tensor:
    # The inverse of `_images`.
    return images.permute(0, 2, 3, 1)


def _transform(tiles: Tensor, start: int, stop: int) -> Iterator[Pair]:
    # B^T d for the tiles (b, H/4, 4, W, C) from `start` to `stop`: three pairs of (b, stop - start, W, C), each overwritten
    # by the next. A tile's six rows d0 to d5 are its own four, the last of the tile above and the first of the one below;
    # outside the image they are zero.
    d1, d2, d3, d4 = tiles[:, start:stop].unbind(2)
    first, second, third = tiles.new_empty(3, *d1.shape)
    torch.sub(d4, d2, alpha=NEAR2 + FAR2, out=first)  # + NEAR2 FAR2 d0
    first[:, start == 0 :].add_(tiles[:, max(start - 1, 0) : stop - 1, 3], alpha=NEAR2 * FAR2)
    torch.mul(d1, NEAR2 * FAR2, out=second).sub_(d3, alpha=NEAR2 + FAR2)  # + d5
    below = tiles[:, start + 1 : stop + 1, 0]
    second[:, : below.shape[1]].add_(below)
    yield first, second
    for point, other2 in ((NEAR, FAR2), (FAR, NEAR2)):
        even, odd = torch.sub(d4, d2, alpha=other2, out=first), torch.sub(d3, d1, alpha=other2, out=second)
        yield torch.add(even, odd, alpha=point, out=third), even.sub_(odd, alpha=point)


def _combine(products: Iterator[Pair], out: Tensor) -> None:
    # A^T m: three pairs of (b, tiles, W, C') -> (b, tiles, 4, W, C'). Overwrites the products, each made when it is needed.
    y0, y1, y2, y3 = out.unbind(2)
    zero, infinite = next(products)
    even, minus = next(products)
    odd = torch.sub(even, minus, out=y1)
    even.add_(minus)
    torch.add(zero, even, alpha=1 / NEAR, out=y0)
    torch.mul(even, NEAR, out=y2)
    torch.add(infinite, odd, alpha=NEAR2, out=y3)
    del zero, infinite, minus
    odd, minus = next(products)
    torch.add(odd, minus, out=even)
    odd.sub_(minus)
    y0.add_(even, alpha=1 / FAR)
    y1.add_(odd)
    y2.add_(even, alpha=FAR)
    y3.add_(odd, alpha=FAR2)


def _spread(rows: Tensor) -> Iterator[Pair]:
    # A y: (b, tiles, 4, W, C') -> three pairs of (b, tiles, W, C'), the transpose of `_combine`; each overwrites the last.
    y0, y1, y2, y3 = rows.unbind(2)
    first, second, third = rows.new_empty(3, *y0.shape)
    yield first.copy_(y0), second.copy_(y3)
    for point in (NEAR, FAR):
        even = torch.mul(y0, 1 / point, out=first).add_(y2, alpha=point)
        odd = torch.add(y1, y3, alpha=point**2, out=second)
        yield torch.add(even, odd, out=third), even.sub_(odd)
