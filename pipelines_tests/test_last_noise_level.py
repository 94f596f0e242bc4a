"""`last_noise_level`: where the solvers' own grids end, what that costs on Gaussians, and what it leaves as it is."""

import copy
import math

import pytest
import torch
from known_truths import spectrum

from scoresde_pipelines import (
    DDPMpp,
    GaussianMixtureScoreModel,
    GaussianScoreModel,
    ScoreSdeLikelihoodPipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
    fit_steps,
)
from scoresde_pipelines.restoration import posterior_scheduler
from scoresde_pipelines.schedulers import ExponentialMultistep, sampling_loop


SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(**{"sigma_max": 50.0, "corrector": None, "sigma_data": 0.501} | kw),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, **kw),
    "subvp": SubVPSDEScheduler,
    "table": VPSDEScheduler,
}
SOLVERS = ("exponential_multistep", "restart", "learned_steps")
DOUBLE = torch.float64


def last_ratio(scheduler, n):
    scheduler.set_timesteps(n)
    return float(scheduler.sde.noise_ratio(scheduler.levels[-1]))


# ---------------------------------------------------------------------- the grids


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_grids_end_at_the_stated_level_or_at_their_own_if_that_is_larger(name, solver):
    for n in (5, 20, 50):
        own = last_ratio(SCHEDULERS[name](predictor=solver), n)
        for level in (1e-3, 0.06, 0.2, 0.3):
            scheduler = SCHEDULERS[name](predictor=solver, last_noise_level=level)
            assert last_ratio(scheduler, n) == pytest.approx(max(level * scheduler.data_std, own), rel=1e-6)
            assert len(scheduler.timesteps) == n


@pytest.mark.parametrize("level, lowest", [(0.0, 0.2), (0.2, 0.2), (0.3, 0.3)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_restarts_begin_at_a_fifth_or_at_the_last_level_if_that_is_larger(name, level, lowest):
    scheduler = SCHEDULERS[name](predictor="restart", last_noise_level=level)
    scheduler.set_timesteps(50)
    sde, std = scheduler.sde, scheduler.data_std
    ups = (scheduler.levels.diff() > 0).nonzero().flatten().tolist()
    assert len(ups) == 2
    for i in ups:
        t, s = scheduler.levels[i], scheduler.levels[i + 1]
        assert float(sde.noise_ratio(t)) > lowest * std and float(sde.noise_ratio(s)) == pytest.approx(2 * std)
        # Data at 0: the state at the lower level is exact, and the step's noise is that of the kernel from there.
        x = sde.sigma(t) * torch.ones(1, 1, dtype=DOUBLE)
        scheduler.predictor.start()
        mean, noise = scheduler.predictor(sde, x, -x / sde.sigma(t) ** 2, t, s)
        ratio = math.sqrt(float(mean) ** 2) / float(sde.alpha(s))
        assert ratio == pytest.approx(lowest * std, rel=1e-6)
        assert math.hypot(float(mean), float(noise)) == pytest.approx(float(sde.sigma(s)), rel=1e-9)


def test_other_grids_and_given_levels_do_not_change():
    plain, bounded = (VPSDEScheduler(continuous=True, predictor="heun", last_noise_level=x) for x in (0.0, 0.3))
    for options in ({"num_inference_steps": 12}, {"timesteps": [900.0, 500.0, 1.0]}):
        for one in (plain, bounded):
            one.set_timesteps(**options)
        assert torch.equal(plain.levels, bounded.levels)
    spaced = [
        VPSDEScheduler(predictor="exponential_multistep", timestep_spacing="karras", last_noise_level=level)
        for level in (0.0, 0.3)
    ]
    assert last_ratio(spaced[0], 20) == last_ratio(spaced[1], 20)


# ---------------------------------------------------------------------- what it costs on Gaussians


# With 150 calls the steps are so short that the shift of the logarithm, 2.5 from ten calls, is at its largest.
SHIFT = 2.5 * 3 ** (1 / 3)


def last_step(v, last, before):
    """The standard deviation that a step from the noise ratio `last` to 0 makes of the exact state of N(0, v).

    The noise prediction is r / sqrt(v + r^2) there; the step takes it linear in log(r + c last) from the last two calls,
    and the integral of log((r + c last) / ((1 + c) last)) from 0 to last is last (c log(1 + 1 / c) - 1).
    """
    eps, earlier = last / math.sqrt(v + last**2), before / math.sqrt(v + before**2)
    slope = (earlier - eps) / math.log((before + SHIFT * last) / ((1 + SHIFT) * last))
    return math.sqrt(v + last**2) - last * eps - slope * last * (SHIFT * math.log(1 + 1 / SHIFT) - 1)


@pytest.mark.parametrize("solver", ["exponential_multistep", "restart"])
@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_the_loss_of_variance_on_a_gaussian_is_that_of_the_last_step(name, solver):
    truth = spectrum(1.5, size=512)
    data = truth.start(1.0, 0.0)[0]
    found = []
    truth.distance = lambda x: found.append(x[0]) or 0.0
    for level in (0.0, 0.1, 0.2, 0.3):
        scheduler = SCHEDULERS[name](predictor=solver, last_noise_level=level)
        truth.measure(scheduler, 150)
        before, last = scheduler.sde.noise_ratio(scheduler.levels[-2:]).tolist()
        expected = torch.tensor([last_step(std**2, last, before) for std in data.tolist()])
        torch.testing.assert_close(found[-1], expected.to(DOUBLE), rtol=0, atol=4e-4)
    # To 0.2 the largest contrasts lose nothing, and the finest ones here, of 0.13 standard deviations, a quarter.
    assert float(found[2][0] / data[0]) == pytest.approx(1, abs=1e-3)
    assert float(found[2][-1] / data[-1]) == pytest.approx(0.75, abs=0.015)
    assert torch.allclose(found[0], data, rtol=0, atol=2e-3 if name == "ve" else 4e-4)


# ---------------------------------------------------------------------- fitted steps


def test_fitted_steps_end_there_and_follow_the_flow_that_ends_there():
    variances = torch.tensor([1e-3, 0.02, 0.1, 0.25, 1.0, 4.0])
    plain, scheduler = VPSDEScheduler(continuous=True), VPSDEScheduler(continuous=True, last_noise_level=0.3)
    data = GaussianMixtureScoreModel(torch.ones(1), torch.zeros(1, 6), variances=variances[None])
    starts, others = torch.randn(2, 48, 6, generator=torch.Generator().manual_seed(0))

    def score_fn(x, t):
        return data.score(scheduler.sde, x, t)

    def images(one, predictor, calls):
        one = type(one).from_config(one.config, predictor=predictor)
        one.set_timesteps(calls)
        return sampling_loop(one, score_fn, others)

    fitted = fit_steps(score_fn, scheduler, starts, 6, trials=20)
    assert fitted.config.learned_steps["6"]["noise_ratios"][-1] >= 0.3 * 0.5 * (1 - 1e-6)
    assert fitted.config.last_noise_level == 0.3
    found, ends_there, exact = (
        images(fitted, "learned_steps", 6),
        images(scheduler, "exponential_multistep", 60),
        images(plain, "exponential_multistep", 60),
    )
    finest = slice(0, 1)  # of a standard deviation of .03
    assert (found - ends_there).square().mean().sqrt() < 0.01
    loss = (exact - ends_there)[:, finest].square().mean().sqrt()
    assert (found - ends_there)[:, finest].square().mean().sqrt() < 0.5 * loss


# ---------------------------------------------------------------------- what does not use it


def test_likelihoods_latent_codes_and_posterior_solvers_do_not_use_it():
    torch.manual_seed(0)
    network = DDPMpp(sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1).eval()
    plain, bounded = VPSDEScheduler(continuous=True), VPSDEScheduler(continuous=True, last_noise_level=0.3)
    assert plain.likelihood_eps == bounded.likelihood_eps == 1e-5
    assert plain.smallest_time == bounded.smallest_time and plain.first_trained_time == bounded.first_trained_time
    results = []
    for scheduler in (plain, bounded):
        pipe = ScoreSdeLikelihoodPipeline(network, scheduler)
        pixels = torch.arange(0, 256, 16, dtype=torch.uint8).reshape(1, 1, 4, 4)
        bits = pipe(pixels, tolerance=1e-2, generator=torch.Generator().manual_seed(0)).bits_per_dim
        codes = pipe.encode(pixels, tolerance=1e-2)
        results.append((bits, codes, pipe.decode(codes, tolerance=1e-2, output_type="pt").images))
        results[-1] += (posterior_scheduler(scheduler, 0.5).levels,)
    for ours, theirs in zip(*results):
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))


