r"""The Frechet distance between two sets of features, its standard error, and its limit for infinitely many images.

For two Gaussians it is the squared 2-Wasserstein distance (Dowson & Landau 1982; Heusel et al. 2017 call it FID with
Inception features):

    d^2 = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

The last trace is the sum of the singular values of `R_1 R_2^T` for any factors with `R_i^T R_i = C_i`. The triangular
factor of a QR decomposition of the centred features is one: singular covariances (fewer images than features) are exact.

From N samples d^2 is biased upwards by about trace(C) / N. Chong & Forsyth (2020) fit `d^2(N) = d_inf^2 + c / N` to
subsets and report d_inf^2. Here the subsets of both sets are the disjoint blocks of N, N/2, N/3 and N/4 images, so that
every fit point uses every image. The law needs N/4 well above the number of features.

(torchmetrics has the first formula, with the eigenvalues of a matrix that is not symmetric and without errors; the tests
hold this one to it.)
"""

import math

import torch
from torch import Tensor

from ...schedulers.checks import check_finite
from .estimate import Estimate, jackknife_variance


GROUPS = 10  # groups of the delete-one-group jackknife
FRACTIONS = (1, 2, 3, 4)  # the sets are cut into so many blocks for the extrapolation
BLOCK = 8192


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), in float64.

    Raises:
        ValueError: `features` is not a matrix of at least two rows.
    """
    _check(features, "features")
    features = features.double()
    return features.mean(dim=0), torch.atleast_2d(torch.cov(features.T))


def frechet_distance(mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor) -> float:
    """The (squared) Frechet distance between two Gaussians, computed in float64.

    Args:
        mean_1, mean_2: shape (D,).
        covariance_1, covariance_2: symmetric and positive semidefinite, shape (D, D); singular ones are fine.

    Raises:
        TypeError, ValueError: naming the argument of another shape or with NaN, or a covariance with negative eigenvalues.
    """
    count = len(check_finite("mean_1", mean_1)) if isinstance(mean_1, Tensor) and mean_1.ndim == 1 else -1
    named = {"mean_1": mean_1, "covariance_1": covariance_1, "mean_2": mean_2, "covariance_2": covariance_2}
    for name, value in named.items():
        expected = (count,) if name.startswith("mean") else (count, count)
        if tuple(check_finite(name, value).shape) != expected:
            shape = "(D,)" if name.startswith("mean") else "(D, D)"
            raise ValueError(f"{name} must have shape {shape} with the D of mean_1, got {tuple(value.shape)}")
    roots = []
    for name, covariance in (("covariance_1", covariance_1.double()), ("covariance_2", covariance_2.double())):
        values, vectors = torch.linalg.eigh(covariance)
        if bool(values[0] < -1e-4 * values.abs().max()):
            raise ValueError(f"{name} must be positive semidefinite, got the eigenvalue {float(values[0]):g}")
        roots.append((vectors * values.clamp_min(0).sqrt()).T)
    return _distance(mean_1.double(), roots[0], mean_2.double(), roots[1])


def frechet_between(x: Tensor, y: Tensor) -> float:
    """The (squared) Frechet distance between Gaussians fitted to features x (n, D) and y (m, D)."""
    return _distance(*_mean_and_root(x), *_mean_and_root(y))


def frechet_estimates(x: Tensor, y: Tensor) -> dict[str, Estimate]:
    """ "fd", the distance between x (n, D) and y (m, D), and "fd_infinity", its limit for infinitely many images.

    The standard error of "fd" is a jackknife over ten groups of each set. "fd_infinity" has the same leading error, plus
    the uncertainty of its fit.
    """
    value = frechet_between(x, y)
    se = _jackknife_error(x, y)
    points = [(float(count), _mean_over_blocks(x, y, count, value)) for count in FRACTIONS if _enough(x, y, count)]
    if len(points) < 3:
        return {"fd": Estimate(value, se), "fd_infinity": Estimate(math.nan, math.nan)}
    intercept, fit_error = _line(points)
    return {"fd": Estimate(value, se), "fd_infinity": Estimate(intercept, math.hypot(se, fit_error))}


def _check(features: Tensor, name: str) -> None:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} must have shape (N, D) with N >= 2, got {tuple(features.shape)}")


def _distance(mean_1: Tensor, root_1: Tensor, mean_2: Tensor, root_2: Tensor) -> float:
    cross = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    traces = root_1.square().sum() + root_2.square().sum()
    return max(0.0, float((mean_1 - mean_2).square().sum() + traces - 2 * cross))


def _mean_and_root(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a factor R (min(N, D), D) of the unbiased covariance R^T R; float64, a block at a time."""
    _check(features, "features")
    count, size = features.shape
    mean = features.mean(dim=0, dtype=torch.float64)
    root = torch.empty(0, size, dtype=torch.float64)
    for block in features.split(BLOCK):
        root = torch.cat([root, block.double() - mean])
        if len(root) > size:
            root = torch.linalg.qr(root, mode="r").R
    return mean, root / math.sqrt(count - 1)


def _jackknife_error(x: Tensor, y: Tensor) -> float:
    groups = min(GROUPS, len(x) // 2, len(y) // 2)
    if groups < 3:
        return math.nan
    left_out = [
        frechet_between(*(torch.cat(parts[:k] + parts[k + 1 :]) for parts in (_blocks(x, groups), _blocks(y, groups))))
        for k in range(groups)
    ]
    return math.sqrt(jackknife_variance(torch.tensor(left_out, dtype=torch.float64)))


def _blocks(features: Tensor, count: int) -> list[Tensor]:
    return list(features.tensor_split(count))


def _enough(x: Tensor, y: Tensor, count: int) -> bool:
    return min(len(x), len(y)) // count >= 2


def _mean_over_blocks(x: Tensor, y: Tensor, count: int, whole: float) -> float:
    if count == 1:
        return whole
    distances = [frechet_between(a, b) for a, b in zip(_blocks(x, count), _blocks(y, count))]
    return sum(distances) / count


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Least squares `value = intercept + slope * place`: the intercept and its standard error from the residuals."""
    places, values = torch.tensor(points, dtype=torch.float64).T
    design = torch.stack([torch.ones_like(places), places], dim=1)
    solution = torch.linalg.lstsq(design, values[:, None]).solution[:, 0]
    residual = (values - design @ solution).square().sum() / (len(points) - 2)
    variance = residual * torch.linalg.inv(design.T @ design)[0, 0]
    return float(solution[0]), math.sqrt(float(variance))
