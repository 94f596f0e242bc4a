"""Which step an entry of `timesteps` is: lists that begin within a level, foreign times, scores instead of outputs."""

import math
from itertools import pairwise

import pytest
import torch

from scoresde_pipelines import (
    SDE,
    VESDE,
    VPSDE,
    DiscreteVPSDE,
    GaussianScoreModel,
    SubVPSDE,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)
from scoresde_pipelines.schedulers import sampling_loop
from scoresde_pipelines.schedulers.correctors import CORRECTORS
from scoresde_pipelines.schedulers.predictors import PREDICTORS, exponential
from scoresde_pipelines.schedulers.sampling_plan import COEFFICIENTS, SamplingPlan
from scoresde_pipelines.schedulers.time_grids import TimeGrid


class CosineSDE(SDE):
    def alpha(self, t):
        return torch.cos(0.5 * math.pi * 0.999 * t)

    def sigma(self, t):
        return torch.sin(0.5 * math.pi * 0.999 * t)


TIMES = torch.linspace(1, 1e-3, 7, dtype=torch.float64)
SDES = [VESDE(), VPSDE(), SubVPSDE(), DiscreteVPSDE(torch.linspace(1e-4, 0.02, 1000)), CosineSDE()]
SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(sigma_max=50.0, **kw),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, **kw),
    "table": VPSDEScheduler,
    "subvp": SubVPSDEScheduler,
}


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_table_holds_what_the_sde_computes(sde):
    table = SamplingPlan(sde, TimeGrid.through(TIMES), 0, exponential).sde
    for name in COEFFICIENTS:
        for t in TIMES:
            torch.testing.assert_close(getattr(table, name)(t), getattr(sde, name)(t), rtol=1e-12, atol=1e-12)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)
    for t, s in pairwise(TIMES):
        for ours, theirs in zip(table.transition(t, s), sde.transition(t, s)):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(table.denoise(x, -x, t), sde.denoise(x, -x, t), rtol=1e-12, atol=1e-12)
    other = torch.tensor(0.123, dtype=torch.float64)
    assert torch.equal(table.sigma(other), sde.sigma(other)), "a time outside the table is computed"


