r"""3x3 convolutions on a CPU with half the multiplications: Winograd's F(4, 3) along the columns (Lavin & Gray 2016).

Four output rows of a 3-tap filter take six products instead of twelve: with polynomials evaluated at six points,

    y = A^T [ (G g) * (B^T d) ],     g 3 taps, d 6 rows, y 4 rows,

where every product is here a convolution along the row (1x3). The points 0, +-3/4, +-3/2 and infinity leave the
rounding error at 1.4 times that of the direct sum; the usual 0, +-1, +-2 at 2.3 times. In channels_last memory a row of an
image is one block, so that the transforms are long additions. They cost 12 + 11 passes over a quarter of the rows, and
pay from some 24 channels, a thousand pixels and 67 million products (without the nine taps) on.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight


NEAR, FAR = 0.75, 1.5
NEAR2, FAR2 = NEAR**2, FAR**2
# The products of the points +-NEAR and +-FAR are scaled by the point: the second output row then is their plain sum.
FILTER_TRANSFORM = torch.tensor(
    [[1 / (NEAR2 * FAR2), 0.0, 0.0]]
    + [
        [scale * point**k for k in range(3)]
        for point, scale in (
            (NEAR, NEAR / (2 * NEAR2 * (NEAR2 - FAR2))),
            (-NEAR, NEAR / (2 * NEAR2 * (NEAR2 - FAR2))),
            (FAR, FAR / (2 * FAR2 * (FAR2 - NEAR2))),
            (-FAR, FAR / (2 * FAR2 * (FAR2 - NEAR2))),
        )
    ]
    + [[0.0, 0.0, 1.0]],
    dtype=torch.float32,
    device="cpu",
)
MIN_PIXELS, MIN_CHANNELS, MIN_PRODUCTS = 1024, 24, 1 << 26
CHUNK_BYTES = 8 << 20  # of transformed images: they should stay in the cache


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that keeps the image's size; on a CPU in float32 about 1.5 times as fast as `torch.nn.Conv2d`."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C', H, W)``."""
        return conv3x3(input, self.weight, self.bias)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)`` for 3x3 filters, by Winograd's algorithm where that pays.

    Args:
        x: (B, C, H, W).
        weight: (C', C, 3, 3).
        bias: (C',) or None.
    """
    if x.dtype == weight.dtype and _pays(x, len(weight)):
        return _Convolution.apply(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=1)


def conv3x3_weight(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient (C', C, 3, 3) of ``(conv3x3(x, weight) * grad).sum()`` to the weight.

    Args:
        x: (B, C, H, W).
        grad: (B, C', H, W).
    """
    if x.dtype == grad.dtype and _pays(x, grad.shape[1]) and _pays(grad, x.shape[1]):
        return _WeightGradient.apply(x, grad)
    return conv2d_weight(x, (grad.shape[1], x.shape[1], 3, 3), grad, padding=1)


def _pays(x: Tensor, channels: int) -> bool:
    # Whether for images `x` and `channels` channels on the other side.
    if torch.compiler.is_compiling() or x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or x.ndim != 4:
        return False
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    products = x.shape[1] * channels
    return (
        x.dtype == torch.float32
        and x.shape[2] % 4 == 0
        and pixels >= MIN_PIXELS
        and products >= MIN_CHANNELS * (x.shape[1] + channels)
        and pixels * products >= MIN_PRODUCTS
        and x.permute(0, 2, 3, 1).is_contiguous()
    )


def _turned(weight: Tensor) -> Tensor:
    # The filters that carry gradients back: (C', C, 3, 3) -> (C, C', 3, 3).
    return weight.flip(2, 3).transpose(0, 1)


class _Convolution(torch.autograd.Function):
    """The convolution with its derivatives, all of them convolutions again."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(x, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            conv3x3(grad, _turned(weight)) if wanted[0] else None,
            conv3x3_weight(x, grad) if wanted[1] else None,
            grad.sum((0, 2, 3)) if wanted[2] else None,
        )

    @staticmethod
    def jvp(ctx, x_dot, weight_dot, bias_dot):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        parts = []
        if x_dot is not None:
            parts.append(conv3x3(x_dot, weight))
        if weight_dot is not None:
            parts.append(conv3x3(x, weight_dot))
        if bias_dot is not None:
            parts.append(bias_dot[:, None, None].expand(len(x), -1, *x.shape[2:]))
        return sum(parts)

    @staticmethod
    def vmap(info, in_dims, x, weight, bias):  # type: ignore[no-untyped-def]
        return torch.vmap(lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1), in_dims)(x, weight, bias), 0


class _WeightGradient(torch.autograd.Function):
    """The weight's gradient, bilinear in images and gradients, with its derivatives."""

    @staticmethod
    def forward(x: Tensor, grad: Tensor) -> Tensor:
        return _correlate(x, grad)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, weight):  # type: ignore[no-untyped-def]
        x, grad = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return conv3x3(grad, _turned(weight)) if wanted[0] else None, conv3x3(x, weight) if wanted[1] else None

    @staticmethod
    def jvp(ctx, x_dot, grad_dot):  # type: ignore[no-untyped-def]
        x, grad = ctx.saved_tensors
        parts = [] if x_dot is None else [conv3x3_weight(x_dot, grad)]
        return sum(parts if grad_dot is None else [*parts, conv3x3_weight(x, grad_dot)])

    @staticmethod
    def vmap(info, in_dims, x, grad):  # type: ignore[no-untyped-def]
        def direct(x: Tensor, grad: Tensor) -> Tensor:
            return conv2d_weight(x, (grad.shape[1], x.shape[1], 3, 3), grad, padding=1)

        return torch.vmap(direct, in_dims)(x, grad), 0


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
    # (b, tiles, W, C) -> images (b, C, tiles, W) in channels_last memory, a view.
    return rows.permute(0, 3, 1, 2)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    count, _, height, width = x.shape
    # Not a view itself, so that the caller may add to it in place.
    shape = (count, len(weight), height, width)
    result = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    tiles, out, filters = _tiles(x), _tiles(result), _transform_filters(weight)
    for images, start, stop in _chunks(tiles):
        transformed = _transform_rows(tiles[images], start, stop)
        products = [F.conv2d(_images(v), g, padding=(0, 1)) for v, g in zip(transformed, filters)]
        _combine([product.permute(0, 2, 3, 1) for product in products], out[images, start:stop])
    return result if bias is None else result.add_(bias[:, None, None])


def _correlate(x: Tensor, grad: Tensor) -> Tensor:
    # G^T of the sum over the tiles of (B^T d) * (A y), all transposed.
    tiles, grads = _tiles(x), _tiles(grad)
    shape = (grad.shape[1], x.shape[1], 1, 3)
    total = x.new_zeros(6, *shape)
    for images, start, stop in _chunks(tiles):
        transformed = _transform_rows(tiles[images], start, stop)
        spread = _spread(grads[images, start:stop])
        for one, v, y in zip(total, transformed, spread):
            one.add_(conv2d_weight(_images(v), shape, _images(y), padding=(0, 1)))
    return (FILTER_TRANSFORM.T @ total.view(6, -1)).view(3, *shape[:2], 3).permute(1, 2, 0, 3)


def _transform_filters(weight: Tensor) -> Tensor:
    # G g: (C', C, 3, 3) -> six (C', C, 1, 3), channels_last.
    out_channels, in_channels = weight.shape[:2]
    taps = weight.permute(2, 0, 3, 1).reshape(3, -1)
    return (FILTER_TRANSFORM @ taps).view(6, out_channels, 1, 3, in_channels).permute(0, 1, 4, 2, 3)


def _transform_rows(rows: Tensor, start: int, stop: int) -> Tensor:
    # B^T d for the tiles from `start` to `stop`: (b, H/4, 4, W, C) -> (6, b, stop - start, W, C). A tile's six rows d0 to
    # d5 are its own four, the last of the tile above and the first of the one below; outside the image they are zero.
    d1, d2, d3, d4 = rows[:, start:stop].unbind(2)
    out = rows.new_empty(6, *d1.shape)
    even, odd = torch.sub(d4, d2, alpha=FAR2), torch.sub(d3, d1, alpha=FAR2)
    torch.add(even, odd, alpha=NEAR, out=out[1])
    torch.sub(even, odd, alpha=NEAR, out=out[2])
    first = torch.sub(even, d2, alpha=NEAR2, out=out[0])  # + NEAR2 FAR2 d0
    first[:, start == 0 :].add_(rows[:, max(start - 1, 0) : stop - 1, 3], alpha=NEAR2 * FAR2)
    last = torch.mul(odd, -NEAR2, out=out[5]).sub_(d3, alpha=FAR2)  # + d5
    below = rows[:, start + 1 : stop + 1, 0]
    last[:, : below.shape[1]].add_(below)
    torch.sub(d4, d2, alpha=NEAR2, out=even)
    torch.sub(d3, d1, alpha=NEAR2, out=odd)
    torch.add(even, odd, alpha=FAR, out=out[3])
    torch.sub(even, odd, alpha=FAR, out=out[4])
    return out


def _combine(products: list[Tensor], out: Tensor) -> None:
    # A^T m: six (b, tiles, W, C') -> (b, tiles, 4, W, C'). Overwrites the products.
    zero, plus, minus, far_plus, far_minus, infinite = products
    even = plus + minus
    odd = plus.sub_(minus)
    far_even = torch.add(far_plus, far_minus, out=minus)
    far_odd = far_plus.sub_(far_minus)
    torch.add(zero, even, alpha=1 / NEAR, out=out[:, :, 0]).add_(far_even, alpha=1 / FAR)
    torch.add(odd, far_odd, out=out[:, :, 1])
    torch.mul(even, NEAR, out=out[:, :, 2]).add_(far_even, alpha=FAR)
    torch.add(infinite, odd, alpha=NEAR2, out=out[:, :, 3]).add_(far_odd, alpha=FAR2)


def _spread(rows: Tensor) -> Tensor:
    # A y: (b, tiles, 4, W, C') -> (6, b, tiles, W, C'), the transpose of `_combine`.
    y0, y1, y2, y3 = rows.unbind(2)
    out = rows.new_empty(6, *y0.shape)
    out[0].copy_(y0)
    for k, point in ((1, NEAR), (3, FAR)):
        even, odd = torch.mul(y0, 1 / point).add_(y2, alpha=point), torch.add(y1, y3, alpha=point**2)
        torch.add(even, odd, out=out[k])
        torch.sub(even, odd, out=out[k + 1])
    out[5].copy_(y3)
    return out
