r"""Correctors: one step of a Markov chain that leaves p_t unchanged (paper section 4.2, algorithms 4 and 5).

A corrector is a function `(sde, x, score, t, noise, snr) -> (mean, x)`. Both here are a step of Langevin dynamics,

    mean = x + h score,    x = mean + sqrt(2 h) noise,

and differ in the step size h:

    Langevin             h = 2 (snr |noise| / |score|)^2     (appendix G; the official code's factor alpha is 1 here)
    annealed Langevin    h = 2 (snr sigma_t)^2               (NCSN: Song & Ermon 2019)

The first is the paper's rule. Its step size depends on the state and on the noise, so the chain does not leave p_t
unchanged, however small the steps: on p_t = N(0, p I) in d dimensions it tends to a law with the density |x|^2 N(0, p (1 +
2 / d) I) up to a constant, whose variance is p (1 + 2 / d)^2: 4 p for d = 2, 1.06 p for d = 64, 1.0013 p for d = 3072. The
second has steps that are a function of t alone and only the bias of every unadjusted step, p / (1 - h / (2 p)). It is the
default.

Norms are per sample, so an image does not depend on the others in its batch; `batch_mean_norm=True` takes batch means, as
the official code does, which also averages the bias away.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_flag, check_like, check_number
from .sde import SDE, expand_to
from .step_checks import check_scored


LARGEST_SNR = 100.0  # a Langevin step of this size has no signal left

Corrector = Callable[[SDE, Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def langevin(
    sde: SDE, x: Tensor, score: Tensor, t: Tensor, noise: Tensor, snr: float, batch_mean_norm: bool = False
) -> tuple[Tensor, Tensor]:
    """Langevin dynamics with a step size from the signal-to-noise ratio `snr` (paper algorithms 4 and 5)."""
    snr, _ = _checked(sde, x, score, t, noise, snr)
    noise_norm, score_norm = noise.flatten(1).norm(dim=1), score.flatten(1).norm(dim=1)
    if check_flag("batch_mean_norm", batch_mean_norm):
        noise_norm, score_norm = noise_norm.mean(), score_norm.mean()
    ratio = noise_norm / score_norm
    # Where the score vanishes the rule gives an infinite step: take none.
    return _step(x, score, noise, 2 * (snr * torch.where(score_norm > 0, ratio, 0.0)) ** 2)


def annealed_langevin(
    sde: SDE, x: Tensor, score: Tensor, t: Tensor, noise: Tensor, snr: float
) -> tuple[Tensor, Tensor]:
    """Langevin dynamics with a step size proportional to the noise variance at t (paper appendix G)."""
    snr, t = _checked(sde, x, score, t, noise, snr)
    return _step(x, score, noise, 2 * (snr * sde.sigma(t)) ** 2)


def _checked(sde: SDE, x: Tensor, score: Tensor, t: Tensor, noise: Tensor, snr: float) -> tuple[float, Tensor]:
    t = check_scored(sde, x, score, t)
    check_like("noise", noise, x)
    return check_number("snr", snr, 0, LARGEST_SNR, ends="(]"), t


def _step(x: Tensor, score: Tensor, noise: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    mean = x + expand_to(size, x) * score
    return mean, mean + expand_to(torch.sqrt(2 * size), x) * noise


CORRECTORS: dict[str, Corrector] = {"langevin": langevin, "annealed_langevin": annealed_langevin}
