"""The Metropolis-adjusted corrector: no bias where unadjusted Langevin has a known one, and known acceptance rates."""

import copy
import math

import pytest
import torch

from scoresde_pipelines import GaussianMixtureScoreModel, GaussianScoreModel, ScoreSdePipeline, VPSDEScheduler
from scoresde_pipelines.schedulers import VESDE, MetropolisLangevin, annealed_langevin, sampling_loop


DOUBLE = torch.float64
SDE, T = VESDE(0.01, 50.0), torch.tensor(0.5, dtype=DOUBLE)
P = float(SDE.sigma(T)) ** 2  # of p_t for data at one point


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def steps(corrector, score, x, snr, n, generator, t=T):
    """The states after each of n adjusted steps, and the mean acceptance probability of each."""
    noise = lambda: torch.randn(x.shape, generator=generator, dtype=x.dtype)  # noqa: E731
    for _ in range(n):
        for i in range(corrector.evaluations):
            x = corrector(SDE, x, score(x), t, noise(), snr, **({"evaluation": i} if i else {}))[1]
        yield x, float(corrector.acceptance.mean())


def acceptance_in_one_dimension(h):
    """E min(1, a) over the state and the noise, both N(0, 1), by quadrature."""
    grid = torch.linspace(-8, 8, 2001, dtype=DOUBLE)
    weight = torch.exp(-(grid**2) / 2)
    x, z = grid[:, None], grid[None, :]
    log_ratio = -h / 4 * (((1 - h) * x + math.sqrt(2 * h) * z) ** 2 - x**2)
    mass = weight[:, None] * weight
    return float((mass * log_ratio.clamp_max(0).exp()).sum() / mass.sum())


@pytest.mark.parametrize("snr", [0.3, 0.6])
def test_the_variance_is_exact_where_the_unadjusted_step_has_its_known_bias(snr):
    h = 2 * snr**2  # in units of p
    biased = P / (1 - h / 2)
    x = y = math.sqrt(biased) * torch.randn(20_000, 2, generator=draw(), dtype=DOUBLE)
    generator = draw(1)
    for _ in range(40):
        y = annealed_langevin(SDE, y, -y / P, T, torch.randn(y.shape, generator=generator, dtype=DOUBLE), snr)[1]
    states, rates = zip(*steps(MetropolisLangevin(), lambda x: -x / P, x, snr, 60, generator))
    error = 4 * math.sqrt(2 / x.numel())
    assert float(y.var()) == pytest.approx(biased, rel=error)
    assert float(states[-1].var()) == pytest.approx(P, rel=error)
    assert biased / P > 1 + 2 * error, "the two are told apart"
    assert 0.5 < rates[-1] < 1


@pytest.mark.parametrize("snr", [0.3, 0.6, 1.0])
def test_the_acceptance_rate_in_one_dimension(snr):
    x = math.sqrt(P) * torch.randn(100_000, 1, generator=draw(), dtype=DOUBLE)
    ((_, rate),) = steps(MetropolisLangevin(), lambda x: -x / P, x, snr, 1, draw(1))
    assert rate == pytest.approx(acceptance_in_one_dimension(2 * snr**2), abs=4e-3)


def test_the_acceptance_rate_in_many_dimensions():
    d, snr = 3072, 0.16
    x = math.sqrt(P) * torch.randn(2000, d, generator=draw(), dtype=DOUBLE)
    ((new, rate),) = steps(MetropolisLangevin(), lambda x: -x / P, x, snr, 1, draw(1))
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = 2 * float(normal.cdf(torch.tensor(-((2 * snr**2) ** 1.5) * math.sqrt(d / 8))))
    assert rate == pytest.approx(expected, abs=0.02) and expected == pytest.approx(0.82, abs=0.01)
    moved = float((new != x).any(1).double().mean())
    assert moved == pytest.approx(rate, abs=0.04), "as many move as are accepted"


