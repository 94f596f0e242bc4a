"""The recommended ODE solver: its accuracy on known data, its order, its stability, and its grid."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler
from known_truths import MIXTURE, NETWORK_ERROR, mixture, spectrum, stability

from scoresde_pipelines import GaussianScoreModel, ScoreSdePipeline, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.schedulers import PREDICTORS, ExponentialMultistep, multistep, sampling_loop


SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(sigma_max=50.0, corrector=None, **({"sigma_data": 0.50001} | kw)),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, **kw),
    "subvp": SubVPSDEScheduler,
    "table": VPSDEScheduler,
}
DOUBLE = torch.float64
CALLS = (10, 20, 35, 50)


def solver(name, **kw):
    return SCHEDULERS[name](predictor="exponential_multistep", **kw)


# ---------------------------------------------------------------------- accuracy


@pytest.mark.parametrize(
    "name, exponent, limits",
    [
        ("vp", 1.0, (2e-3, 4e-5, 3e-6, 2e-7)),
        ("vp", 1.25, (2e-3, 4e-5, 3.5e-6, 2e-7)),
        ("vp", 1.5, (3e-3, 4e-5, 3e-6, 4e-7)),
        ("vp", 2.0, (8e-3, 7e-5, 4e-6, 2.3e-6)),
        ("subvp", 1.5, (3e-3, 4e-5, 3e-6, 4e-7)),
        ("ve", 1.0, (2e-3, 3e-5, 5e-6, 2.5e-6)),
        ("ve", 1.25, (4e-3, 4e-5, 1.7e-5, 7e-6)),
        ("ve", 1.5, (5e-3, 5e-5, 3e-5, 1.5e-5)),
        ("ve", 2.0, (2e-2, 6e-3, 4e-3, 3.2e-3)),  # details below sigma_min = .01 bound it
    ],
)
def test_frechet_distance_on_spectra_of_images(name, exponent, limits):
    truth = spectrum(exponent)
    for calls, limit in zip(CALLS, limits):
        assert truth.measure(solver(name), calls) < limit, calls


@pytest.mark.parametrize(
    "name, limits",
    [("ve", (0.009, 2e-3, 2.5e-4, 8e-5))] + [(vp, (0.014, 3e-3, 5e-4, 1.3e-4)) for vp in ("vp", "subvp")],
)
def test_distance_to_the_quantile_map_of_a_mixture(name, limits):
    truth = mixture(*MIXTURE, quantiles=500)
    for calls, limit in zip(CALLS, limits):
        assert truth.measure(solver(name), calls) < limit, calls


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_data_at_one_point_is_reached_by_any_number_of_steps(name, n):
    scheduler = solver(name)
    scheduler.set_timesteps(n)
    x = torch.tensor([[0.3], [2.0]], dtype=DOUBLE) * scheduler.init_noise_sigma
    data = GaussianScoreModel(torch.tensor([0.7]), 0.0)
    for t in scheduler.times:
        x = scheduler.step_score(data.score(scheduler.sde, x, t), t, x).prev_sample
    assert x.flatten().tolist() == pytest.approx([0.7, 0.7], abs=1e-6)


# ---------------------------------------------------------------------- order


def errors(name, order, counts):
    # From r = sigma / alpha = 20 to .5, started with exact values of y' = r y / (v + r^2), whose solution is sqrt(v + r^2).
    sde, v, found, x = SCHEDULERS[name]().sde, 1.0, [], torch.zeros(1, 1)
    for n in counts:
        levels = sde.t_from_log_snr(-2 * torch.linspace(math.log(20), math.log(0.5), n + 1, dtype=DOUBLE))
        predictor = ExponentialMultistep(order)
        predictor.prepare(sde, levels)
        predictor.calls = 20.0  # theta stays that of 20 calls
        for i, (t, s) in enumerate(pairwise(levels)):
            marginal = sde.alpha(t) ** 2 * v + sde.sigma(t) ** 2
            x = marginal.sqrt().reshape(1, 1) if i < order else x
            x, std = predictor(sde, x, -x / marginal, t, s)
            assert float(std) == 0.0
        found.append(abs(float(x) - math.sqrt(float(sde.alpha(s)) ** 2 * v + float(sde.sigma(s)) ** 2)))
    return found


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_without_damping_the_order_is_the_number_of_values(name, order, monkeypatch):
    monkeypatch.setattr(multistep, "STEPS", (math.inf,) * 5)
    coarse, fine = errors(name, order, (128, 256))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_the_damping_of_the_differences_limits_the_order_to_two_and_a_half():
    coarse, fine = errors("vp", 5, (1000, 2000))
    assert math.log2(coarse / fine) == pytest.approx(2.5, abs=0.1)


def test_with_one_value_it_is_the_exponential_predictor_whatever_theta():
    sde, (t, s) = VPSDEScheduler(continuous=True).sde, torch.tensor([0.6, 0.4], dtype=DOUBLE)
    x, score = torch.randn(2, 3, 5, dtype=DOUBLE)
    expected = PREDICTORS["exponential"](sde, x, score, t, s)[0]
    for data_std in (0.01, 0.5, 10.0):
        torch.testing.assert_close(ExponentialMultistep(1, data_std)(sde, x, score, t, s)[0], expected)


@pytest.mark.parametrize("order, data_std", [(0, 0.5), (6, 0.5), (4, 0.0)])
def test_arguments_out_of_range_are_named(order, data_std):
    with pytest.raises(ValueError, match=r"order must be an integer from 1 to 5, got|data_std must be"):
        ExponentialMultistep(order, data_std)


# ---------------------------------------------------------------------- stability


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_errors_of_a_network_do_not_grow(name, calls):
    # At most twice what order two makes of them on the same grid, or the error of one call.
    ours = solver(name)
    low_order = solver(name)
    low_order.predictor = OrderTwoOnTheSameGrid()
    allowed = (2 * stability(low_order, calls)).clamp_min(NETWORK_ERROR)
    assert bool((stability(ours, calls) < allowed).all()), (stability(ours, calls), allowed)


def test_the_stability_test_tells_high_orders_apart():
    # Adams-Bashforth of order four in eps: errors in directions without variance grow.
    scheduler = solver("vp")
    scheduler.predictor = OrderTwoOnTheSameGrid(4)
    assert float(stability(scheduler, 10)[0]) > 10 * NETWORK_ERROR


class OrderTwoOnTheSameGrid(PREDICTORS["exponential_adams_bashforth"]):
    def __init__(self, order=2):
        super().__init__(order)

    def grid(self, sde, n, smallest_time):
        return ExponentialMultistep().grid(sde, n, smallest_time)


# ---------------------------------------------------------------------- in a scheduler


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 100, 1000])
def test_its_grid_runs_from_t_to_what_the_network_knows(name, n):
    scheduler = solver(name)
    scheduler.set_timesteps(n)
    ratios = scheduler.sde.noise_ratio(scheduler.levels)
    assert len(ratios) == n and bool((ratios.diff() < 0).all()) and float(scheduler.levels[0]) == 1.0
    known = 1 / 1000 if name == "table" else 1e-5
    assert scheduler.first_trained_time == known
    lowest = max(0.05 / n, float(scheduler.sde.noise_ratio(torch.tensor(known, dtype=DOUBLE))))
    if n > 1:
        assert float(ratios[-1]) == pytest.approx(lowest, rel=1e-3)


def test_the_first_step_is_shorter_than_the_others_and_these_are_equally_probable():
    scheduler = solver("vp")
    scheduler.set_timesteps(12)
    normal = torch.distributions.Normal(math.log(1.375 * 0.5), 4.57)
    gaps = -normal.cdf(torch.log(scheduler.sde.noise_ratio(scheduler.levels))).diff()
    torch.testing.assert_close(gaps[1:], gaps[1:2].expand(10), rtol=1e-6, atol=0)
    assert float(gaps[0] / gaps[1]) == pytest.approx(0.383, rel=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", "score", "edm"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_network_in_a_stock_loop_gives_gaussian_data(name, prediction_type):
    scheduler = solver(name, prediction_type=prediction_type, sigma_data=0.3)
    network = GaussianScoreModel(torch.full((4,), 0.2), 0.09).network(scheduler)
    scheduler.set_timesteps(20)
    sde, start = scheduler.sde, scheduler.levels[0]
    std = math.sqrt(float(sde.alpha(start)) ** 2 * 0.09 + float(sde.sigma(start)) ** 2)
    z = torch.tensor([[0.0, 1.0, -1.0, 2.0]])
    x = float(sde.alpha(start)) * 0.2 + std * z
    for timestep in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, timestep), timestep).sample, timestep, x).prev_sample
    # Single precision: a VE state of 50 is known to 4e-6.
    torch.testing.assert_close(x, 0.2 + 0.3 * z, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["vp", "subvp", "table"])
def test_half_precision_states_end_near_the_float32_ones(name):
    scheduler = solver(name)
    network = GaussianScoreModel(torch.full((4,), 0.2), 0.09).network(scheduler)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        scheduler.set_timesteps(10)
        x = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).to(dtype)
        for timestep in scheduler.timesteps:
            output = network(x.float(), timestep).sample.to(dtype)
            x = scheduler.step(output, timestep, x).prev_sample
        assert x.dtype == dtype
        results.append(x.float())
    torch.testing.assert_close(*results, rtol=0, atol=0.03)


def test_a_sample_does_not_depend_on_its_neighbours_nor_a_run_on_the_last():
    first, second = solver("vp"), solver("vp")
    data = GaussianScoreModel(torch.zeros(3), 0.25)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)

    def run(scheduler, start):
        scheduler.set_timesteps(8)
        return sampling_loop(scheduler, lambda x, t: data.score(scheduler.sde, x, t), start)

    together = run(first, x)
    second.set_timesteps(8)
    second.step(torch.ones(1, 1), second.timesteps[0], torch.ones(1, 1))
    torch.testing.assert_close(run(first, x[2:3]), together[2:3], rtol=0, atol=0)
    assert torch.equal(run(second, x), together)


# ---------------------------------------------------------------------- the choice of the grid


def last_ratio(scheduler, n=20):
    scheduler.set_timesteps(n)
    return float(scheduler.sde.noise_ratio(scheduler.levels[-1]))


OWN, UNIFORM = pytest.approx(0.0025, rel=1e-3), pytest.approx(0.0105, rel=0.02)


def test_the_grid_comes_with_the_predictor_unless_another_is_named(tmp_path):
    assert last_ratio(VPSDEScheduler(continuous=True)) == UNIFORM
    assert last_ratio(solver("vp")) == OWN
    assert last_ratio(solver("vp", timestep_spacing="linspace")) == UNIFORM

    scheduler = VPSDEScheduler(continuous=True)
    scheduler.set_timesteps(20)
    scheduler.predictor = "exponential_multistep"
    assert float(scheduler.sde.noise_ratio(scheduler.levels[-1])) == OWN and len(scheduler.levels) == 20
    scheduler.predictor = "ancestral"
    assert float(scheduler.sde.noise_ratio(scheduler.levels[-1])) == UNIFORM
    scheduler.set_timesteps(timesteps=[900.0, 500.0, 100.0])
    scheduler.predictor = "exponential_multistep"
    assert len(scheduler.levels) == 3, "levels that were given stay"

    solver("vp").save_pretrained(tmp_path)
    loaded = VPSDEScheduler.from_pretrained(tmp_path)
    assert loaded.config.timestep_spacing is None and last_ratio(loaded) == OWN
    solver("vp", timestep_spacing="linspace").save_pretrained(tmp_path)
    assert last_ratio(VPSDEScheduler.from_pretrained(tmp_path)) == UNIFORM


def test_another_predictor_replaces_the_grid_of_a_configuration():
    ancestral = VPSDEScheduler(continuous=True, timestep_spacing="karras")
    other = VPSDEScheduler.from_config(ancestral.config, predictor="exponential_multistep")
    assert other.config.timestep_spacing is None and last_ratio(other) == OWN
    named = VPSDEScheduler.from_config(
        ancestral.config, predictor="exponential_multistep", timestep_spacing="linspace"
    )
    assert last_ratio(named) == UNIFORM
    assert VPSDEScheduler.from_config(ancestral.config, predictor="heun").config.timestep_spacing == "karras"
    stock = DDPMScheduler(timestep_spacing="trailing")
    ours = VPSDEScheduler.from_config(stock.config, predictor="exponential_multistep")
    assert ours.config.timestep_spacing is None


def test_files_of_version_0_1_keep_their_solver(tmp_path):
    import json

    scheduler = VPSDEScheduler(continuous=True, predictor="exponential_adams_bashforth", timestep_spacing="log_snr")
    scheduler.save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    config = json.loads(file.read_text()) | {"predictor": "exponential_multistep", "corrector": None}
    del config["_format"]
    file.write_text(json.dumps(config))
    old = VPSDEScheduler.from_pretrained(tmp_path)
    assert type(old.predictor) is PREDICTORS["exponential_adams_bashforth"]
    assert old.config.timestep_spacing == "log_snr"


def test_the_data_s_standard_deviation_comes_from_the_configuration():
    assert VPSDEScheduler().data_std == 0.5 and VESDEScheduler().data_std == 0.25
    assert VESDEScheduler(sigma_data=0.35, prediction_type="edm").data_std == 0.35
    assert VESDEScheduler(prediction_type="edm").data_std == 0.5
    assert solver("subvp", sigma_data=0.65).predictor.data_std == 0.65
    scheduler = VPSDEScheduler()
    scheduler.predictor = ExponentialMultistep(3, data_std=0.1)
    assert scheduler.predictor.data_std == 0.1
    # A pipeline takes its own range in place of that of the official models.
    network = GaussianScoreModel(torch.zeros(1, 2, 2), 0.1).network(scheduler)
    assert ScoreSdePipeline(network, scheduler).data_std == 0.5
    assert ScoreSdePipeline(network, scheduler, data_min=0.0, data_max=6.0).data_std == 1.5
    given = VPSDEScheduler(sigma_data=0.35)
    assert ScoreSdePipeline(network, given, data_min=0.0, data_max=6.0).data_std == given.data_std == 0.35
