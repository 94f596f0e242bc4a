"""Langevin correctors against their formulas and against what they leave invariant."""

import math

import pytest
import torch
from linear_recursions import CLOSED_FORMS, annealed_size, langevin_size, langevin_step

from scoresde_pipelines.schedulers import VESDE, VPSDE, SubVPSDE, annealed_langevin, langevin


SDES = {"ve": VESDE(0.01, 50.0), "vp": VPSDE(0.1, 20.0), "subvp": SubVPSDE(0.1, 20.0)}
DOUBLE = torch.float64
CORRECTORS = {"langevin": langevin, "annealed_langevin": annealed_langevin}  # test_metropolis_langevin.py: the other


def state(batch: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(3, batch, *shape, dtype=DOUBLE).unbind()


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("snr", [0.01, 0.16])
def test_langevin_is_algorithm_4_with_norms_per_sample(name, snr):
    x, score, noise = state(4, 3, 2)
    mean, new = langevin(SDES[name], x, score, torch.tensor(0.4, dtype=DOUBLE), noise, snr)
    for i in range(4):
        norms = [math.sqrt(float((v[i] ** 2).sum())) for v in (noise, score)]
        size = 2 * (snr * norms[0] / norms[1]) ** 2
        torch.testing.assert_close(mean[i], x[i] + size * score[i], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(new[i], mean[i] + math.sqrt(2 * size) * noise[i], rtol=1e-12, atol=1e-12)


def test_batch_mean_norm_is_the_official_rule():
    x, score, noise = state(4, 3, 2)
    mean, new = langevin(SDES["ve"], x, score, torch.tensor(0.4, dtype=DOUBLE), noise, 0.16, batch_mean_norm=True)
    norms = [(v**2).sum((1, 2)).sqrt().mean() for v in (noise, score)]
    size = float(2 * (0.16 * norms[0] / norms[1]) ** 2)
    torch.testing.assert_close(mean, x + size * score, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(new, mean + math.sqrt(2 * size) * noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("batched_time", [True, False])
def test_annealed_langevin_steps_in_proportion_to_the_noise_variance(name, batched_time):
    x, score, noise = state(3, 4)
    times = [0.2, 0.4, 0.8] if batched_time else [0.4] * 3
    t = torch.tensor(times if batched_time else times[0], dtype=DOUBLE)
    mean, new = annealed_langevin(SDES[name], x, score, t, noise, 0.16)
    for i, time in enumerate(times):
        size = annealed_size(0.16, CLOSED_FORMS[name], time)
        torch.testing.assert_close(mean[i], x[i] + size * score[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(new[i], mean[i] + math.sqrt(2 * size) * noise[i], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("corrector", CORRECTORS)
@pytest.mark.parametrize("name", SDES)
def test_iterating_at_one_time_reaches_the_marginal_up_to_the_known_bias(name, corrector):
    # The unadjusted chain V' = (1 - h / p)^2 V + 2 h rests at p / (1 - h / 2p), with h = 2 snr^2 p^2 / V for the SNR rule
    # at V = p (1 + snr^2): the 1.2 % of the standard deviation that snr = .16 costs.
    form, t, snr, v = CLOSED_FORMS[name], 0.3, 0.3, 0.5
    p, expected = form.variance(t, v), 1.7 * form.variance(t, v)
    x = math.sqrt(expected) * torch.randn(2, 50_000, dtype=DOUBLE)
    for _ in range(60):
        size = (
            annealed_size(snr, form, t)
            if corrector == "annealed_langevin"
            else langevin_size(snr, form, t, v, expected)
        )
        expected = langevin_step(size, form, t, 0.0, v).variance(expected)
        noise = torch.randn_like(x)
        x = CORRECTORS[corrector](SDES[name], x, -x / p, torch.tensor(t, dtype=DOUBLE), noise, snr)[1]
    assert float(x.var()) == pytest.approx(expected, rel=4.5 * math.sqrt(2 / x.numel()) + 1e-3)
    if corrector == "langevin":
        assert expected == pytest.approx(p * (1 + snr**2), rel=1e-3)


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("corrector", CORRECTORS)
def test_the_stationary_variance_with_steps_per_sample(corrector, d):
    # The paper's rule tends to |x|^2 N(0, p (1 + 2 / d)), of variance p (1 + 2 / d)^2, for small steps; a step size of t
    # alone to p / (1 - h / 2p) exactly. Both chains start from their law; at the other one's they would leave it by half.
    sde, t, snr = SDES["ve"], torch.tensor(0.5, dtype=DOUBLE), 0.04
    p, x = float(sde.sigma(t)) ** 2, torch.randn(80_000 // d, d, dtype=DOUBLE)  # of data at one point
    if corrector == "langevin":
        radius = torch.distributions.Chi2(torch.tensor(d + 2.0, dtype=DOUBLE)).sample((len(x), 1)).sqrt()
        expected, x = p * (1 + 2 / d) ** 2, math.sqrt(p * (1 + 2 / d)) * radius * x / x.norm(dim=1, keepdim=True)
    else:
        expected = p / (1 - snr**2)
        x *= math.sqrt(expected)
    found = []
    for i in range(400):
        x = CORRECTORS[corrector](sde, x, -x / p, t, torch.randn_like(x), snr)[1]
        found += [float(x.square().mean())] if i >= 300 else []
    rel = 0.15 if (corrector, d) == ("langevin", 2) else 0.02  # in 2-D terms of order snr^2 are large
    assert sum(found) / len(found) == pytest.approx(expected, rel=rel)


def test_a_vanishing_score_does_not_move_the_state():
    x, _, noise = state(2, 5)
    mean, new = langevin(SDES["vp"], x, torch.zeros_like(x), torch.tensor(0.5, dtype=DOUBLE), noise, 0.16)
    assert torch.equal(mean, x) and torch.equal(new, x)


def test_a_sample_does_not_depend_on_its_neighbours():
    x, score, noise = state(5, 3, 2)
    for corrector in CORRECTORS.values():
        together = corrector(SDES["subvp"], x, score, torch.tensor(0.5, dtype=DOUBLE), noise, 0.16)[1]
        alone = corrector(SDES["subvp"], x[2:3], score[2:3], torch.tensor(0.5, dtype=DOUBLE), noise[2:3], 0.16)[1]
        torch.testing.assert_close(together[2:3], alone, rtol=1e-12, atol=1e-12)
