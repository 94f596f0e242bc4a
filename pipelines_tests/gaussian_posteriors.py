"""Gaussian data with a known posterior, and what a sampler makes of it, without Monte Carlo error.

A sampler that is (nearly) affine in its starting noise is measured by regression: x = b + M z + small remainder has mean
b and covariance M M^T + Cov[remainder], exactly, for a few hundred starts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde_pipelines import SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.schedulers import LinearOperator


SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(sigma_max=50.0, **kw),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, **kw),
    "subvp": lambda **kw: SubVPSDEScheduler(**kw),
}
RANGE = {"data_min": 0.0, "data_max": 1.0}  # image units are those of the state


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d)."""

    mean: Tensor
    covariance: Tensor

    def kl_to(self, truth: "Moments") -> float:
        """KL(self || truth) in nats."""
        inverse = torch.linalg.inv(truth.covariance)
        ratio, shift = inverse @ self.covariance, self.mean - truth.mean
        return float(0.5 * (ratio.trace() - len(shift) - torch.linalg.slogdet(ratio)[1] + shift @ inverse @ shift))

    def variance_ratios(self, truth: "Moments") -> Tensor:
        return self.covariance.diag() / truth.covariance.diag()

    def marginal(self, index: Tensor) -> "Moments":
        return Moments(self.mean[index], self.covariance[index][:, index])

    def projected(self, rows: Tensor) -> "Moments":
        """Those of rows @ x, for `rows` (k, d)."""
        return Moments(rows @ self.mean, rows @ self.covariance @ rows.T)


def autoregressive(d: int, rho: float) -> Tensor:
    """Covariance rho^|i - j|."""
    i = torch.arange(d, dtype=torch.float64)
    return rho ** (i[:, None] - i).abs()


def posterior(covariance: Tensor, matrix: Tensor, y: Tensor, noise_std: float) -> Moments:
    """Moments of N(0, covariance) given y = matrix x + noise_std n."""
    matrix, y = matrix.double(), y.double()
    gram = matrix @ covariance @ matrix.T + noise_std**2 * torch.eye(len(matrix), dtype=torch.float64)
    gain = torch.linalg.solve(gram, matrix @ covariance).T
    return Moments(gain @ y, covariance - gain @ matrix @ covariance)


def regress(noise: Tensor, result: Tensor) -> Moments:
    """The moments of `result` (n, d) as an affine function of `noise` (n, d) plus a remainder."""
    noise, result = noise.flatten(1).double(), result.flatten(1).double()
    design = torch.cat([torch.ones(len(noise), 1, dtype=torch.float64), noise], dim=1)
    solution = torch.linalg.lstsq(design, result).solution
    remainder = result - design @ solution
    spread = remainder.T @ remainder / (len(noise) - design.shape[1])
    return Moments(solution[0], solution[1:].T @ solution[1:] + spread)


class MatrixOperator(LinearOperator):
    """A user's own operator: y = M x, for flat measurements."""

    def __init__(self, matrix: Tensor, shape: tuple[int, ...]):
        self.matrix, self.shape = matrix, shape

    def A(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T.to(x)

    def At(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, *self.shape)
