r"""Correctors: one step of a Markov chain that leaves p_t unchanged (paper section 4.2, algorithms 4 and 5).

A corrector is a function `(sde, x, score, t, noise, snr) -> (mean, x)`. Both in this file are a step of Langevin dynamics,

    mean = x + h score,    x = mean + sqrt(2 h) noise,

and differ in the step size h:

    Langevin             h = 2 (snr |noise| / |score|)^2     (appendix G; the official code's factor alpha is 1 here)
    annealed Langevin    h = 2 (snr sigma_t)^2               (NCSN: Song & Ermon 2019)

The first is the paper's rule. Its step size depends on the state and on the noise, so the chain does not leave p_t
unchanged, however small the steps: on p_t = N(0, p I) in d dimensions it tends to a law with the density |x|^2 N(0, p (1 +
2 / d) I) up to a constant, whose variance is p (1 + 2 / d)^2: 4 p for d = 2, 1.06 p for d = 64, 1.0013 p for d = 3072. The
second has steps that are a function of t alone and only the bias of every unadjusted step, p / (1 - h / (2 p)). It is the
default. `metropolis_langevin.MetropolisLangevin` accepts or rejects such steps, and has no bias.

Norms are per sample, so an image does not depend on the others in its batch; `batch_mean_norm=True` takes batch means, as
the official code does, which also averages the bias away.

A corrector that needs several network calls per step is an object with the number of them as `evaluations`. It is called
after each, with the score at the state that it returned last, with noise of its own, and with `evaluation=i` as a further
argument from the second on (i = 1, ...). `start()`, where an object has it, clears its memory at the start of a run; a copy
of a scheduler gets a copy of such an object.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .checks import check_choice, check_flag, check_function
from .metropolis_langevin import MetropolisLangevin
from .sde import SDE, expand_to
from .step_checks import check_noisy_step


Corrector = Callable[..., tuple[Tensor, Tensor]]


def langevin(
    sde: SDE, x: Tensor, score: Tensor, t: Tensor, noise: Tensor, snr: float, batch_mean_norm: bool = False
) -> tuple[Tensor, Tensor]:
    """Langevin dynamics with a step size from the signal-to-noise ratio `snr` (paper algorithms 4 and 5)."""
    snr, _ = check_noisy_step(sde, x, score, t, noise, snr)
    noise_norm, score_norm = noise.flatten(1).norm(dim=1), score.flatten(1).norm(dim=1)
    if check_flag("batch_mean_norm", batch_mean_norm):
        noise_norm, score_norm = noise_norm.mean(), score_norm.mean()
    ratio = noise_norm / score_norm
    # Where the score vanishes the rule gives an infinite step: take none.
    return _step(x, score, noise, 2 * (snr * ratio.masked_fill(~(score_norm > 0), 0.0)) ** 2)


def annealed_langevin(
    sde: SDE, x: Tensor, score: Tensor, t: Tensor, noise: Tensor, snr: float
) -> tuple[Tensor, Tensor]:
    """Langevin dynamics with a step size proportional to the noise variance at t (paper appendix G)."""
    snr, t = check_noisy_step(sde, x, score, t, noise, snr)
    return _step(x, score, noise, 2 * (snr * sde.sigma(t)) ** 2)


def _step(x: Tensor, score: Tensor, noise: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    mean = x + expand_to(size, x) * score
    return mean, mean + expand_to(torch.sqrt(2 * size), x) * noise


#: By name; a class is instantiated for every scheduler.
CORRECTORS: dict[str, Any] = {
    "langevin": langevin,
    "annealed_langevin": annealed_langevin,
    "metropolis_langevin": MetropolisLangevin,
}


def make_corrector(corrector: str | Corrector | None, batch_mean_norm: bool = False) -> Corrector | None:
    """The corrector of a name, or the given one.

    Raises:
        TypeError, ValueError: for what is neither None, a known name nor callable.
    """
    if callable(corrector):
        check_function("corrector", corrector, 6)
    if corrector is None or callable(corrector):
        return corrector
    check_choice("corrector", corrector, CORRECTORS, optional=True)
    if batch_mean_norm and corrector == "langevin":
        return partial(langevin, batch_mean_norm=True)
    found = CORRECTORS[corrector]
    return found() if isinstance(found, type) else found
