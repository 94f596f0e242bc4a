"""Objectives: densities and weightings against quadrature and closed forms; draws by position; balanced batches."""

import inspect
import math

import numpy as np
import pytest
import torch

from scoresde_pipelines.schedulers import VESDE, VPSDE, SubVPSDE
from scoresde_pipelines.schedulers.parameterization import Parameterization
from scoresde_pipelines.training.class_sampling import BalancedBatches
from scoresde_pipelines.training.losses import denoising_loss, score_slope
from scoresde_pipelines.training.objectives import Objective, ObjectiveOptions, make_objective
from scoresde_pipelines.training.seeding import ImageDraws, stratified
from scoresde_pipelines.training.time_sampling import ImportanceTimes, LogNormalTimes


SDES = {"ve": VESDE(0.01, 50.0), "vp": VPSDE(0.1, 20.0), "subvp": SubVPSDE(0.1, 20.0)}
EPS = 1e-3


def even(count: int) -> torch.Tensor:
    """The midpoint rule on [0, 1]: expectation over uniforms."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def expected(objective, sde, function, count=200_000):
    """E lambda(t) function(t) over the objective's times, per unit of sigma^2 (as the loss counts)."""
    t = objective.times(sde, even(count))
    return (objective.weighting(sde, t) / sde.sigma(t) ** 2 * function(t)).mean().item()


def integral(sde, weight, function, count=400_001):
    """The same by quadrature in log t of a uniform density on [EPS, T], from the paper's formulas."""
    log_t = torch.linspace(math.log(EPS), 0, count, dtype=torch.float64)
    t = log_t.exp()
    return torch.trapezoid(weight(t) * function(t) * t, log_t).item() / (1 - EPS)


def error_at(t):
    """Some squared error of the noise prediction, as a function of time."""
    return 0.2 + torch.exp(-3 * t) + 0.1 * torch.sin(5 * t)


@pytest.mark.parametrize("name", SDES)
def test_expected_losses_are_their_integrals(name):
    sde, options = SDES[name], ObjectiveOptions(training_eps=EPS, snr_gamma=5.0)
    snr = lambda t: sde.alpha(t) ** 2 / sde.sigma(t) ** 2  # noqa: E731
    weights = {
        "score_matching": torch.ones_like,
        "likelihood": lambda t: sde.diffusion(t) ** 2 / sde.sigma(t) ** 2,
        "likelihood_importance": lambda t: sde.diffusion(t) ** 2 / sde.sigma(t) ** 2,  # unbiased for the same integral
        "min_snr": lambda t: snr(t).clamp_max(5.0) / snr(t),
    }
    for objective, weight in weights.items():
        value = expected(make_objective(objective, options), sde, error_at)
        assert value == pytest.approx(integral(sde, weight, error_at), rel=2e-4), objective


@pytest.mark.parametrize("name", SDES)
def test_importance_sampling_has_a_smaller_variance(name):
    sde, options = SDES[name], ObjectiveOptions(training_eps=EPS)
    spread = {}
    for objective in ("likelihood", "likelihood_importance"):
        made = make_objective(objective, options)
        t = made.times(sde, even(10_000))
        spread[objective] = (made.weighting(sde, t) / sde.sigma(t) ** 2).std().item()
    # The weight is constant where the density follows it; under VE it is constant anyway.
    assert spread["likelihood_importance"] < 1e-9
    assert spread["likelihood"] > (1.0 if name != "ve" else -1)


def test_importance_sampled_times_follow_their_closed_form():
    # VP: integral of beta / (1 - exp(-B)) is log(exp(B) - 1), with B(t) = 0.1 t + 9.95 t^2.
    sde, times, count = VPSDE(0.1, 20.0), ImportanceTimes(1e-5), 4096
    t = times(sde, even(count))

    def primitive(time):
        return torch.log(torch.expm1(0.1 * time + 9.95 * time**2))

    ends = primitive(torch.tensor([1e-5, 1.0], dtype=torch.float64))
    total = (ends[1] - ends[0]).item()
    assert times.normalizer(sde) == pytest.approx(total, rel=1e-4)
    assert ((primitive(t) - ends[0]) / total - even(count)).abs().max().item() < 2e-4


