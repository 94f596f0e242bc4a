"""Fitted steps: what least squares finds on closed forms, how they are kept, and which configurations are refused."""

import copy
import re

import pytest
import torch
from torch.testing import assert_close

from scoresde_pipelines import GaussianMixtureScoreModel, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler, fit_steps
from scoresde_pipelines.schedulers import ExponentialMultistep, sampling_loop
from scoresde_pipelines.schedulers.learned_steps import multistep_weights


SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(sigma_max=50.0, corrector=None, **kw),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, **kw),
    "subvp": SubVPSDEScheduler,
}
VARIANCES = torch.tensor([1e-3, 0.02, 0.1, 0.25, 1.0, 4.0])


def gaussian(scheduler, variances):
    """The score of N(0, diag(variances)), and what the exact flow makes of unit noise."""
    data = GaussianMixtureScoreModel(torch.ones(1), torch.zeros(1, len(variances)), variances=variances[None])
    end = torch.tensor(scheduler.sde.T)
    spread = (scheduler.sde.alpha(end) ** 2 * variances + scheduler.sde.sigma(end) ** 2).sqrt()
    factor = scheduler.sde.prior_std * variances.sqrt() / spread
    return (lambda x, t: data.score(scheduler.sde, x, t)), lambda noise: factor * noise


def noise(seed, size=64):
    return torch.randn(size, len(VARIANCES), generator=torch.Generator().manual_seed(seed))


def sampled(scheduler, score_fn, start, calls):
    scheduler.set_timesteps(calls)
    return sampling_loop(scheduler, score_fn, start * scheduler.init_noise_sigma)


def with_predictor(scheduler, predictor):
    return type(scheduler).from_config(scheduler.config, predictor=predictor)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_one_variance_is_solved_exactly_with_the_first_weights(name):
    # Every call is a multiple of the state: least squares finds the exact flow, whatever the levels.
    scheduler = SCHEDULERS[name]()
    score_fn, exact = gaussian(scheduler, torch.full((6,), 0.25))
    fitted = fit_steps(score_fn, scheduler, noise(0), 4, trials=0)
    assert_close(sampled(fitted, score_fn, noise(1), 4), exact(noise(1)), rtol=0, atol=2e-3)
    unfitted = sampled(with_predictor(fitted, "exponential_multistep"), score_fn, noise(1), 4)
    assert (unfitted - exact(noise(1))).abs().max() > 0.02


@pytest.mark.parametrize("calls", [4, 6])
@pytest.mark.parametrize("name", ["ve", "vp"])
def test_fitted_steps_are_nearer_to_the_exact_flow_of_other_starts(name, calls):
    scheduler = SCHEDULERS[name]()
    score_fn, exact = gaussian(scheduler, VARIANCES)
    fitted = fit_steps(score_fn, scheduler, noise(0), calls)
    before, after = (
        (sampled(with_predictor(fitted, predictor), score_fn, noise(1), calls) - exact(noise(1))).square().mean()
        for predictor in ("exponential_multistep", "learned_steps")
    )
    assert after < 0.25 * before


@pytest.mark.parametrize("name", SCHEDULERS)
def test_weights_of_the_multistep_solver_give_its_images(name):
    solver = SCHEDULERS[name](predictor="exponential_multistep")
    score_fn, _ = gaussian(solver, VARIANCES)
    solver.set_timesteps(7)
    entry = {
        "noise_ratios": solver.sde.noise_ratio(solver.levels).tolist(),
        "weights": multistep_weights(solver.sde, solver.levels, solver.data_std),
    }
    learned = SCHEDULERS[name](predictor="learned_steps", learned_steps={"7": entry})
    start = noise(2).double()
    assert_close(sampled(learned, score_fn, start, 7), sampled(solver, score_fn, start, 7), rtol=1e-4, atol=1e-5)


def test_other_numbers_of_calls_are_those_of_the_multistep_solver(fitted):
    scheduler, score_fn = fitted
    for predictor in ("exponential_multistep", "learned_steps"):
        other = with_predictor(scheduler, predictor)
        image = sampled(other, score_fn, noise(3), 5)
        if predictor == "exponential_multistep":
            expected = image
    assert torch.equal(image, expected)


