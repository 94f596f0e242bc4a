"""Means and covariances of Gaussians as float64 tensors, checked."""

from typing import Any

import torch
from torch import Tensor

from ..schedulers.checks import is_dense, shown


def as_double(name: str, values: Any) -> Tensor:
    """`values` as a float64 tensor of finite numbers."""
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(values, dtype=torch.float64)
        if not tensor.is_complex() and is_dense(tensor) and not tensor.is_meta:
            tensor = tensor.to(torch.float64)
            if bool(tensor.isfinite().all()):
                return tensor
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be a tensor or a list of numbers, got {type(values).__name__}") from error
    raise ValueError(f"{name} must be a dense tensor of finite real numbers, got {shown(values)}")


def diagonal_variances(name: str, variances: Any, means: Tensor) -> Tensor:
    """A number, (K,) or (K, *D) as (K, d) variances for the `means` (K, *D); empty for None."""
    if variances is None:
        return torch.zeros(0).double()
    values = as_double(name, variances)
    if values.shape == means.shape[:1]:
        values = values.reshape(-1, *(1,) * (means.ndim - 1))
    elif values.ndim and values.shape != means.shape:
        raise ValueError(
            f"{name} must be a number or of shape {tuple(means.shape[:1])} or {tuple(means.shape)}, "
            f"got {tuple(values.shape)}"
        )
    if not bool((values >= 0).all()):
        raise ValueError(f"{name} must not be negative, got {float(values.min())}")
    return values.expand(means.shape).flatten(1).clone()


def eigenvectors_of(covariances: Tensor, means: Tensor, name: str = "covariances") -> tuple[Tensor, Tensor]:
    """Eigenvalues (K, d), none negative, and eigenvectors (K, d, d) of `covariances` for the `means` (K, *D)."""
    size = means[0].numel()
    if covariances.shape != (len(means), size, size):
        raise ValueError(f"{name} must have shape {(len(means), size, size)}, got {tuple(covariances.shape)}")
    if not torch.allclose(covariances, covariances.mT, rtol=1e-6, atol=1e-9):
        raise ValueError(f"{name} must be symmetric matrices")
    eigenvalues, eigenvectors = torch.linalg.eigh(covariances)
    # Rounding may leave a zero eigenvalue slightly negative.
    rounding = 1e-12 * eigenvalues.abs().amax()
    eigenvalues = torch.where(eigenvalues.abs() <= rounding, 0.0, eigenvalues)
    if not bool((eigenvalues >= 0).all()):
        raise ValueError(f"{name} must not have negative eigenvalues, got {float(eigenvalues.min())}")
    return eigenvalues, eigenvectors