@pytest.mark.parametrize("snr", [0.5, 1.0])
def test_a_mixture_keeps_its_law(snr):
    # Two modes four standard deviations apart, and steps of up to their width: unadjusted steps are 3 and 57 % off.
    sigma = P**0.5
    data = GaussianMixtureScoreModel([0.3, 0.7], [[-2 * sigma], [2 * sigma]], [0.0, 0.0])
    score = lambda x: data.score(SDE, x, T)  # noqa: E731
    start = data.sample(40_000, draw()) + sigma * torch.randn(40_000, 1, generator=draw(1), dtype=DOUBLE)
    x, generator = start, draw(3)
    for _ in range(40):
        x = annealed_langevin(SDE, x, score(x), T, torch.randn(x.shape, generator=generator, dtype=DOUBLE), snr)[1]
    unadjusted = float(x.square().mean()) / (5 * P) - 1
    # The second moment's error is 0.36 %; that of Simpson's rule is about 1 % for the larger step.
    assert unadjusted > (0.02 if snr == 0.5 else 0.4)
    for log_prob, tolerance in ((lambda x, t: data.log_prob(SDE, x, t), 0.013), (None, 0.013 if snr == 0.5 else 0.03)):
        x = [state for state, _ in steps(MetropolisLangevin(log_prob), score, start, snr, 40, draw(2))][-1]
        assert float(x.square().mean()) / (5 * P) == pytest.approx(1.0, abs=tolerance)


# ---------------------------------------------------------------------- in the scheduler


def test_the_scheduler_calls_it_three_times_per_step():
    scheduler = VPSDEScheduler(
        continuous=True, predictor="ancestral", corrector="metropolis_langevin", correct_steps=2, snr=0.3
    )
    scheduler.set_timesteps(10)
    assert scheduler.order == 7 and len(scheduler.timesteps) == 70
    assert isinstance(scheduler.corrector, MetropolisLangevin)
    twin = copy.copy(scheduler)
    assert twin.corrector is not scheduler.corrector, "a memory of its own"
    scheduler.corrector = MetropolisLangevin(lambda x, t: -x.square().flatten(1).sum(1))
    scheduler.set_timesteps(10)
    assert scheduler.order == 5, "with a density two are enough"
    # Without a predictor the last call denoises a state that was accepted.
    alone = VPSDEScheduler(continuous=True, predictor=None, corrector="metropolis_langevin", correct_steps=1)
    alone.set_timesteps(3)
    assert alone.order == 3 and len(alone.times) == 7 and float(alone.times[-1]) == float(alone.levels[-1])


@pytest.mark.parametrize("corrector", ["annealed_langevin", "metropolis_langevin"])
def test_corrections_at_one_level_reach_the_law_there(corrector):
    # A run of corrections at one level from a wrong start, and Tweedie's formula, a factor of alpha v / p.
    v, snr = 0.09, 0.4
    scheduler = VPSDEScheduler(continuous=True, predictor=None, corrector=corrector, correct_steps=60, snr=snr)
    scheduler.set_timesteps(timesteps=[300.0])
    data, sde, t = GaussianScoreModel(torch.zeros(64), v), scheduler.sde, scheduler.times[0]
    score = lambda x, t: data.score(sde, x, t)  # noqa: E731
    x = sampling_loop(scheduler, score, torch.randn(400, 64, generator=draw()), draw(1))
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    p = alpha**2 * v + sigma**2
    bias = 1 / (1 - (snr * sigma) ** 2 / p) if corrector == "annealed_langevin" else 1.0
    assert float(x.var()) == pytest.approx(bias * (alpha * v) ** 2 / p, rel=4 * math.sqrt(2 / 25_600))
    assert bias in (1.0, pytest.approx(1.16, abs=0.02))


def test_an_image_depends_on_its_own_generator_alone():
    scheduler = VPSDEScheduler(continuous=True, predictor="ancestral", corrector="metropolis_langevin", snr=0.5)
    data = GaussianScoreModel(torch.full((1, 4, 4), 0.2), 0.09)
    pipe = ScoreSdePipeline(data.network(scheduler), scheduler)
    options = {"num_inference_steps": 12, "output_type": "latent"}
    output = pipe(5, generator=[draw(seed) for seed in range(5)], **options)
    assert output.nfe == 48
    torch.testing.assert_close(pipe(1, generator=draw(3), **options).images, output.images[3:4], rtol=0, atol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="log_prob must be None or a function, got"):
        MetropolisLangevin(3)
    with pytest.raises(ValueError, match=r"corrector must be None or one of .*metropolis_langevin"):
        VPSDEScheduler(corrector="metropolis")
