"""Stochastic sampling to a tolerance: exact laws, what restarts make of a wrong score, and independence of the batch."""

import pytest
import torch
from known_truths import MIXTURE, mixture

from scoresde_pipelines import GaussianScoreModel, ScoreSdePipeline, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.schedulers import VESDE, VPSDE, SubVPSDE, solve_probability_flow, solve_with_restarts
from scoresde_pipelines.schedulers.adaptive_restart import restart_times


SDES = {"ve": VESDE(0.01, 50.0), "vp": VPSDE(), "subvp": SubVPSDE()}
DOUBLE = torch.float64
END = 1e-3
MEAN, VARIANCE = 0.3, 0.09


def ratio(sde, t):
    return float(sde.noise_ratio(torch.tensor(t, dtype=DOUBLE)))


def on_marginal(sde, t, noise):
    t = torch.tensor(t, dtype=DOUBLE)
    return sde.alpha(t) * MEAN + (sde.alpha(t) ** 2 * VARIANCE + sde.sigma(t) ** 2).sqrt() * noise


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("num_restarts", [1, 3])
@pytest.mark.parametrize("name", SDES)
def test_gaussian_data_keep_their_law(name, num_restarts):
    sde, data = SDES[name], GaussianScoreModel([MEAN] * 64, VARIANCE)
    x = on_marginal(sde, 1.0, torch.randn(1500, 64, generator=draw(), dtype=DOUBLE))
    options = {"num_restarts": num_restarts, "generator": draw(1), "tolerance": 1e-3, "data_std": 0.3}
    found = solve_with_restarts(lambda x, t: data.score(sde, x, t), sde, x, 1.0, END, **options)
    mean, std = on_marginal(sde, END, 0.0), on_marginal(sde, END, 1.0) - on_marginal(sde, END, 0.0)
    # 96,000 numbers: errors of 0.3 % of std, and 0.46 % of the variance.
    assert float(found.x.mean() - mean) == pytest.approx(0.0, abs=4 * float(std) / 96_000**0.5)
    assert float(found.x.var() / std**2) == pytest.approx(1.0, abs=4 * (2 / 96_000) ** 0.5)
    assert found.nfe.shape == (1500,) and 40 < float(found.nfe.double().mean()) < (70 if num_restarts == 1 else 110)


@pytest.mark.parametrize("num_restarts", [0, 1, 3])
@pytest.mark.parametrize("name", SDES)
def test_restarts_contract_the_error_of_a_wrong_score_by_the_known_factor(name, num_restarts):
    # With c times the score, y = x / alpha of N(0, v) obeys dy / dr = c r y / (v + r^2): a descent from r to q multiplies
    # the variance by ((v + q^2) / (v + r^2))^c, and a restart adds high^2 - low^2.
    sde, c, std = SDES[name], 1.05, VARIANCE**0.5
    data = GaussianScoreModel([0.0] * 64, VARIANCE)
    z = torch.randn(1500, 64, generator=draw(), dtype=DOUBLE)
    start = z * (float(sde.alpha(torch.ones(()))) ** 2 * VARIANCE + float(sde.sigma(torch.ones(()))) ** 2) ** 0.5
    options = {"num_restarts": num_restarts, "generator": draw(1), "tolerance": 1e-4, "data_std": std}
    x = solve_with_restarts(lambda x, t: c * data.score(sde, x, t), sde, start, 1.0, END, **options).x
    low, high, first, last = 0.2 * std, 2 * std, ratio(sde, 1.0), ratio(sde, END)

    def descent(variance, r, q):
        return variance * ((VARIANCE + q**2) / (VARIANCE + r**2)) ** c

    expected = VARIANCE + first**2
    for i in range(num_restarts):
        expected = descent(expected, high if i else first, low) + high**2 - low**2
    expected = descent(expected, high if num_restarts else first, last)
    found = float((x / sde.alpha(torch.tensor(END, dtype=DOUBLE))).var())
    assert found == pytest.approx(expected, rel=4 * (2 / 96_000) ** 0.5)
    exact = VARIANCE + last**2
    plain = abs(descent(VARIANCE + first**2, first, last) / exact - 1)
    assert abs(found / exact - 1) < {0: 1.1, 1: 0.5, 3: 0.3}[num_restarts] * plain


