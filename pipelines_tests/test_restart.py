"""Restart sampling: the noise between two descents is exact, and so are the results where the ODE is solved well."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMPipeline
from known_truths import MIXTURE, mixture, spectrum

from scoresde_pipelines import (
    GaussianScoreModel,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)
from scoresde_pipelines.schedulers import Restart, sampling_loop


SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(sigma_max=50.0, predictor="restart", corrector=None, sigma_data=0.501, **kw),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, predictor="restart", **kw),
    "subvp": lambda **kw: SubVPSDEScheduler(predictor="restart", **kw),
    "table": lambda **kw: VPSDEScheduler(predictor="restart", **kw),
}
DOUBLE = torch.float64


# ---------------------------------------------------------------------- the levels


@pytest.mark.parametrize("n", [*range(1, 31), 50, 100, 250, 1000])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_number_of_calls_has_its_descents(name, n):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(n)
    assert len(scheduler.timesteps) == len(scheduler.levels) == n and float(scheduler.levels[0]) == 1.0
    # A descent begins at twice the data's standard deviation.
    ratios, std = scheduler.sde.noise_ratio(scheduler.levels), scheduler.data_std
    begins = torch.isclose(ratios, torch.tensor(2 * std, dtype=DOUBLE), rtol=1e-5)
    assert int(begins.sum()) == (0 if n < 15 else max(1, round(0.3 * math.sqrt(n))))
    if n >= 15:
        first = int(begins.nonzero()[0])
        assert 0.2 * std < float(ratios[first - 1]) < 2 * std, "and the one before it ends above a fifth"
        assert bool((ratios[:first].diff() < 0).all())
    if n > 1:
        solver = type(scheduler).from_config(scheduler.config, predictor="exponential_multistep")
        solver.set_timesteps(n)
        assert float(scheduler.levels[-1]) == pytest.approx(float(solver.levels[-1]), rel=1e-6)


def test_the_last_descent_has_more_calls_and_each_descent_its_own_mean_step():
    scheduler = SCHEDULERS["vp"]()
    scheduler.set_timesteps(50)
    sde, levels, predictor = scheduler.sde, scheduler.levels, scheduler.predictor
    ratios = sde.noise_ratio(levels)
    begins = [0, *((levels.diff() > 0).nonzero().flatten() + 1).tolist(), 50]
    assert [end - begin for begin, end in pairwise(begins)] == [20, 8, 22]  # by the law alone: 22, 9, 19
    x, found = torch.ones(1, 1, dtype=DOUBLE), []
    predictor.start()
    for t, s in pairwise(levels):
        found.append(predictor.solver.step)
        predictor(sde, x, -x, t, s)
    low, high, (first, last) = 0.1, 1.0, ratios[[0, -1]].tolist()
    steps = [math.log(first / low) / 20, math.log(high / low) / 8, math.log(high / last) / 21]
    assert found == pytest.approx([steps[0]] * 20 + [steps[1]] * 8 + [steps[2]] * 21, rel=1e-6)


def test_other_levels_are_refused():
    message = "timestep_spacing must be None, and timesteps not be given, for the predictor 'restart'"
    with pytest.raises(ValueError, match=message):
        VPSDEScheduler(predictor="restart", timestep_spacing="karras")
    with pytest.raises(ValueError, match=message):
        SCHEDULERS["vp"]().set_timesteps(timesteps=[900.0, 500.0, 100.0])


# ---------------------------------------------------------------------- exact laws


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_step_up_is_the_forward_kernel_from_the_lower_level(name):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(30)
    sde, levels = scheduler.sde, scheduler.levels
    i = int((levels.diff() > 0).nonzero()[0])
    t, s = levels[i], levels[i + 1]
    low = sde.t_from_log_snr(-2 * torch.log(torch.tensor(0.2 * scheduler.data_std, dtype=DOUBLE)))
    # Data at one point: the ODE is solved exactly, so the mean is that of p(x_s | x_0) and the noise what is missing.
    x = sde.alpha(t) * 0.7 + sde.sigma(t) * torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    scheduler.predictor.start()
    mean, std = scheduler.predictor(sde, x, -(x - sde.alpha(t) * 0.7) / sde.sigma(t) ** 2, t, s)
    scale = float(sde.alpha(s) / sde.alpha(low))
    expected = float(sde.alpha(s)) * 0.7 + scale * float(sde.sigma(low)) * torch.tensor([0.0, 1.0], dtype=DOUBLE)
    torch.testing.assert_close(mean.flatten(), expected, rtol=1e-9, atol=1e-9)
    assert (scale * float(sde.sigma(low))) ** 2 + float(std) ** 2 == pytest.approx(float(sde.sigma(s)) ** 2, rel=1e-9)


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
@pytest.mark.parametrize("exponent", [1.0, 1.5])
def test_frechet_distance_on_spectra_of_images(name, exponent):
    truth = spectrum(exponent)
    for calls, limit in ((20, 2e-3), (50, 4e-5), (100, 2e-5)):
        assert truth.measure(SCHEDULERS[name](), calls) < limit, calls


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_distance_to_a_mixture(name):
    truth = mixture(*MIXTURE, quantiles=300)
    for calls, limit in ((20, 5e-3), (50, 6e-4), (100, 1.3e-4)):
        assert truth.measure(SCHEDULERS[name](), calls) < limit, calls


@pytest.mark.parametrize("n", [20, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_samples_have_the_mean_and_variance_of_gaussian_data(name, n):
    scheduler = SCHEDULERS[name]()
    data = GaussianScoreModel(torch.full((1, 8, 8), 0.2), 0.25)
    scheduler.set_timesteps(n)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 1, 8, 8, generator=generator) * scheduler.init_noise_sigma
    if name == "ve":
        x += 0.2  # the prior of mean zero is a fiftieth of a standard deviation off
    x = sampling_loop(scheduler, lambda x, t: data.score(scheduler.sde, x, t), x, generator)
    assert float(x.mean()) == pytest.approx(0.2, abs=4 * 0.5 / math.sqrt(x.numel()))
    assert float(x.std()) == pytest.approx(0.5, rel=4 / math.sqrt(2 * x.numel()) + 2e-3)


# ---------------------------------------------------------------------- in pipelines and stock loops


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", "score", "edm"])
@pytest.mark.parametrize("name", ["ve", "vp", "table"])
def test_a_stock_loop_with_copies_of_the_times_draws_the_same(name, prediction_type):
    scheduler = SCHEDULERS[name](prediction_type=prediction_type)
    network = GaussianScoreModel(torch.zeros(4), 0.09).network(scheduler)
    results = []
    for copies in (False, True):
        scheduler.set_timesteps(18)
        generator = torch.Generator().manual_seed(0)
        x = torch.ones(2, 4) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps.clone() if copies else scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, timestep), timestep).sample
            x = scheduler.step(output, timestep, x, generator=generator).prev_sample
        results.append(x)
    assert torch.equal(*results)


def test_diffusers_own_pipeline_samples_with_it():
    scheduler = SCHEDULERS["table"](prologue=True)
    network = GaussianScoreModel(torch.zeros(3, 16, 16), 0.09).network(scheduler)
    pipe = DDPMPipeline(network, scheduler)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(8, torch.Generator().manual_seed(0), num_inference_steps=20, output_type="np").images
    # numpy images are clipped to [-1, 1], which is 3.3 standard deviations here.
    assert 2 * images.std() == pytest.approx(0.3, rel=0.02)


def test_it_is_saved_with_the_pipeline_and_counts_its_calls(tmp_path):
    scheduler = SCHEDULERS["vp"]()
    pipe = ScoreSdePipeline(GaussianScoreModel(torch.zeros(1, 8, 8), 0.09).network(scheduler), scheduler)
    pipe.set_progress_bar_config(disable=True)
    output = pipe(4, 33, generator=torch.Generator().manual_seed(0), output_type="latent")
    assert output.nfe == 33
    scheduler.save_pretrained(tmp_path)
    pipe.scheduler = VPSDEScheduler.from_pretrained(tmp_path)
    again = pipe(4, 33, generator=torch.Generator().manual_seed(0), output_type="latent")
    assert torch.equal(output.images, again.images) and isinstance(pipe.scheduler.predictor, Restart)


def test_an_image_does_not_depend_on_its_batch():
    scheduler = SCHEDULERS["vp"]()
    pipe = ScoreSdePipeline(GaussianScoreModel(torch.zeros(1, 8, 8), 0.09).network(scheduler), scheduler)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(k) for k in range(3)]
    together = pipe(3, 20, generator=generators, output_type="latent").images
    alone = pipe(1, 20, generator=[torch.Generator().manual_seed(2)], output_type="latent").images
    torch.testing.assert_close(together[2:], alone, rtol=0, atol=1e-5)
