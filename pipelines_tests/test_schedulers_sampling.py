"""The schedulers' step machine on Gaussian data: every predictor x corrector x SDE is the linear recursion it should be."""

import math
from itertools import product

import pytest
import torch
from linear_recursions import (
    CLOSED_FORMS,
    ClosedForm,
    annealed_size,
    denoising_step,
    langevin_step,
    predictor_step,
    sampled_variance,
    uniform_levels,
)

from scoresde_pipelines import GaussianMixtureScoreModel, GaussianScoreModel
from scoresde_pipelines.schedulers import (
    CORRECTORS,
    PREDICTORS,
    TIME_GRIDS,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
    sampling_loop,
)


DOUBLE = torch.float64
# Those with a memory have tests of their own.
ONE_STEP = [name for name, predictor in PREDICTORS.items() if not isinstance(predictor, type)]
ONE_CALL = [name for name, corrector in CORRECTORS.items() if not isinstance(corrector, type)]
COMBINATIONS = [pair for pair in product([*ONE_STEP, None], [None, *ONE_CALL]) if pair != (None, None)]
EPS = {"ve": 1e-5, "vp": 1e-3, "subvp": 1e-3}


def scheduler_of(name: str, **config):
    if name == "ve":
        return VESDEScheduler(sigma_min=0.01, sigma_max=50.0, **config)
    return VPSDEScheduler(continuous=True, **config) if name == "vp" else SubVPSDEScheduler(**config)


def sample(scheduler, score, x: torch.Tensor, generator=None) -> torch.Tensor:
    """The loop of every pipeline, with a score of x and the SDE's time; `x` is unit noise."""
    return sampling_loop(scheduler, score, x * scheduler.init_noise_sigma, generator)


def gaussian_score(name: str, m: float, v: float):
    form = CLOSED_FORMS[name]

    def score(x, t):
        return -(x - form.alpha(float(t)) * m) / form.variance(float(t), v)

    return score


# ---------------------------------------------------------------------- step for step, with the same noise


def replay(form: ClosedForm, levels, predictor, corrector, snr, correct_steps, x, generator, m, v) -> torch.Tensor:
    """The same run by the recursion alone: x' = slope x + shift + noise z, z from a twin of the generator."""

    def draw():
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    def apply(step):
        return step.slope * x + step.shift + (step.noise * draw() if step.noise > 0 else 0.0)

    corrections = correct_steps if corrector else 0
    for level, t in enumerate(levels):
        for phase in range(corrections + (predictor is not None)):
            if level == len(levels) - 1 and phase == corrections + (predictor is not None) - 1:
                return apply(denoising_step(form, t, m, v))
            if phase >= corrections:
                x = apply(predictor_step(predictor, form, t, levels[level + 1], m, v))
                continue
            z, p = draw(), form.variance(t, v)
            norm_of_score = ((x - form.alpha(t) * m) / p).flatten(1).norm(dim=1)
            size = 2 * (snr * z.flatten(1).norm(dim=1) / norm_of_score) ** 2
            if corrector == "annealed_langevin":
                size = torch.full_like(size, annealed_size(snr, form, t))
            steps = [langevin_step(float(h), form, t, m, v) for h in size]
            x = torch.stack([s.slope * x[i] + s.shift + s.noise * z[i] for i, s in enumerate(steps)])
    raise AssertionError("a run ends by denoising")


@pytest.mark.parametrize("predictor, corrector", COMBINATIONS)
@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("n, correct_steps", [(12, 1), (5, 2), (1, 1)])
def test_the_step_machine_is_the_recursion(name, predictor, corrector, n, correct_steps):
    m, v, snr = 0.3, 0.2, 0.12
    scheduler = scheduler_of(name, predictor=predictor, corrector=corrector, snr=snr, correct_steps=correct_steps)
    scheduler.set_timesteps(n)
    assert len(scheduler.timesteps) == n * scheduler.order
    noise = torch.randn(3, 2, 5, dtype=DOUBLE)
    ours = sample(scheduler, gaussian_score(name, m, v), noise, torch.Generator().manual_seed(7))
    form, twin = CLOSED_FORMS[name], torch.Generator().manual_seed(7)
    levels, start = uniform_levels(n, EPS[name]), noise * CLOSED_FORMS[name].prior_std
    expected = replay(form, levels, predictor, corrector, snr, correct_steps, start, twin, m, v)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# ---------------------------------------------------------------------- Monte Carlo