def test_a_run_evaluates_the_schedule_at_its_first_step_alone(monkeypatch):
    calls = []
    original = VPSDE.log_alpha
    monkeypatch.setattr(VPSDE, "log_alpha", lambda self, t: (calls.append(t.shape), original(self, t))[1])
    scheduler = VPSDEScheduler(continuous=True, corrector="annealed_langevin")
    scheduler.set_timesteps(50)
    x = torch.ones(1, 4)
    for i, t in enumerate(scheduler.timesteps):
        if i == 1:
            calls.clear()
        x = scheduler.step(0.1 * x, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
    assert calls == []


@pytest.mark.parametrize("prologue", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_times_are_those_of_the_timesteps(name, prologue):
    scheduler = SCHEDULERS[name](corrector="langevin", correct_steps=2, prologue=prologue)
    scheduler.set_timesteps(4)
    levels = scheduler.levels.tolist()
    expected = [*([levels[0]] * prologue), *(level for level in levels for _ in range(3))]
    assert scheduler.times.tolist() == expected and scheduler.times.dtype == torch.float64
    told = scheduler.parameterization.network_time(scheduler.sde, scheduler.times)
    torch.testing.assert_close(scheduler.timesteps.double(), told, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------- a score instead of an output


@pytest.mark.parametrize("prediction_type", ["score", "epsilon", "sample", "v_prediction", "edm"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_our_loop_and_a_stock_loop_give_the_same_picture(name, prediction_type):
    scheduler = SCHEDULERS[name](corrector="langevin", snr=0.1, prediction_type=prediction_type)
    scheduler.set_timesteps(7)

    def network(x, time):
        return 0.9 * torch.tanh(x) + 0.1 * float(time) / (1 + float(time))

    start = torch.randn(2, 3, 4, 4) * scheduler.init_noise_sigma
    ours = sampling_loop(scheduler, scheduler.score_fn(network), start, torch.Generator().manual_seed(3))
    scheduler.set_timesteps(7)
    x, generator = start, torch.Generator().manual_seed(3)
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x, generator=generator).prev_sample
    assert torch.equal(ours, x)


@pytest.mark.parametrize("kind", ["timesteps", "times", "floats", "copies"])
def test_step_score_takes_the_network_s_and_the_sde_s_times(kind):
    scheduler = SCHEDULERS["ve"]()
    data = GaussianScoreModel(torch.zeros(3), 0.25)
    results = []
    for entries in (scheduler.timesteps, None):
        scheduler.set_timesteps(10)
        entries = {
            "timesteps": scheduler.timesteps,
            "times": scheduler.times,
            "floats": scheduler.times.tolist(),
            "copies": scheduler.times.clone(),
        }[kind if entries is None else "timesteps"]
        x, generator = torch.ones(2, 3) * 50, torch.Generator().manual_seed(0)
        for t, timestep in zip(scheduler.times, entries):
            x = scheduler.step_score(data.score(scheduler.sde, x, t), timestep, x, generator=generator)[0]
        results.append(x)
    assert torch.equal(*results)


def test_the_network_is_told_the_same_by_score_fn_and_timesteps():
    for name, n in (("table", 1000), ("table", 7), ("ve", 33), ("subvp", 12)):
        scheduler, told = SCHEDULERS[name](), []
        scheduler.set_timesteps(n)
        score_fn = scheduler.score_fn(lambda x, time, told=told: (told.append(time), x)[1])
        for t in scheduler.times:
            score_fn(torch.ones(1, 2), t)
        assert torch.equal(torch.stack(told).to(scheduler.timesteps.dtype), scheduler.timesteps)
        assert told[0].ndim == 0 and (n != 1000 or told[0].dtype == torch.int64)


def test_the_denoised_image_is_not_computed_where_nobody_reads_it(monkeypatch):
    scheduler, calls, original = SCHEDULERS["ve"](), [], SDE.denoise
    monkeypatch.setattr(SDE, "denoise", lambda *arguments: (calls.append(1), original(*arguments))[1])
    scheduler.set_timesteps(3)
    x, t = torch.ones(1, 4), scheduler.timesteps[0]
    plain = scheduler.step(x, t, x, generator=torch.Generator().manual_seed(0), return_dict=False)
    assert len(plain) == 1 and not calls
    scheduler.set_timesteps(3)
    whole = scheduler.step(x, t, x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole.prev_sample, plain[0]) and len(calls) == 1
    assert torch.equal(whole["pred_original_sample"], x + 2500 * x) and len(whole.to_tuple()) == 3


# ---------------------------------------------------------------------- where a loop begins


def image_to_image(scheduler, begin: int, kind: str = "slice", n: int = 20, v: float = 0.04) -> float:
    """Standard deviation of what a loop makes of noised N(0, v) data, from the entry `begin` on."""
    scheduler.set_timesteps(n)
    data = GaussianScoreModel(torch.zeros(1, 16, 16), v)
    generator = torch.Generator().manual_seed(0)
    timesteps = scheduler.timesteps[begin:]
    clean = math.sqrt(v) * torch.randn(16, 1, 16, 16, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    x = scheduler.add_noise(clean, noise, timesteps[:1].expand(16))
    network = data.network(scheduler)
    for timestep in {"slice": timesteps, "copy": timesteps.clone(), "numbers": timesteps.tolist()}[kind]:
        output = network(scheduler.scale_model_input(x, timestep), timestep).sample
        x = scheduler.step(output, timestep, x, generator=generator, return_dict=False)[0]
    assert scheduler.step_index == len(scheduler.timesteps)
    return float(x.std())


SECOND_ORDER = ("heun", "exponential_multistep", "exponential_adams_bashforth", "learned_steps", "restart")


@pytest.mark.parametrize("corrector", [None, *CORRECTORS])
@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("name", ["ve", "subvp"])
def test_a_slice_that_begins_within_a_level_ends_with_the_denoising(name, predictor, corrector):
    # Kandinsky's image-to-image pipelines slice `timesteps` without regard to `order`.
    spacing = None if predictor == "restart" else "log_snr"
    scheduler = SCHEDULERS[name](predictor=predictor, corrector=corrector, snr=0.05, timestep_spacing=spacing)
    level = 7 * scheduler.order
    whole = image_to_image(scheduler, level)
    if predictor in SECOND_ORDER:
        assert whole == pytest.approx(0.2, rel=0.1)
    for begin in range(level + 1, level + scheduler.order):
        assert image_to_image(scheduler, begin) == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize(("predictor", "corrector"), [("heun", None), ("exponential", "metropolis_langevin")])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_copy_of_a_slice_is_that_slice(name, predictor, corrector):
    scheduler = SCHEDULERS[name](predictor=predictor, corrector=corrector, snr=0.05)
    for begin in range(6 * scheduler.order, 7 * scheduler.order):
        assert image_to_image(scheduler, begin, "copy") == image_to_image(scheduler, begin)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_numbers_that_begin_within_a_level_are_refused(name):
    # They do not say which of the entries of a level they are; to begin with the first one would leave out a predictor step.
    scheduler = SCHEDULERS[name](corrector="langevin", correct_steps=2, snr=0.05, predictor="exponential")
    assert image_to_image(scheduler, 12, "numbers") == image_to_image(scheduler, 12)
    for begin in (13, 14):
        with pytest.raises(
            ValueError, match=r"timestep must be entry 1. of .*, the next step of its level, got entry 15"
        ):
            image_to_image(scheduler, begin, "numbers")


def test_every_step_is_held_against_the_plan():
    scheduler = SCHEDULERS["ve"]()
    scheduler.set_timesteps(5)
    x = torch.ones(1, 4)
    scheduler.step(x, scheduler.timesteps[4], x)
    with pytest.raises(ValueError, match=r"timestep must be one of scheduler\.timesteps or scheduler\.times, got 17"):
        scheduler.step(x, 17.0, x)
    with pytest.raises(
        ValueError, match=r"timestep must be entry 5 of scheduler\.timesteps or a later one, got entry 2"
    ):
        scheduler.step(x, scheduler.timesteps[2], x)
    assert scheduler.step_index == 5
    scheduler.step_score(x, float(scheduler.times[8]), x)
    assert scheduler.step_index == 9


@pytest.mark.parametrize("prologue", [False, True])
def test_scale_model_input_is_that_of_the_coming_step_however_often_it_is_asked(prologue):
    scheduler = SCHEDULERS["ve"](prediction_type="edm", sigma_data=0.3, data_mean=0.1, prologue=prologue)
    scheduler.set_timesteps(4)
    x = torch.full((1, 2), 0.7)
    for i, timestep in enumerate(scheduler.timesteps):
        level = (i - prologue) // 2
        expected = 0.6 / math.hypot(0.3, float(scheduler.sde.sigma(scheduler.levels[level]))) if i >= prologue else 0.7
        for _ in range(2):
            assert scheduler.scale_model_input(x, timestep).tolist()[0] == pytest.approx([expected] * 2)
        scheduler.step(torch.zeros_like(x), timestep, x)
