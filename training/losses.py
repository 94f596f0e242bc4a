r"""Denoising score matching (Song et al. 2021, eq. 7) for any linear SDE, and the two discrete losses it generalises.

With ``x_t = alpha(t) x_0 + sigma(t) z`` the score of the kernel is ``-z / sigma``, so

    continuous   lambda(t) |s(x_t, t) + z / sigma|^2     lambda = sigma^2 (default) or g^2 (likelihood weighting)
    SMLD         sigma_i^2 |s(x_i, i) + z / sigma_i|^2   (eq. 1, N levels)
    DDPM         |eps(x_i, i) - z|^2                     (eq. 3 with the simple weighting)

Every function returns one loss per sample; the caller averages (and weights). The perturbation, the noise and the
targets are at least float32 whatever the network computes in: at sigma = 50 a half-precision x_t has lost the image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..schedulers.sde import SDE, expand_to


ScoreFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _full_precision(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32, or untouched where it is float64 already."""
    return x if x.dtype == torch.float64 else x.float()


def _per_sample(squares: torch.Tensor, reduce_mean: bool) -> torch.Tensor:
    """(B, *D) -> (B,): the mean over D, or half the sum (the paper's |.|^2 / 2 of the likelihood bound)."""
    flat = squares.flatten(1)
    return flat.mean(dim=1) if reduce_mean else 0.5 * flat.sum(dim=1)


def _check_batch(x0: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor, name: str) -> None:
    if noise.shape != x0.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, expected the shape of x0, {tuple(x0.shape)}")
    if levels.shape != x0.shape[:1]:
        raise ValueError(f"{name} has shape {tuple(levels.shape)}, expected one value per sample, ({x0.shape[0]},)")


def score_matching_loss(
    score_fn: ScoreFunction,
    sde: SDE,
    x0: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
    *,
    likelihood_weighting: bool = False,
    reduce_mean: bool = True,
) -> torch.Tensor:
    """Continuous denoising score matching, eq. 7.

    Args:
        score_fn: ``(x, t) -> score`` with x of shape (B, *D) and t of shape (B,); `scheduler.score_fn(network)` is one.
        x0: clean data in the SDE's range, shape (B, *D).
        t: times in (0, T], shape (B,).
        noise: standard normal, the shape of ``x0``.
        likelihood_weighting: lambda = g^2 instead of sigma^2 (Song et al. 2021b): the bound on the log-likelihood.
        reduce_mean: mean over the dimensions instead of half the sum.

    Returns:
        One loss per sample, shape (B,), float32 (float64 for float64 data).
    """
    _check_batch(x0, noise, t, "t")
    x0 = _full_precision(x0)
    noise = noise.to(x0.dtype)
    mean, std = sde.marginal(x0, t.to(x0.dtype))
    std = expand_to(std, x0)
    score = score_fn(mean + std * noise, t.to(x0.dtype)).to(x0.dtype)
    losses = _per_sample((score * std + noise).square(), reduce_mean)
    if likelihood_weighting:
        losses = losses * likelihood_ratio(sde, t.to(x0.dtype))
    return losses


def likelihood_ratio(sde: SDE, t: torch.Tensor) -> torch.Tensor:
    """g(t)^2 / sigma(t)^2: the likelihood weighting relative to the default one, shape of ``t``."""
    return (sde.diffusion(t) / sde.sigma(t)).square()


def smld_loss(
    model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    sigmas: torch.Tensor,
    x0: torch.Tensor,
    labels: torch.Tensor,
    noise: torch.Tensor,
    *,
    reduce_mean: bool = False,
) -> torch.Tensor:
    """The original NCSN objective, eq. 1: ``model(x, labels)`` is a score; ``sigmas[labels]`` its noise levels.

    Args:
        sigmas: the N noise levels, in the order of the labels (the official code's are descending), shape (N,).
        labels: int64 in [0, N), shape (B,).

    Returns:
        One loss per sample, shape (B,).
    """
    _check_batch(x0, noise, labels, "labels")
    x0 = _full_precision(x0)
    noise = noise.to(x0.dtype)
    sigma = expand_to(sigmas.to(x0.device)[labels], x0)
    score = model(x0 + sigma * noise, labels).to(x0.dtype)
    return _per_sample((score * sigma + noise).square(), reduce_mean)


def ddpm_loss(
    model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    alphas_cumprod: torch.Tensor,
    x0: torch.Tensor,
    labels: torch.Tensor,
    noise: torch.Tensor,
    *,
    reduce_mean: bool = True,
) -> torch.Tensor:
    """The original DDPM objective, eq. 3 with equal weights: ``model(x, labels)`` predicts the noise.

    Args:
        alphas_cumprod: prod (1 - beta), shape (N,).
        labels: int64 in [0, N), shape (B,).

    Returns:
        One loss per sample, shape (B,).
    """
    _check_batch(x0, noise, labels, "labels")
    x0 = _full_precision(x0)
    noise = noise.to(x0.dtype)
    alpha_bar = alphas_cumprod.to(x0.device)[labels]
    perturbed = expand_to(alpha_bar.sqrt(), x0) * x0 + expand_to((1 - alpha_bar).sqrt(), x0) * noise
    return _per_sample((model(perturbed, labels).to(x0.dtype) - noise).square(), reduce_mean)
