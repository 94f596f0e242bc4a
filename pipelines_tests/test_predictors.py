"""Predictors on Gaussian data against the linear recursions written out in linear_recursions.py."""

import math

import pytest
import torch
from linear_recursions import CLOSED_FORMS, ClosedForm, Linear, predictor_step, sampled_variance, uniform_levels

from scoresde_pipelines.schedulers import PREDICTORS as ALL_PREDICTORS
from scoresde_pipelines.schedulers import SDE, TIME_GRIDS, VESDE, VPSDE, SubVPSDE


PREDICTORS = {name: predictor for name, predictor in ALL_PREDICTORS.items() if not isinstance(predictor, type)}
SDES = {"ve": VESDE(0.01, 50.0), "vp": VPSDE(0.1, 20.0), "subvp": SubVPSDE(0.1, 20.0)}
DOUBLE = torch.float64


class CosineSDE(SDE):
    """A user's SDE, from alpha and sigma alone."""

    def alpha(self, t):
        return torch.cos(1.55 * t)

    def sigma(self, t):
        return torch.sin(1.55 * t)


SDES["cosine"] = CosineSDE()
FORMS = CLOSED_FORMS | {
    "cosine": ClosedForm(
        lambda t: math.cos(1.55 * t),
        lambda t: math.sin(1.55 * t),
        lambda t: -1.55 * math.tan(1.55 * t),
        lambda t: 2 * 1.55 * math.tan(1.55 * t),
        math.sin(1.55),
    )
}


def probe(predictor, sde: SDE, t: list[float], s: list[float], m: float, v: float) -> list[Linear]:
    """Slope, shift and noise of our steps from each t to its s, read off at x = 0 and x = 1."""
    t, s = (torch.tensor(times, dtype=DOUBLE) for times in (t, s))
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    means, stds = [], []
    for x in (torch.zeros_like(t), torch.ones_like(t)):
        mean, std = predictor(sde, x, -(x - alpha * m) / (alpha**2 * v + sigma**2), t, s)
        means.append(mean)
        stds.append(std)
    assert torch.equal(*stds)
    return [Linear(*row) for row in torch.stack([means[1] - means[0], means[0], stds[0]], 1).tolist()]


def recursion(predictor, sde: SDE, levels: list[float], m: float, v: float) -> tuple[float, float]:
    """Mean and variance at the last level of a chain that starts from the exact marginal at the first."""
    start = torch.tensor(levels[0], dtype=DOUBLE)
    alpha, sigma = float(sde.alpha(start)), float(sde.sigma(start))
    mean, variance = alpha * m, alpha**2 * v + sigma**2
    for step in probe(predictor, sde, levels[:-1], levels[1:], m, v):
        mean, variance = step.mean(mean), step.variance(variance)
    return mean, variance


@pytest.mark.parametrize("t, s", [(1.0, 0.8), (0.5, 0.49), (0.01, 0.001), (1e-4, 1e-5), (0.7, 1e-5)])
@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_every_step_is_its_formula(predictor, name, t, s):
    for m, v in ((0.0, 1.0), (0.3, 0.04), (-2.0, 1e-4)):
        ours = probe(PREDICTORS[predictor], SDES[name], [t], [s], m, v)[0]
        expected = predictor_step(predictor, FORMS[name], t, s, m, v)
        for field in ("slope", "shift", "noise"):
            value, truth = getattr(ours, field), getattr(expected, field)
            # The recursion's own sigma_t^2 - scale^2 sigma_s^2 cancels up to 1e-8 for the closest times.
            assert value == pytest.approx(truth, rel=1e-6, abs=1e-9), field


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_convergence_is_of_first_order_to_the_truth(predictor, name):
    # From the exact marginal at t = 0.8 on: both moments, no final denoising, no prior mismatch. Each end is chosen so
    # that the first-order terms of the error do not cancel by chance (Euler-Maruyama, VE, t = 0.02).
    sde, form, m, v = SDES[name], FORMS[name], 0.7, 0.25
    end, errors = 0.5 if name == "ve" else 0.02, []
    truth_mean, truth_std = form.alpha(end) * m, math.sqrt(form.variance(end, v))
    for n in (400, 800):
        levels = [0.8 + i * (end - 0.8) / n for i in range(n + 1)]
        mean, variance = recursion(PREDICTORS[predictor], sde, levels, m, v)
        errors.append((abs(mean - truth_mean), abs(math.sqrt(variance) - truth_std)))
    for (coarse, fine), scale in zip(zip(*errors), (m, math.sqrt(v))):
        assert fine < 0.06 * scale
        if fine > 1e-9 * scale:  # VE means do not move and are exact
            assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("n", [1, 2, 5, 50])
