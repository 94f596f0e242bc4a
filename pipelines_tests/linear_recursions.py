"""Every sampler on Gaussian data N(m, v I) as a linear recursion, written out in float64 without the code under test.

With the exact score -(x - alpha m) / p, p = alpha^2 v + sigma^2, one step of a predictor is x' = A x + b + C z. The
formulas are those of the paper and of DDPM and DDIM; alpha, sigma, f and g^2 are written out again below.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """x' = slope x + shift + noise z."""

    slope: float
    shift: float
    noise: float

    def variance(self, before: float) -> float:
        return self.slope**2 * before + self.noise**2

    def mean(self, before: float) -> float:
        return self.slope * before + self.shift


@dataclass(frozen=True)
class ClosedForm:
    """An SDE by its closed forms: functions of a float."""

    alpha: Callable[[float], float]
    sigma: Callable[[float], float]
    drift_rate: Callable[[float], float]
    squared_diffusion: Callable[[float], float]
    prior_std: float

    def variance(self, t: float, v: float) -> float:
        return self.alpha(t) ** 2 * v + self.sigma(t) ** 2

    def transition(self, t: float, s: float) -> tuple[float, float]:
        scale = self.alpha(t) / self.alpha(s)
        return scale, math.sqrt(max(0.0, self.sigma(t) ** 2 - scale**2 * self.sigma(s) ** 2))


def ve(low: float = 0.01, high: float = 50.0) -> ClosedForm:
    def sigma(t: float) -> float:
        return low * (high / low) ** t

    def squared_diffusion(t: float) -> float:
        return 2 * sigma(t) ** 2 * math.log(high / low)

    return ClosedForm(lambda t: 1.0, sigma, lambda t: 0.0, squared_diffusion, high)


def vp(low: float = 0.1, high: float = 20.0) -> ClosedForm:
    def integral(t: float) -> float:
        return low * t + 0.5 * (high - low) * t**2

    def beta(t: float) -> float:
        return low + (high - low) * t

    return ClosedForm(
        lambda t: math.exp(-integral(t) / 2),
        lambda t: math.sqrt(-math.expm1(-integral(t))),
        lambda t: -beta(t) / 2,
        beta,
        1.0,
    )


def subvp(low: float = 0.1, high: float = 20.0) -> ClosedForm:
    base = vp(low, high)
    return ClosedForm(
        base.alpha,
        lambda t: base.sigma(t) ** 2,
        base.drift_rate,
        lambda t: base.squared_diffusion(t) * (1 - base.alpha(t) ** 4),
        1.0,
    )


CLOSED_FORMS = {"ve": ve(), "vp": vp(), "subvp": subvp()}


def predictor_step(name: str, sde: ClosedForm, t: float, s: float, m: float, v: float) -> Linear:
    """One predictor step from t to s on N(m, v)."""
    p, (scale, d) = sde.variance(t, v), sde.transition(t, s)
    f, g2, dt = sde.drift_rate(t), sde.squared_diffusion(t), t - s
    pull = {  # what multiplies the score, and x, in the mean; and the noise
        "euler_maruyama": (g2 * dt, 1 - f * dt, math.sqrt(g2 * dt)),
        "reverse_diffusion": (d**2, 2 - scale, d),
        "ancestral": (d**2 / scale, 1 / scale, d * sde.sigma(s) / sde.sigma(t)),
        "ancestral_large": (d**2 / scale, 1 / scale, d),
        "probability_flow": (g2 * dt / 2, 1 - f * dt, 0.0),
        "exponential": (
            sde.alpha(s) / sde.alpha(t) * sde.sigma(t) ** 2 - sde.sigma(s) * sde.sigma(t),
            sde.alpha(s) / sde.alpha(t),
            0.0,
        ),
    }
    weight, keep, noise = pull[name]
    return Linear(keep - weight / p, weight * sde.alpha(t) * m / p, noise)


def denoising_step(sde: ClosedForm, t: float, m: float, v: float) -> Linear:
    """E[x_0 | x_t] on N(m, v)."""
    p, alpha = sde.variance(t, v), sde.alpha(t)
    return Linear(alpha * v / p, m * sde.sigma(t) ** 2 / p, 0.0)


def langevin_step(size: float, sde: ClosedForm, t: float, m: float, v: float) -> Linear:
    """x + h score + sqrt(2 h) z on N(m, v), for a known step size h."""
    p = sde.variance(t, v)
    return Linear(1 - size / p, size * sde.alpha(t) * m / p, math.sqrt(2 * size))


def langevin_size(snr: float, sde: ClosedForm, t: float, v: float, variance: float) -> float:
    """The SNR rule's h = 2 (snr |z| / |score|)^2 in many dimensions, where norms do not fluctuate; data N(0, v)."""
    return 2 * snr**2 * sde.variance(t, v) ** 2 / variance


def annealed_size(snr: float, sde: ClosedForm, t: float) -> float:
    return 2 * (snr * sde.sigma(t)) ** 2


def sampled_variance(
    sde: ClosedForm,
    v: float,
    levels: list[float],
    predictor: str | None,
    corrector: str | None = None,
    snr: float = 0.16,
    correct_steps: int = 1,
) -> float:
    """The variance of what a sampler returns for data N(0, v), in many dimensions; it ends by denoising."""
    variance = sde.prior_std**2
    phases = [corrector] * (correct_steps if corrector else 0) + [predictor] * (predictor is not None)
    for level, t in enumerate(levels):
        for phase, name in enumerate(phases):
            last = level == len(levels) - 1 and phase == len(phases) - 1
            if last:
                step = denoising_step(sde, t, 0.0, v)
            elif name == "langevin":
                step = langevin_step(langevin_size(snr, sde, t, v, variance), sde, t, 0.0, v)
            elif name == "annealed_langevin":
                step = langevin_step(annealed_size(snr, sde, t), sde, t, 0.0, v)
            elif level == len(levels) - 1:
                continue
            else:
                step = predictor_step(name, sde, t, levels[level + 1], 0.0, v)
            variance = step.variance(variance)
    return variance


def uniform_levels(n: int, eps: float) -> list[float]:
    return [1 + i * (eps - 1) / (n - 1) for i in range(n)] if n > 1 else [1.0]