def test_steps_survive_saving_copies_and_other_fits(fitted, tmp_path):
    scheduler, score_fn = fitted
    expected = sampled(scheduler, score_fn, noise(3), 4)
    scheduler.save_pretrained(tmp_path)
    both = fit_steps(score_fn, scheduler, noise(0), 3, trials=0)
    assert set(both.config.learned_steps) == {"3", "4"}
    for other in (VPSDEScheduler.from_pretrained(tmp_path), copy.deepcopy(scheduler), copy.copy(scheduler), both):
        assert other.config.predictor == "learned_steps"
        assert torch.equal(sampled(other, score_fn, noise(3), 4), expected)


def test_a_run_from_the_middle_goes_on_with_the_multistep_solver(fitted):
    scheduler, score_fn = fitted
    scheduler = copy.copy(scheduler)
    scheduler.set_timesteps(4)
    levels, start = scheduler.levels, noise(3)
    scheduler.set_begin_index(2)
    solver = ExponentialMultistep(data_std=scheduler.data_std)
    solver.prepare(scheduler.sde, levels)
    x, _ = solver(scheduler.sde, start, score_fn(start, levels[2]), levels[2], levels[3])
    expected = solver.denoise(scheduler.sde, x, score_fn(x, levels[3]), levels[3])
    assert_close(sampling_loop(scheduler, score_fn, start), expected, rtol=1e-5, atol=1e-6)


def test_steps_of_another_sde_are_refused(fitted):
    other = SCHEDULERS["ve"](predictor="learned_steps", learned_steps=fitted[0].config.learned_steps)
    with pytest.raises(
        ValueError, match=re.escape("learned_steps['4'] must begin at the noise ratio of this SDE, 50")
    ):
        other.set_timesteps(4)


GOOD = {"noise_ratios": [150.0, 1.0], "weights": [[-149.0], [0.0, -1.0]]}


@pytest.mark.parametrize(
    "steps, error, message",
    [
        ([GOOD], TypeError, "learned_steps must be None or a dictionary"),
        ({"1": GOOD}, ValueError, "learned_steps must have numbers of calls as keys"),
        ({2: GOOD}, ValueError, "learned_steps must have numbers of calls as keys"),
        ({"2": {}}, ValueError, "learned_steps['2'] must be a dictionary with ['noise_ratios', 'weights']"),
        ({"3": GOOD}, ValueError, "learned_steps['3']['noise_ratios'] must have 3 numbers, got 2"),
        (
            {"2": {**GOOD, "noise_ratios": [1.0, 150.0]}},
            ValueError,
            "learned_steps['2']['noise_ratios'] must decrease",
        ),
        ({"2": {**GOOD, "noise_ratios": [1.0, 0.0]}}, ValueError, "learned_steps['2']['noise_ratios'][1] must"),
        ({"2": {**GOOD, "weights": [[1.0]]}}, ValueError, "learned_steps['2']['weights'] must be a list of 2 rows"),
        (
            {"2": {**GOOD, "weights": [[1.0], [1.0]]}},
            ValueError,
            "learned_steps['2']['weights'][1] must have 2 numbers",
        ),
        (
            {"2": {**GOOD, "weights": [[float("nan")], [1.0, 2.0]]}},
            ValueError,
            "learned_steps['2']['weights'][0][0] must",
        ),
    ],
)
def test_damaged_steps_are_refused_by_name(steps, error, message):
    with pytest.raises(error, match=re.escape(message)):
        VPSDEScheduler(predictor="learned_steps", learned_steps=steps)


def test_bad_arguments_of_fit_steps_are_refused_by_name(fitted):
    scheduler, score_fn = fitted
    for arguments, message in [
        ((3, scheduler, noise(0)), "score_fn must"),
        ((score_fn, 3, noise(0)), "scheduler must"),
        ((score_fn, scheduler, 3), "noise must"),
        ((score_fn, scheduler, noise(0), 1), "num_inference_steps must"),
        ((score_fn, scheduler, noise(0), 4, -1), "trials must"),
        ((score_fn, scheduler, noise(0), 4, 10**12), "trials must"),
        ((lambda x, t: x * float("nan"), scheduler, noise(0)), "score_fn must lead to finite images"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            fit_steps(*arguments)


@pytest.fixture(scope="module")
def fitted():
    """A scheduler with steps for 4 calls, and its score."""
    scheduler = SCHEDULERS["vp"]()
    score_fn, _ = gaussian(scheduler, VARIANCES)
    return fit_steps(score_fn, scheduler, noise(0), 4, trials=1), score_fn
