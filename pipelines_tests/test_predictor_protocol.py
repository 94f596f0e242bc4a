"""The protocol of predictors: several evaluations per level, names and functions, memory that is never shared."""

import copy
import math
import pickle
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps

from scoresde_pipelines import GaussianScoreModel, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.schedulers import PREDICTORS, ExponentialMultistep, Heun, ancestral, langevin, sampling_loop


DOUBLE = torch.float64
SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(sigma_max=50.0, **kw),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, **kw),
    "subvp": lambda **kw: SubVPSDEScheduler(**kw),
}


def halfway(sde, x, score, t, s):
    """A function of one's own."""
    return x, torch.zeros_like(t)


class Midpoint:
    """Two evaluations, the second half-way: dx/dt at t and at (t + s) / 2 (a predictor as a user may write it)."""

    def start(self):
        self.origin = None

    def times(self, sde, t, s):
        return [t, (t + s) / 2]

    def __call__(self, sde, x, score, t, s, evaluation=0):
        if evaluation == 0:
            self.origin = x
            slope, width = sde.drift(x, t) - 0.5 * sde.diffusion(t) ** 2 * score, (s - t) / 2
            return x + slope * width, torch.zeros_like(t)
        middle = (t + s) / 2
        slope = sde.drift(x, middle) - 0.5 * sde.diffusion(middle) ** 2 * score
        return self.origin + slope * (s - t), torch.zeros_like(t)


# ---------------------------------------------------------------------- several evaluations per level


