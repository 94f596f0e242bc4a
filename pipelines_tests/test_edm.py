"""The preconditioned network of EDM under every SDE: with F = 0 it is the exact model of N(data_mean, sigma_data^2 I)."""

import math

import pytest
import torch

from scoresde_pipelines import (
    GaussianScoreModel,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
    log_likelihood,
    solve_probability_flow,
)
from scoresde_pipelines.schedulers import Parameterization, sampling_loop


EDM = {"prediction_type": "edm", "sigma_data": 0.3, "data_mean": [0.2, -0.4]}
SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(sigma_max=50.0, **EDM, **kw),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, **EDM, **kw),
    "subvp": lambda **kw: SubVPSDEScheduler(**EDM, **kw),
    "table": lambda **kw: VPSDEScheduler(**EDM, **kw),
    "ve_table": lambda **kw: VESDEScheduler(trained_betas=torch.linspace(1e-4, 0.02, 1000).tolist(), **EDM, **kw),
}
DOUBLE = torch.float64
MEAN = torch.tensor([0.2, -0.4], dtype=DOUBLE).reshape(2, 1, 1)


def zero(x, time):
    return torch.zeros_like(x)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_score_is_that_of_the_gaussian(name):
    scheduler = SCHEDULERS[name]()
    data, score = GaussianScoreModel(MEAN.expand(2, 3, 3), 0.09), scheduler.score_fn(zero)
    x = torch.randn(4, 2, 3, 3, dtype=DOUBLE)
    for t in (torch.tensor(0.3, dtype=DOUBLE), torch.tensor([1e-3, 0.1, 0.5, 1.0], dtype=DOUBLE)):
        torch.testing.assert_close(score(x, t), data.score(scheduler.sde, x, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_network_that_hits_its_target_denoises_to_the_image(name):
    scheduler = SCHEDULERS[name]()
    sde, parameterization = scheduler.sde, scheduler.parameterization
    x0, z = torch.randn(2, 3, 2, 4, 4, dtype=DOUBLE)
    for t in (torch.tensor(0.3, dtype=DOUBLE), torch.tensor([1e-3, 0.4, 1.0], dtype=DOUBLE)):
        alpha, sigma = (value.reshape(-1, 1, 1, 1) for value in (sde.alpha(t), sde.sigma(t)))
        x, target = alpha * x0 + sigma * z, parameterization.target(sde, x0, z, t)
        score = parameterization.score(sde, target, x, t)
        torch.testing.assert_close(score, -z / sigma, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(parameterization.output(sde, score, x, t), target, rtol=1e-7, atol=1e-7)
        given = parameterization.input(sde, x, t)
        torch.testing.assert_close(parameterization.state(sde, given, t), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_inputs_and_targets_have_unit_variance_and_the_loss_is_edm_s(name):
    scheduler = SCHEDULERS[name]()
    sde, parameterization = scheduler.sde, scheduler.parameterization
    data = GaussianScoreModel(MEAN.expand(2, 8, 8), 0.09).sample(2000, torch.Generator().manual_seed(0))
    z = torch.randn(data.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    for time in (1e-3, 0.2, 1.0):
        t = torch.tensor(time, dtype=DOUBLE)
        x, ratio = sde.alpha(t) * data + sde.sigma(t) * z, float(sde.noise_ratio(t))
        target = parameterization.target(sde, data, z, t)
        for value in (target, parameterization.input(sde, x, t)):
            assert float(value.var()) == pytest.approx(1.0, rel=0.02)
        # EDM's weight (r^2 + s^2) / (r s)^2 on |D - x_0|^2 is weight one on |F - target|^2.
        output = 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
        clean = sde.denoise(x, parameterization.score(sde, output, x, t), t)
        weighted = (ratio**2 + 0.09) / (0.09 * ratio**2) * (clean - data).square().mean()
        assert float(weighted) == pytest.approx(float((output - target).square().mean()), rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_ode_samples_the_gaussian_and_its_likelihood_is_the_density(name):
    scheduler = SCHEDULERS[name]()
    sde, score, eps = scheduler.sde, scheduler.score_fn(zero), 1e-3
    t = torch.tensor([eps, 1.0], dtype=DOUBLE)
    (alpha, alpha_end), (p, p_end) = sde.alpha(t), sde.alpha(t) ** 2 * 0.09 + sde.sigma(t) ** 2
    z = torch.randn(3, 2, 2, 2, dtype=DOUBLE)
    start = alpha_end * MEAN + torch.sqrt(p_end) * z
    x = solve_probability_flow(score, sde, start, 1.0, eps, tolerance=1e-7, data_std=0.3).x
    torch.testing.assert_close(x, alpha * MEAN + torch.sqrt(p) * z, rtol=1e-5, atol=1e-5)
    found = log_likelihood(score, sde, x, divergence="exact", tolerance=1e-7, sampling_eps=eps, data_std=0.3)
    exact = sde.prior_log_prob(start) + 4 * torch.log(p_end / p)
    torch.testing.assert_close(found.log_prob, exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("prologue", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_sampling_gives_the_gaussian_in_our_loop_and_in_a_stock_one(name, prologue):
    scheduler = SCHEDULERS[name](
        prologue=prologue, predictor="exponential_multistep", corrector=None, timestep_spacing="log_snr"
    )
    scheduler.set_timesteps(24)
    noise = torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    ours = sampling_loop(scheduler, scheduler.score_fn(zero), noise)
    scheduler.set_timesteps(24)
    x = noise
    for timestep in scheduler.timesteps:
        given = scheduler.scale_model_input(x, timestep)
        x = scheduler.step(zero(given, timestep), timestep, x).prev_sample
    assert torch.equal(x, ours)
    assert x.mean((0, 2, 3)).tolist() == pytest.approx([0.2, -0.4], abs=0.03)
    assert x.std((0, 2, 3)).tolist() == pytest.approx([0.3, 0.3], rel=0.05)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_analytic_networks_speak_edm_in_pipelines(name):
    data = GaussianScoreModel(torch.zeros(2, 8, 8), 0.25)
    scheduler = SCHEDULERS[name](predictor="exponential", corrector=None)
    plain = type(scheduler).from_config(scheduler.config, prediction_type="score")
    images = []
    for one in (scheduler, plain):
        pipe = ScoreSdePipeline(data.network(one), one)
        pipe.set_progress_bar_config(disable=True)
        images.append(pipe(2, 9, generator=torch.Generator().manual_seed(0), output_type="latent").images)
    torch.testing.assert_close(*images, rtol=1e-3, atol=1e-3)


def test_files_of_before_load_unchanged(tmp_path):
    VESDEScheduler(sigma_max=50.0).save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    lines = [line for line in path.read_text().splitlines() if "sigma_data" not in line and "data_mean" not in line]
    path.write_text("\n".join(lines))
    loaded = VESDEScheduler.from_pretrained(tmp_path)
    assert (loaded.config.sigma_data, loaded.config.data_mean) == (0.5, 0.0)
    assert loaded.parameterization == Parameterization("score", "sigma", 2000)


def test_the_data_s_moments_survive_a_round_trip(tmp_path):
    SCHEDULERS["vp"]().save_pretrained(tmp_path)
    loaded = VPSDEScheduler.from_pretrained(tmp_path)
    assert (loaded.config.sigma_data, loaded.config.data_mean) == (0.3, [0.2, -0.4])
    assert loaded.parameterization.sigma_data == 0.3


@pytest.mark.parametrize(
    "config, error, message",
    [
        ({"sigma_data": 0.0}, ValueError, r"sigma_data must be a finite number in \[1e-15, 1e\+15\], got 0.0"),
        ({"data_mean": math.nan}, ValueError, "data_mean must be a finite number .*, got nan"),
        ({"data_mean": "gray"}, TypeError, "data_mean must be a number, got str"),
    ],
)
def test_impossible_moments_are_named(config, error, message):
    with pytest.raises(error, match=message):
        VPSDEScheduler(prediction_type="edm", **config)
    with pytest.raises(ValueError, match="data_mean must have one number per channel, 3, got 2"):
        VPSDEScheduler(**EDM).score_fn(zero)(torch.ones(1, 3, 2, 2), torch.tensor(0.5))