@pytest.mark.parametrize("grid", TIME_GRIDS)
@pytest.mark.parametrize("name", SDES)
def test_the_exponential_predictor_is_exact_for_data_at_one_point(name, grid, n):
    sde = SDES[name]
    x0, noise = torch.randn(2, 4, 3, dtype=DOUBLE)
    levels = TIME_GRIDS[grid](sde, n, 1e-3).levels
    x = sde.alpha(levels[0]) * x0 + sde.sigma(levels[0]) * noise
    for t, s in zip(levels, torch.cat([levels[1:], torch.zeros(1, dtype=DOUBLE)])):
        score = -(x - sde.alpha(t) * x0) / sde.sigma(t) ** 2
        x, std = PREDICTORS["exponential"](sde, x, score, t, s)
        assert float(std) == 0.0
        torch.testing.assert_close(x, sde.alpha(s) * x0 + sde.sigma(s) * noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SDES)
def test_ancestral_steps_sample_the_exact_posterior_when_the_clean_image_is_known(name):
    # p(x_s | x_t, x_0) = N((scale sigma_s^2 x_t + alpha_s d^2 x_0) / sigma_t^2, d^2 sigma_s^2 / sigma_t^2).
    sde, t, s = SDES[name], torch.tensor(0.6, dtype=DOUBLE), torch.tensor(0.3, dtype=DOUBLE)
    x0, x = torch.randn(2, 3, 5, dtype=DOUBLE)
    scale, d = FORMS[name].transition(0.6, 0.3)
    alpha_s, sigma_s, sigma_t = (
        FORMS[name].alpha(0.3),
        FORMS[name].sigma(0.3),
        FORMS[name].sigma(0.6),
    )
    score = -(x - sde.alpha(t) * x0) / sde.sigma(t) ** 2
    mean, std = PREDICTORS["ancestral"](sde, x, score, t, s)
    expected = (scale * sigma_s**2 * x + alpha_s * d**2 * x0) / sigma_t**2
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9)
    assert float(std) == pytest.approx(d * sigma_s / sigma_t, rel=1e-9)


# Percent of the true standard deviation at N = 1000 on the uniform grid, final denoising included: the figures that
# issue 2 and the documentation quote, here from the recursion alone (test_schedulers_sampling.py ties the schedulers to it).
FIGURES = [
    ("ve", "reverse_diffusion", None, 0.25, 0.41),
    ("ve", "reverse_diffusion", "langevin", 0.25, 1.25),
    ("ve", "ancestral", None, 0.25, -0.44),
    ("ve", "probability_flow", None, 0.2, -2.2),
    ("vp", "euler_maruyama", None, 0.25, 0.05),
    ("vp", "reverse_diffusion", None, 0.25, 0.27),
    ("vp", "ancestral", None, 0.02, -2.7),
    ("vp", "ancestral", None, 0.25, -0.78),
    ("vp", "reverse_diffusion", "langevin", 0.25, 1.24),
    ("subvp", "euler_maruyama", None, 0.25, 0.08),
    ("subvp", "reverse_diffusion", None, 0.25, 0.33),
    ("subvp", "ancestral", "langevin", 0.25, 1.27),
]


@pytest.mark.parametrize("name, predictor, corrector, v, percent", FIGURES)
def test_quoted_figures_at_a_thousand_steps(name, predictor, corrector, v, percent):
    levels = uniform_levels(1000, 1e-5 if name == "ve" else 1e-3)
    variance = sampled_variance(CLOSED_FORMS[name], v, levels, predictor, corrector, snr=0.16)
    assert 100 * (math.sqrt(variance / v) - 1) == pytest.approx(percent, abs=0.1)


@pytest.mark.parametrize("name", SDES)
def test_coefficients_do_not_leave_the_dtype_of_the_state(name):
    x = torch.randn(2, 3)
    for predictor in PREDICTORS.values():
        mean, _ = predictor(SDES[name], x, -x, torch.tensor(0.5, dtype=DOUBLE), torch.tensor(0.4, dtype=DOUBLE))
        reference, _ = predictor(
            SDES[name], x.double(), -x.double(), torch.tensor(0.5, dtype=DOUBLE), torch.tensor(0.4, dtype=DOUBLE)
        )
        assert mean.dtype == torch.float32
        torch.testing.assert_close(mean.double(), reference, rtol=1e-5, atol=1e-5)