@pytest.mark.parametrize("name", SDES)
def test_a_mixture_at_known_calls(name):
    calls, distance = mixture(*MIXTURE, quantiles=300).measure_adaptive(SDES[name], 1e-3, 1)
    assert 50 < calls < 62 and distance < 1.5e-3


def test_no_restart_is_the_ode():
    sde, data, x = SDES["vp"], GaussianScoreModel([MEAN] * 3, VARIANCE), torch.randn(4, 3)
    score = lambda x, t: data.score(sde, x, t)  # noqa: E731
    ours = solve_with_restarts(score, sde, x, 1.0, END, num_restarts=0, tolerance=1e-4)
    ode = solve_probability_flow(score, sde, x, 1.0, END, tolerance=1e-4)
    assert torch.equal(ours.x, ode.x) and torch.equal(ours.nfe, ode.nfe) and torch.equal(ours.num_steps, ode.num_steps)


def test_a_start_below_the_upper_level_is_the_upper_level():
    sde, data = SDES["vp"], GaussianScoreModel([MEAN] * 64, VARIANCE)
    x = on_marginal(sde, 0.2, torch.randn(1500, 64, generator=draw(), dtype=DOUBLE))
    assert restart_times(sde, 0.5)[1] > 0.2
    found = solve_with_restarts(lambda x, t: data.score(sde, x, t), sde, x, 0.2, END, generator=draw(1)).x
    std = on_marginal(sde, END, 1.0) - on_marginal(sde, END, 0.0)
    assert float(found.var() / std**2) == pytest.approx(1.0, abs=4 * (2 / 96_000) ** 0.5)


def test_a_sample_does_not_depend_on_its_batch():
    sde, truth, x = SDES["vp"], mixture(*MIXTURE), torch.randn(5, 1, generator=draw(), dtype=DOUBLE)
    score = lambda x, t: truth.score(sde, x, t)  # noqa: E731
    together = solve_with_restarts(score, sde, x, 1.0, END, generator=[draw(seed) for seed in range(5)])
    alone = solve_with_restarts(score, sde, x[3:4], 1.0, END, generator=[draw(3)])
    assert torch.equal(together.x[3:4], alone.x) and int(together.nfe[3]) == int(alone.nfe)
    assert len(set(together.nfe.tolist())) > 1, "samples have steps of their own"
    other = solve_with_restarts(score, sde, x[3:4], 1.0, END, generator=[draw(4)])
    assert not torch.allclose(other.x, alone.x)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_restarts": -1}, ValueError, "num_restarts must be"),
        (
            {"t_end": 0.5},
            ValueError,
            "t_end must be less and t_start more than t = 0.0.* of the restarts, got 0.5, 1.0",
        ),
        ({"t_start": 0.01}, ValueError, "t_end must be less and t_start more"),
        ({"generator": [draw()]}, ValueError, "generator must hold one generator per image, 2, got 1"),
        ({"data_std": 0.0}, ValueError, "data_std"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"x": torch.zeros(2, 1), "t_start": 1.0, "t_end": 1e-3, **change}
    with pytest.raises(error, match=message):
        solve_with_restarts(lambda x, t: -x, SDES["vp"], **arguments)


@pytest.mark.parametrize("scheduler", [VESDEScheduler(sigma_max=50.0), VPSDEScheduler(continuous=True)])
def test_in_the_pipeline(scheduler):
    data = GaussianScoreModel(torch.full((1, 8, 8), MEAN), VARIANCE)
    pipe = ScoreSdePipeline(data.network(scheduler), scheduler)
    options = {"output_type": "latent", "ode_tolerance": 1e-3, "num_restarts": 2}
    generators = [draw(seed) for seed in range(200)]
    output = pipe(200, generator=generators, **options)
    x = output.images
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * 0.3 / 12_800**0.5)
    assert float(x.var()) == pytest.approx(VARIANCE, rel=4 * (2 / 12_800) ** 0.5)
    assert output.nfe.shape == (200,)
    alone = pipe(1, generator=draw(7), **options)
    torch.testing.assert_close(alone.images, x[7:8], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="num_restarts must be 0 without ode_tolerance, got 2"):
        pipe(1, num_restarts=2)