@pytest.mark.parametrize("predictor", [Heun, Midpoint])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_two_evaluations_make_second_order_in_the_scheduler_s_loop(name, predictor):
    # From r = sigma / alpha = 20 to .5 for N(0, v): the ODE's solution is sqrt(alpha^2 v + sigma^2).
    v, errors = 0.3, []
    scheduler = SCHEDULERS[name](corrector=None)
    scheduler.predictor, sde = predictor(), scheduler.sde
    for n in (64, 128):
        levels = sde.t_from_log_snr(-2 * torch.linspace(math.log(20), math.log(0.5), n + 1, dtype=DOUBLE))
        scheduler.set_timesteps(timesteps=scheduler.parameterization.network_time(sde, levels))
        marginal = torch.sqrt(sde.alpha(scheduler.levels) ** 2 * v + sde.sigma(scheduler.levels) ** 2)
        x = marginal[:1].reshape(1, 1)
        for t in scheduler.times[:-1]:  # the last one denoises
            score = -x / (sde.alpha(t) ** 2 * v + sde.sigma(t) ** 2)
            x = scheduler.step_score(score, t, x, return_dict=False)[0]
        errors.append(abs(float(x) - float(marginal[-1])))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("corrector", [None, "langevin"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_stock_loop_runs_heun_by_order(name, corrector):
    scheduler = SCHEDULERS[name](predictor="heun", corrector=corrector, snr=0.02, timestep_spacing="log_snr")
    data = GaussianScoreModel(torch.full((1, 16, 16), 0.3), 0.04)
    network, calls = data.network(scheduler), []
    timesteps, n = retrieve_timesteps(scheduler, 30, device="cpu")
    per_level = 2 + (corrector is not None)
    assert scheduler.order == per_level and len(timesteps) == n * per_level - 1
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 1, 16, 16, generator=generator) * scheduler.init_noise_sigma
    for i, timestep in enumerate(timesteps):
        calls.append(float(scheduler.times[i]))
        x = scheduler.step(network(x, timestep).sample, timestep, x, generator=generator).prev_sample
    levels = scheduler.levels.tolist()
    assert calls == [t for a, b in pairwise(levels) for t in [a] * (per_level - 1) + [b]] + levels[-1:] * (
        per_level - 1
    )
    assert float(x.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(x.std()) == pytest.approx(0.2, rel=0.05)


def test_heun_goes_on_where_a_slice_begins_between_its_evaluations():
    results = []
    for begin in (9, 10):
        scheduler = SCHEDULERS["vp"](predictor="heun")
        data = GaussianScoreModel(torch.zeros(3), 0.04)
        network = data.network(scheduler)
        scheduler.set_timesteps(12)
        assert scheduler.times[9] == scheduler.times[10]
        x = torch.full((1, 3), 0.7)
        for timestep in scheduler.timesteps[begin:]:
            x = scheduler.step(network(x, timestep).sample, timestep, x).prev_sample
        assert scheduler.step_index == len(scheduler.timesteps)
        results.append(x)
    assert torch.equal(*results)


# ---------------------------------------------------------------------- names and functions


def test_predictors_and_correctors_are_set_by_name_or_refused_by_name():
    scheduler = VPSDEScheduler()
    scheduler.set_timesteps(7)
    scheduler.predictor, scheduler.corrector = "heun", "langevin"
    assert isinstance(scheduler.predictor, Heun) and scheduler.corrector is langevin
    assert (scheduler.config.predictor, scheduler.config.corrector) == ("heun", "langevin")
    assert scheduler.order == 3 and len(scheduler.timesteps) == 20
    scheduler.predictor = "ancestral"
    assert scheduler.predictor is ancestral and len(scheduler.timesteps) == 14
    with pytest.raises(ValueError, match=r"predictor must be one of .*got 'euler'"):
        scheduler.predictor = "euler"
    with pytest.raises(ValueError, match=r"corrector must be None or one of .*got 'hmc'"):
        scheduler.corrector = "hmc"
    with pytest.raises(TypeError, match="predictor must be None, a name or a function, got int"):
        scheduler.predictor = 3
    assert scheduler.predictor is ancestral


def test_a_name_that_was_set_is_saved(tmp_path):
    scheduler = VPSDEScheduler(variance_type="fixed_large")
    scheduler.predictor = "exponential"
    scheduler.save_pretrained(tmp_path)
    for loaded in (VPSDEScheduler.from_pretrained(tmp_path), VPSDEScheduler.from_config(scheduler.config)):
        assert loaded.predictor is PREDICTORS["exponential"]
    scheduler.predictor = "ancestral"
    assert scheduler.predictor is PREDICTORS["ancestral_large"]


@pytest.mark.parametrize(
    "copy_of",
    [
        copy.copy,
        copy.deepcopy,
        lambda scheduler: pickle.loads(pickle.dumps(scheduler)),
        lambda scheduler: type(scheduler).from_config(scheduler.config),
        lambda scheduler: VPSDEScheduler.from_config(DDIMScheduler.from_config(scheduler.config).config),
    ],
)
def test_a_function_stays_with_the_scheduler(copy_of):
    scheduler = VPSDEScheduler()
    scheduler.predictor, scheduler.corrector = halfway, langevin
    twin = copy_of(scheduler)
    assert twin.predictor is halfway and twin.corrector is langevin and twin.order == 2


def test_a_file_cannot_hold_a_function_and_saving_says_so(tmp_path):
    scheduler = VPSDEScheduler(predictor="exponential")
    scheduler.predictor = halfway
    with pytest.warns(UserWarning, match="predictor must be a name to be saved, got a function"):
        scheduler.save_pretrained(tmp_path)
    assert VPSDEScheduler.from_pretrained(tmp_path).config.predictor == "ancestral"
    assert "halfway" not in repr(scheduler)


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("copy_of", [copy.copy, lambda scheduler: type(scheduler).from_config(scheduler.config)])
@pytest.mark.parametrize("predictor", [lambda: ExponentialMultistep(3), Heun, Midpoint])
def test_copies_share_no_memory(predictor, copy_of):
    scheduler = SCHEDULERS["vp"]()
    scheduler.predictor = predictor()
    data = GaussianScoreModel(torch.zeros(3), 0.04)
    start = torch.ones(1, 3)

    def run(one, disturb=lambda i: None):
        one.set_timesteps(9)
        x = start
        for i, t in enumerate(one.times):
            x = one.step_score(data.score(one.sde, x, t), t, x, return_dict=False)[0]
            disturb(i)
        return x

    alone = run(scheduler)
    twin = copy_of(scheduler)
    twin.set_timesteps(5)

    def step_the_twin(i):
        if i < len(twin.times):
            twin.step_score(7.0 * start, twin.times[i], start)

    assert torch.equal(run(scheduler, step_the_twin), alone)
    assert scheduler.step_index == len(scheduler.times) and twin.step_index == len(twin.times)


def test_a_copy_in_the_middle_of_a_run_goes_on_alike():
    scheduler = SCHEDULERS["vp"](predictor="exponential_multistep")
    data, x = GaussianScoreModel(torch.zeros(3), 0.04), torch.ones(1, 3)
    scheduler.set_timesteps(8)
    whole = sampling_loop(scheduler, lambda x, t: data.score(scheduler.sde, x, t), x)
    scheduler.set_timesteps(8)
    for t in scheduler.times[:4]:
        x = scheduler.step_score(data.score(scheduler.sde, x, t), t, x, return_dict=False)[0]
    for one in (copy.copy(scheduler), scheduler):
        y = x
        for t in one.times[4:]:
            y = one.step_score(data.score(one.sde, y, t), t, y, return_dict=False)[0]
        assert torch.equal(y, whole)


def test_the_old_registry_warns():
    from scoresde_pipelines import schedulers

    with pytest.warns(FutureWarning, match="MULTISTEP_PREDICTORS is deprecated"):
        assert {"exponential_multistep": ExponentialMultistep} == schedulers.MULTISTEP_PREDICTORS
    with pytest.warns(FutureWarning, match="MULTISTEP_PREDICTORS is deprecated"):
        from scoresde_pipelines.schedulers.multistep import MULTISTEP_PREDICTORS
    assert {"exponential_multistep": ExponentialMultistep} == MULTISTEP_PREDICTORS