@pytest.mark.parametrize("name", SDES)
def test_edm_times_are_log_normal_in_the_noise_level(name):
    sde, times = SDES[name], LogNormalTimes(-0.8, 1.4, 1e-5)
    u = even(4096)
    t = times(sde, u)
    log_ratio = -0.5 * sde.log_snr(t)
    low, high = (-0.5 * sde.log_snr(torch.tensor([1e-5, 1.0], dtype=torch.float64))).tolist()
    cdf = lambda x: 0.5 * (1 + math.erf((x + 0.8) / 1.4 / math.sqrt(2)))  # noqa: E731
    for k in range(0, 4096, 37):
        truncated = (cdf(log_ratio[k].item()) - cdf(low)) / (cdf(high) - cdf(low))
        assert truncated == pytest.approx(u[k].item(), abs=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "score", "sample", "v_prediction", "edm"])
def test_edm_weighting_is_that_of_the_paper_on_the_denoised_image(prediction):
    # Karras et al. 2022, table 1: lambda = (r^2 + s^2) / (r s)^2 on |D - x_0|^2, whatever the network predicts.
    sde, s = VPSDE(0.1, 20.0), 0.35
    generator = torch.Generator().manual_seed(0)
    x0, noise, output = torch.randn(3, 6, 2, 3, 3, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.05, 1, 6, dtype=torch.float64)
    parameterization = Parameterization(prediction)
    objective = make_objective("edm", ObjectiveOptions(sigma_data=s))
    losses = denoising_loss(
        lambda x, t: output, parameterization, sde, x0, t, noise, weighting=objective.weighting
    )  # fmt: skip
    mean, std = sde.marginal(x0, t)
    x = mean + std.reshape(-1, 1, 1, 1) * noise
    denoised = sde.denoise(x, parameterization.score(sde, output, x, t), t)
    r = sde.sigma(t) / sde.alpha(t)
    reference = (r**2 + s**2) / (r * s) ** 2 * (denoised - x0).square().flatten(1).mean(1)
    torch.testing.assert_close(losses, reference, rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "score", "sample", "v_prediction", "edm"])
def test_the_error_of_an_output_is_that_of_its_score(prediction):
    sde, t = SubVPSDE(0.1, 20.0), torch.linspace(0.01, 1, 5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x0, noise, output = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    parameterization = Parameterization(prediction, sigma_data=0.35, data_mean=[0.1, 0.2, 0.3, 0.4])
    mean, std = sde.marginal(x0, t)
    x = mean + std[:, None] * noise
    error = parameterization.score(sde, output, x, t) + noise / std[:, None]
    through_target = score_slope(parameterization, sde, t, 4)[:, None] * (
        output - parameterization.target(sde, x0, noise, t)
    )
    torch.testing.assert_close(through_target, error, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SDES)
def test_edm_objective_of_an_edm_network_is_plain_mean_square(name):
    sde, parameterization = SDES[name], Parameterization("edm", sigma_data=0.35, data_mean=0.8)
    generator = torch.Generator().manual_seed(0)
    x0, noise, output = torch.randn(3, 6, 2, 3, 3, generator=generator, dtype=torch.float64)
    objective = make_objective("edm", ObjectiveOptions(sigma_data=0.35, P_mean=-0.8, P_std=1.4))
    t = objective.times(sde, even(6))
    losses = denoising_loss(lambda x, t: output, parameterization, sde, x0, t, noise, weighting=objective.weighting)
    target = parameterization.target(sde, x0, noise, t)
    torch.testing.assert_close(losses, (output - target).square().flatten(1).mean(1), rtol=1e-9, atol=0)


def test_discrete_objectives_draw_every_level_alike():
    smld = make_objective("smld", ObjectiveOptions(num_train_timesteps=5)).times(SDES["ve"], even(20))
    sigmas = [0.01 * 5000 ** (k / 4) for k in range(5) for _ in range(4)]
    assert SDES["ve"].sigma(smld).tolist() == pytest.approx(sigmas)
    ddpm = make_objective("ddpm", ObjectiveOptions(num_train_timesteps=5)).times(SDES["vp"], even(20))
    assert ddpm.tolist() == pytest.approx([k / 5 for k in range(1, 6) for _ in range(4)])
    with pytest.raises(ValueError, match=r"the smld objective needs an SDE with sigma\(0\) > 0"):
        make_objective("smld").times(SDES["vp"], even(4))


def soft(sde, t):
    return sde.sigma(t) ** 2 / (1 + sde.sigma(t) ** 2)


def squared_times(sde, u):
    return sde.T * (1e-3 + 0.999 * u) ** 2


def test_an_objective_of_one_s_own():
    objective = Objective(soft, squared_times)
    sde, t = VESDE(0.01, 50.0), objective.times(SDES["ve"], even(4))
    x0 = torch.zeros(4, 3, dtype=torch.float64)
    losses = denoising_loss(lambda x, t: x * 0, Parameterization("score"), sde, x0, t, x0 + 2, weighting=soft)
    # A network of zeros misses the score z / sigma: lambda 4 / sigma^2.
    assert losses.tolist() == pytest.approx((4 / (1 + sde.sigma(t) ** 2)).tolist())
    assert len(inspect.getsource(soft).splitlines()) + len(inspect.getsource(squared_times).splitlines()) <= 7


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: make_objective("elbo"), "name must be one of .* got 'elbo'"),
        (lambda: make_objective("edm", ObjectiveOptions(P_std=0)), "P_std must be .* greater than 0, got 0"),
        (lambda: make_objective("edm", ObjectiveOptions(sigma_data=0)), "sigma_data must be .* greater than 0, got 0"),
        (
            lambda: make_objective("min_snr", ObjectiveOptions(snr_gamma=-1)),
            "snr_gamma must be .* greater than 0, got -1",
        ),
        (
            lambda: make_objective("edm", ObjectiveOptions(training_eps=2)).times(VPSDE(), even(2)),
            r"training_eps must be a finite number in \(0, 1\), got 2",
        ),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------ draws and batches


