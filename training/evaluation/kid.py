r"""Kernel distance (KID, Binkowski et al. 2018): the squared maximum mean discrepancy of two sets of features.

With the kernel `k(a, b) = (a.b / D + 1)^3` and features x_1 ... x_n, y_1 ... y_m,

    KID = sum_{i != j} k(x_i, x_j) / (n (n - 1)) + sum_{i != j} k(y_i, y_j) / (m (m - 1)) - 2 sum_ij k(x_i, y_j) / (n m).

It is unbiased at every n and m: sets of one distribution have KID 0 in expectation, single values may be negative.

The standard error is the jackknife's over all n + m images: with the sums of each row of the kernel matrix known, the
KID without image i costs nothing more. For equal distributions it is up to sqrt(2) too large, never too small.
(torchmetrics averages over random subsets in float32; its value on the whole set is this one, see the tests.)
"""

import math

import torch
from torch import Tensor

from .estimate import Estimate, jackknife_variance


BLOCK = 2048  # rows of the kernel matrix at a time: 50,000 x 2048 float64 values take 0.8 GB


def kernel_distance(x: Tensor, y: Tensor) -> Estimate:
    """KID of features x (n, D) and y (m, D), computed in float64.

    Raises:
        ValueError: fewer than three rows, or other numbers of columns.
    """
    for name, features in (("x", x), ("y", y)):
        if features.ndim != 2 or len(features) < 3:
            raise ValueError(f"{name} must have shape (N, D) with N >= 3, got {tuple(features.shape)}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"y must have {x.shape[1]} columns like x, got {y.shape[1]}")
    xx, _ = _kernel_sums(x, x, same=True)
    yy, _ = _kernel_sums(y, y, same=True)
    xy, yx = _kernel_sums(x, y, same=False)
    n, m = len(x), len(y)
    within_x, within_y = xx.sum() / (n * (n - 1)), yy.sum() / (m * (m - 1))
    value = within_x + within_y - 2 * xy.sum() / (n * m)
    without_x = _left_out(xx, xy, m) + within_y
    without_y = _left_out(yy, yx, n) + within_x
    variance = jackknife_variance(without_x) + jackknife_variance(without_y)
    return Estimate(float(value), math.sqrt(variance))


def _left_out(within: Tensor, across: Tensor, others: int) -> Tensor:
    """The terms of the KID that change when each sample in turn is left out, (N,)."""
    count = len(within)
    pairs = (within.sum() - 2 * within) / ((count - 1) * (count - 2))
    return pairs - 2 * (across.sum() - across) / ((count - 1) * others)


def _kernel_sums(x: Tensor, y: Tensor, same: bool) -> tuple[Tensor, Tensor]:
    """Row sums (n,) and column sums (m,) of the kernel matrix, without its diagonal where `same`; float64."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64, device=y.device)
    y = y.double()
    for start in range(0, len(x), BLOCK):
        kernel = (x[start : start + BLOCK].double() @ y.T / x.shape[1] + 1) ** 3
        if same:
            kernel.diagonal(start).zero_()
        rows.append(kernel.sum(dim=1))
        columns += kernel.sum(dim=0)
    return torch.cat(rows), columns
