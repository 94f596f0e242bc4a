r"""Denoising score matching for any linear SDE, weighting and prediction type: one formula.

With `x_t = alpha x_0 + sigma z` the score of the kernel is `-z / sigma`. A network's output F is affine in the score,
so the squared error of the score is one of F against its regression target F*:

    lambda(t) |s(x_t, t) + z / sigma|^2 = lambda(t) a(t)^2 |F(x_t, t) - F*|^2,     a = d score / d F.

Every function returns one loss per sample; the caller averages. The perturbation, the noise and the targets are at
least float32 whatever the network computes in: at sigma = 50 a half-precision x_t has lost the image.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ..schedulers.checks import check_finite, check_flag, check_function, is_dense
from ..schedulers.parameterization import Parameterization
from ..schedulers.scheduling_network import precise
from ..schedulers.sde import SDE, expand_to
from ..schedulers.transfers import to_device
from .objectives import Weighting, likelihood, score_matching


TimedFunction = Callable[[Tensor, Tensor], Tensor]


def _check_batch(x0: Tensor, noise: Tensor, t: Tensor, time_name: str = "t") -> None:
    for name, value in (("x0", x0), ("noise", noise)):
        if not isinstance(value, Tensor) or value.is_complex() or not is_dense(value):
            raise TypeError(f"{name} must be a dense tensor of real numbers, got {type(value).__name__}")
        if value.ndim < 2 or value.numel() == 0:
            raise ValueError(f"{name} must hold data of shape (B, *D), got {tuple(value.shape)}")
    if not isinstance(t, Tensor) or t.is_complex() or t.dtype == torch.bool or not is_dense(t):
        raise TypeError(f"{time_name} must be a dense tensor of real numbers, got {type(t).__name__}")
    if noise.shape != x0.shape:
        raise ValueError(f"noise and x0 must have one shape, got {tuple(noise.shape)} and {tuple(x0.shape)}")
    if noise.device != x0.device:
        raise ValueError(f"noise and x0 must be on one device, got {noise.device} and {x0.device}")
    if t.shape != x0.shape[:1]:
        raise ValueError(f"{time_name} must have one value per sample, shape ({x0.shape[0]},), got {tuple(t.shape)}")
    if t.device.type == "cpu" and not bool(torch.isfinite(t).all()):
        raise ValueError(f"{time_name} must be finite numbers, got {t}")


def score_slope(parameterization: Parameterization, sde: SDE, t: Tensor, channels: int = 1) -> Tensor:
    """a(t) = d score / d output, shape and dtype of `t` (B,): a network's output enters its score linearly.

    Args:
        channels: of the data, where the parameterization has a mean for each.
    """
    zeros = torch.zeros(len(t), channels, dtype=t.dtype, device=t.device)
    ends = [parameterization.score(sde, output, zeros, t) for output in (torch.ones_like(zeros), zeros)]
    return (ends[0] - ends[1])[:, 0]


def denoising_loss(
    output_fn: TimedFunction,
    parameterization: Parameterization,
    sde: SDE,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    weighting: Weighting = score_matching,
    reduce_mean: bool = True,
) -> Tensor:
    """The weighted error of a network's output (module docstring).

    Args:
        output_fn: `(x, t) -> output` with x of shape (B, *D) and t of shape (B,): the network at the SDE's time.
        parameterization: what the output means.
        x0: clean data in the SDE's range, shape (B, *D).
        t: times in (0, T], shape (B,), on the device of `x0` or, for weights in double precision, on the CPU.
        noise: standard normal, the shape of `x0`.
        weighting: `(sde, t) -> lambda`, see `objectives`.
        reduce_mean: mean over the dimensions instead of half the sum (the paper's |.|^2 / 2 of the likelihood bound).

    Returns:
        One loss per sample, shape (B,), float32 (float64 for float64 data).

    Raises:
        ValueError: shapes do not agree.
    """
    check_function("output_fn", output_fn, 2)
    check_function("weighting", weighting, 2)
    for name, value, kind in (("sde", sde, SDE), ("parameterization", parameterization, Parameterization)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be of the class {kind.__name__}, got {type(value).__name__}")
    check_flag("reduce_mean", reduce_mean)
    _check_batch(x0, noise, t)
    x0 = precise(x0)
    noise = noise.to(x0.dtype)
    time = to_device(t, x0.device, x0.dtype)
    mean, std = sde.marginal(x0, time)
    x = mean + expand_to(std, x0) * noise
    output = output_fn(x, time)
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape != x0.shape:
        got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"output_fn (or score_fn) must return floating-point numbers of shape {tuple(x0.shape)}, got {got}"
        )
    error = output.to(x0.dtype) - parameterization.target(sde, x0, noise, time)
    # Apple GPUs have no float64, and others are slow with it: times on the CPU are taken in double precision alone.
    t = t.double() if t.device.type == "cpu" else t
    weight = weighting(sde, t)
    if not isinstance(weight, Tensor) or weight.shape != t.shape:
        found = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"weighting must return one number per sample, shape {tuple(t.shape)}, got {found}")
    if weight.device.type == "cpu":  # elsewhere looking would wait for the device
        check_finite("weighting", weight)
    scale = weight.sqrt() * score_slope(parameterization, sde, t, x0.shape[1])
    squares = (expand_to(scale, x0) * error).square().flatten(1)
    return squares.mean(dim=1) if reduce_mean else 0.5 * squares.sum(dim=1)


def score_matching_loss(
    score_fn: TimedFunction,
    sde: SDE,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    likelihood_weighting: bool = False,
    reduce_mean: bool = True,
) -> Tensor:
    """Continuous denoising score matching (Song et al. 2021, eq. 7) of a score function `(x, t) -> score`.

    `denoising_loss` with lambda = sigma^2, or g^2 with `likelihood_weighting`; arguments and result are those.
    `scheduler.score_fn(network)` is a score function.
    """
    check_function("score_fn", score_fn, 2)
    weighting = likelihood if check_flag("likelihood_weighting", likelihood_weighting) else score_matching
    score = Parameterization("score")
    return denoising_loss(score_fn, score, sde, x0, t, noise, weighting=weighting, reduce_mean=reduce_mean)


# ------------------------------------------------------------------ deprecated: the objectives "smld" and "ddpm"


class _Levels(SDE):
    """alpha and sigma by index."""

    def __init__(self, alphas: Tensor, sigmas: Tensor) -> None:
        self.alphas, self.sigmas = alphas, sigmas

    def alpha(self, t: Tensor) -> Tensor:
        return self.alphas.to(t.device)[t.long()]

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigmas.to(t.device)[t.long()]


def _check_levels(name: str, table: Tensor, x0: Tensor, labels: Tensor, noise: Tensor) -> None:
    if check_finite(name, table).ndim != 1 or len(table) < 1 or not bool((table > 0).all()):
        raise ValueError(f"{name} must be a list of positive numbers (N,), got shape {tuple(table.shape)}")
    _check_batch(x0, noise, labels, "labels")
    if labels.is_floating_point():
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(table):
        raise ValueError(f"labels must lie in 0..{len(table) - 1}, got {labels.tolist()}")


def smld_loss(
    model: TimedFunction, sigmas: Tensor, x0: Tensor, labels: Tensor, noise: Tensor, *, reduce_mean: bool = False
) -> Tensor:
    """Deprecated: eq. 1 of a score network `model(x, labels)` at the noise levels `sigmas[labels]`."""
    warnings.warn("smld_loss leaves with the next release: use the objective 'smld'", FutureWarning, stacklevel=2)
    _check_levels("sigmas", sigmas, x0, labels, noise)
    levels, score = _Levels(torch.ones_like(sigmas), sigmas), Parameterization("score")
    return denoising_loss(lambda x, t: model(x, labels), score, levels, x0, labels, noise, reduce_mean=reduce_mean)


def ddpm_loss(
    model: TimedFunction,
    alphas_cumprod: Tensor,
    x0: Tensor,
    labels: Tensor,
    noise: Tensor,
    *,
    reduce_mean: bool = True,
) -> Tensor:
    """Deprecated: eq. 3 with equal weights of a noise prediction `model(x, labels)` at `alphas_cumprod[labels]`."""
    warnings.warn("ddpm_loss leaves with the next release: use the objective 'ddpm'", FutureWarning, stacklevel=2)
    _check_levels("alphas_cumprod", alphas_cumprod, x0, labels, noise)
    levels, epsilon = _Levels(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()), Parameterization("epsilon")
    return denoising_loss(lambda x, t: model(x, labels), epsilon, levels, x0, labels, noise, reduce_mean=reduce_mean)