def test_draws_depend_on_the_position_alone():
    whole, parts = ImageDraws(3, 40, 16), [ImageDraws(3, 40, 8), ImageDraws(3, 48, 8)]
    for name in ("time", "label", "flip"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    assert torch.equal(whole.noise((3, 4, 4)), torch.cat([part.noise((3, 4, 4)) for part in parts]))
    assert not torch.equal(whole.time, ImageDraws(4, 40, 16).time)


def test_draws_are_uniform_normal_and_independent():
    draws, n = ImageDraws(0, 0, 20_000), 20_000
    columns = torch.stack([draws.time, draws.label, draws.flip])
    assert columns.mean(1).tolist() == pytest.approx([0.5] * 3, abs=4 / math.sqrt(12 * n))
    assert (torch.corrcoef(columns) - torch.eye(3)).abs().max().item() < 4 / math.sqrt(n)
    assert ((columns[:, 1:] - 0.5) * (columns[:, :-1] - 0.5)).mean(1).abs().max().item() < 4 / 12 / math.sqrt(n)
    noise = ImageDraws(0, 0, 2000).noise((16,))
    assert noise.mean().item() == pytest.approx(0, abs=4 / math.sqrt(32_000))
    assert noise.square().mean().item() == pytest.approx(1, abs=4 * math.sqrt(2 / 32_000))
    assert (noise[1:] * noise[:-1]).mean().item() == pytest.approx(0, abs=4 / math.sqrt(32_000))


def test_strata_of_an_update_are_shared_by_its_parts():
    jitter = ImageDraws(0, 0, 32).time
    whole = stratified(jitter, 7, 5, 0, 32)
    assert sorted((whole * 32).floor().int().tolist()) == list(range(32))
    parts = [stratified(jitter[first : first + 8], 7, 5, first, 32) for first in range(0, 32, 8)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, stratified(jitter, 7, 6, 0, 32))


def take(batches, count: int) -> list[int]:
    stream = iter(batches)
    return [index for _ in range(count) for index in next(stream)]


def test_balanced_batches_hold_every_class_once_and_use_every_image():
    labels = torch.tensor([0] * 12 + [1] * 3 + [3] * 5)
    seen = take(BalancedBatches(labels, 6, seed=1), 12)
    for first in range(0, 72, 3):
        assert sorted(labels[seen[first : first + 3]].tolist()) == [0, 1, 3]
    # 24 of each class: the 12 images of class 0 twice, the 3 of class 1 eight times.
    counts = np.bincount(seen, minlength=20)
    assert counts[:12].tolist() == [2] * 12 and counts[12:15].tolist() == [8] * 3
    assert set(counts[15:].tolist()) <= {4, 5} and counts[15:].sum() == 24


def test_balanced_batches_go_on_at_any_position_and_on_any_process():
    labels = torch.arange(20) % 3
    whole = take(BalancedBatches(labels, 8, seed=1), 6)
    assert take(BalancedBatches(labels, 8, seed=1, start=16), 4) == whole[16:]
    halves = [take(BalancedBatches(labels, 4, seed=1, rank=rank, world_size=2), 6) for rank in range(2)]
    merged = [index for k in range(6) for rank in range(2) for index in halves[rank][4 * k : 4 * k + 4]]
    assert merged == whole