@pytest.mark.parametrize("predictor, corrector", COMBINATIONS)
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_sampled_standard_deviation_is_the_recursion_s(name, predictor, corrector):
    # 16 samples of 2048 pixels: norms fluctuate by 1 / sqrt(2 * 2048), their squares' bias is of order 1 / 2048.
    n, v = 25, 0.25
    scheduler = scheduler_of(name, predictor=predictor, corrector=corrector, snr=0.16)
    scheduler.set_timesteps(n)
    x = sample(scheduler, gaussian_score(name, 0.0, v), torch.randn(16, 2048), torch.Generator().manual_seed(1))
    expected = math.sqrt(
        sampled_variance(CLOSED_FORMS[name], v, uniform_levels(n, EPS[name]), predictor, corrector, 0.16)
    )
    assert bool(torch.isfinite(x).all())
    assert float(x.std()) == pytest.approx(expected, rel=4.5 / math.sqrt(2 * x.numel()) + 2e-3)


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("corrector", [None, "langevin"])
def test_a_thousand_steps_are_within_the_quoted_error_of_the_truth(name, corrector):
    # 1 % without a corrector; with Langevin at snr .16, sqrt(1 + snr^2) - 1 = 1.27 %.
    v = 0.25
    scheduler = scheduler_of(name, predictor="reverse_diffusion", corrector=corrector, snr=0.16)
    scheduler.set_timesteps(1000)
    x = sample(scheduler, gaussian_score(name, 0.0, v), torch.randn(4, 4096), torch.Generator().manual_seed(1))
    error, tolerance = float(x.std()) / math.sqrt(v) - 1, 4.5 / math.sqrt(2 * x.numel())
    assert abs(error) < (0.013 if corrector else 0.01) + tolerance


@pytest.mark.parametrize("name", [*CLOSED_FORMS, "table"])
def test_few_steps_stay_finite_for_every_combination(name):
    x, score = torch.randn(4, 3, 8, 8), gaussian_score("vp" if name == "table" else name, 0.0, 0.25)
    choices = [(*pair, "linspace") for pair in COMBINATIONS]
    choices += [("reverse_diffusion", "langevin", spacing) for spacing in TIME_GRIDS]
    for predictor, corrector, spacing in choices:
        config = {"predictor": predictor, "corrector": corrector, "timestep_spacing": spacing}
        scheduler = VPSDEScheduler(**config) if name == "table" else scheduler_of(name, **config)
        for n in (1, 2, 5):
            scheduler.set_timesteps(n)
            assert bool(torch.isfinite(sample(scheduler, score, x)).all()), (config, n)


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("n", [1, 3, 10])
def test_the_exponential_predictor_returns_data_at_one_point_exactly(name, n):
    scheduler = scheduler_of(name, predictor="exponential", corrector=None)
    scheduler.set_timesteps(n)
    data = GaussianScoreModel(torch.tensor([0.3, -0.8]), 0.0)
    x = sample(scheduler, lambda x, t: data.score(scheduler.sde, x, t), torch.randn(6, 2, dtype=DOUBLE))
    torch.testing.assert_close(x, torch.tensor([0.3, -0.8], dtype=DOUBLE).expand(6, 2), rtol=0, atol=1e-6)


def test_a_mixture_is_sampled_in_its_proportions():
    scheduler = scheduler_of("vp", predictor="euler_maruyama", corrector=None)
    scheduler.set_timesteps(400)
    data = GaussianMixtureScoreModel([0.3, 0.7], [[-0.7], [0.8]], [0.01, 0.04])
    x = sample(scheduler, lambda x, t: data.score(scheduler.sde, x, t), torch.randn(20_000, 1))
    left = x[:, 0] < 0
    assert float(left.double().mean()) == pytest.approx(0.3, abs=0.015)
    for part, mean, std in ((x[left], -0.7, 0.1), (x[~left], 0.8, 0.2)):
        assert float(part.mean()) == pytest.approx(mean, abs=0.01)
        assert float(part.std()) == pytest.approx(std, rel=0.06)


# ---------------------------------------------------------------------- batches


@pytest.mark.parametrize("predictor, corrector", [("ancestral", "langevin"), ("euler_maruyama", "annealed_langevin")])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_sample_is_its_seed_s_whatever_the_batch(name, predictor, corrector):
    data = GaussianMixtureScoreModel([0.4, 0.6], torch.randn(2, 3, 4, 4), [0.01, 0.04])

    def run(seeds: list[int]) -> torch.Tensor:
        scheduler = scheduler_of(name, predictor=predictor, corrector=corrector)
        scheduler.set_timesteps(8)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(3, 4, 4, generator=g) for g in generators])
        return sample(scheduler, lambda x, t: data.score(scheduler.sde, x, t), noise, generators)

    alone = torch.cat([run([seed]) for seed in (0, 1, 2)])
    seven = run([5, 2, 4, 0, 9, 1, 8])
    many = run([*range(100, 161), 2, 1, 0])
    torch.testing.assert_close(seven[[3, 5, 1]], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(many[[63, 62, 61]], alone, rtol=0, atol=1e-6)
