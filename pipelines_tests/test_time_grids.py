"""Where the time grids put their levels, by each grid's own formula."""

import math

import pytest
import torch

from scoresde_pipelines.schedulers import TIME_GRIDS, VESDE, VPSDE, SubVPSDE, TimeGrid


SDES = {"ve": VESDE(0.01, 50.0), "vp": VPSDE(), "subvp": SubVPSDE()}
EPS = 1e-3


def noise_to_signal(sde, t):
    return (sde.sigma(t) / sde.alpha(t)).double()


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("n", [1, 2, 5, 64])
@pytest.mark.parametrize("grid", TIME_GRIDS)
def test_levels_run_from_the_prior_to_eps_and_targets_follow_them(name, n, grid):
    sde = SDES[name]
    times = TIME_GRIDS[grid](sde, n, EPS)
    assert times.levels.dtype == times.targets.dtype == torch.float64
    assert len(times.levels) == len(times.targets) == n
    assert bool((times.levels.diff() < 0).all()) and bool((times.targets < times.levels).all())
    if grid != "leading":
        assert float(times.levels[0]) == 1.0
    if grid in ("linspace", "log_snr", "karras", "official") and n > 1:
        assert float(times.levels[-1]) == pytest.approx(EPS, abs=1e-12)
    if grid != "official":
        assert torch.equal(times.targets[:-1], times.levels[1:]) and float(times.targets[-1]) == 0 and times.denoise


def test_uniform_leading_and_trailing_are_diffusers_spacings():
    sde, n = SDES["vp"], 4
    levels = {name: TIME_GRIDS[name](sde, n, EPS).levels.tolist() for name in ("linspace", "leading", "trailing")}
    assert levels["linspace"] == pytest.approx([1.0, 0.667, 0.334, 0.001], abs=1e-12)
    assert levels["leading"] == pytest.approx([0.751, 0.501, 0.251, 0.001], abs=1e-12)
    assert levels["trailing"] == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=1e-12)


@pytest.mark.parametrize("name", SDES)
def test_log_snr_and_karras_are_even_in_their_own_variable(name):
    sde, n = SDES[name], 33
    log_snr = sde.log_snr(TIME_GRIDS["log_snr"](sde, n, EPS).levels)
    steps = log_snr.diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-6, atol=0)

    # Karras et al. (2022), eq. 5.
    low, high = noise_to_signal(sde, torch.tensor([EPS, 1.0], dtype=torch.float64)).tolist()
    expected = [(high ** (1 / 7) + i / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(n)]
    levels = noise_to_signal(sde, TIME_GRIDS["karras"](sde, n, EPS).levels)
    torch.testing.assert_close(levels, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0)


def test_a_uniform_ve_grid_is_geometric_in_sigma():
    sigmas = SDES["ve"].sigma(TIME_GRIDS["linspace"](SDES["ve"], 100, 1e-5).levels)
    ratio = math.exp(-math.log(5000) * (1 - 1e-5) / 99)
    torch.testing.assert_close(sigmas[1:] / sigmas[:-1], torch.full((99,), ratio, dtype=torch.float64))


def test_official_grid_steps_by_one_nth_whatever_its_levels_do():
    times = TIME_GRIDS["official"](SDES["vp"], 5, EPS)
    assert times.levels.tolist() == pytest.approx([1.0, 0.75025, 0.5005, 0.25075, 0.001], abs=1e-12)
    assert (times.levels - times.targets).tolist() == pytest.approx([0.2] * 5, abs=1e-12)
    assert not times.denoise


def test_a_grid_through_levels_ends_at_the_clean_image():
    times = TimeGrid.through(torch.tensor([0.9, 0.4], dtype=torch.float64))
    assert times.targets.tolist() == [0.4, 0.0] and times.denoise