# ---------------------------------------------------------------------- the configuration


def test_it_is_saved_and_stays_with_another_predictor_and_scheduler(tmp_path):
    scheduler = VESDEScheduler(sigma_max=50.0, last_noise_level=0.2)
    scheduler.save_pretrained(tmp_path)
    for one in (VESDEScheduler.from_pretrained(tmp_path), copy.copy(scheduler)):
        other = type(one).from_config(one.config, predictor="restart", corrector=None)
        assert other.config.last_noise_level == 0.2 and last_ratio(other, 20) == pytest.approx(0.05, rel=1e-6)


def test_data_at_one_point_are_reached_from_any_last_level():
    scheduler = VPSDEScheduler(continuous=True, predictor="exponential_multistep", last_noise_level=1.0)
    scheduler.set_timesteps(4)
    data = GaussianScoreModel(torch.tensor([0.7]), 0.0)
    x = sampling_loop(scheduler, lambda x, t: data.score(scheduler.sde, x, t), torch.tensor([[0.3], [2.0]]))
    assert x.flatten().tolist() == pytest.approx([0.7, 0.7], abs=1e-5)


def test_a_level_above_the_start_leaves_the_solver_half_of_the_start():
    scheduler = VESDEScheduler(sigma_max=0.1, predictor="exponential_multistep", corrector=None, last_noise_level=1.0)
    assert last_ratio(scheduler, 5) == pytest.approx(0.05, rel=1e-6)
    assert isinstance(scheduler.predictor, ExponentialMultistep)


@pytest.mark.parametrize("level", [-0.1, 1.5, math.nan, "0.2", None])
def test_other_values_are_refused(level):
    with pytest.raises((TypeError, ValueError), match=r"last_noise_level must be a (finite )?number"):
        VPSDEScheduler(last_noise_level=level)
