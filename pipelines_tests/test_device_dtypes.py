"""Apple GPUs have no float64: off the CPU no float64 tensor is made, except for 0-dim ones; shown on the meta device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scoresde_pipelines import SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.schedulers.dequantization import DEQUANTIZATIONS
from scoresde_pipelines.schedulers.probability_flow import UnitScaleFlow
from scoresde_pipelines.schedulers.runge_kutta import DORMAND_PRINCE, Step, take_step
from scoresde_pipelines.schedulers.sde import finest_dtype
from scoresde_pipelines.training import losses
from scoresde_pipelines.training.objectives import MinSNR, likelihood, score_matching


SCHEDULERS = {
    "table": VPSDEScheduler,
    "vp": lambda: VPSDEScheduler(continuous=True),
    "subvp": SubVPSDEScheduler,
    "ve": VESDEScheduler,
    "ve table": lambda: VESDEScheduler(trained_betas=[0.1, 0.2, 0.3]),
    "edm": lambda: VPSDEScheduler(continuous=True, prediction_type="edm"),
}
SHAPE = (2, 3, 4, 4)


class NoFloat64(TorchDispatchMode):
    """Raises where an operation makes a float64 tensor with a dimension on a device that is not the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.device.type != "cpu" and value.ndim:
                assert value.dtype != torch.float64, f"{func} makes a float64 tensor {tuple(value.shape)}"
        return result


@pytest.fixture
def x():
    return torch.empty(SHAPE, device="meta")


@pytest.fixture(params=SCHEDULERS)
def scheduler(request):
    return SCHEDULERS[request.param]()


def network(x, t, **_):
    return x * t.reshape(-1, *(1,) * (x.ndim - 1)).to(x)


def test_the_mode_finds_float64():
    with pytest.raises(AssertionError, match="float64"), NoFloat64():
        torch.empty(2, device="meta").double()


def test_noise_is_added(scheduler, x):
    timesteps = scheduler.timesteps[[0, -1]]
    with NoFloat64():
        assert (
            scheduler.add_noise(x, x, timesteps).device == scheduler.get_velocity(x, x, timesteps).device == x.device
        )


def test_a_network_is_called_with_times_of_each_sample(scheduler, x):
    with NoFloat64():
        for t in (torch.tensor([0.5, 1.0], dtype=torch.float64), torch.ones(2, device="meta"), 0.5):
            assert scheduler.score_fn(network)(x, t).dtype == torch.float32


def test_a_sampling_step(scheduler, x):
    scheduler.set_timesteps(3)
    with NoFloat64():
        for timestep in scheduler.timesteps:
            x = scheduler.step(x, timestep, x).prev_sample
    assert x.dtype == torch.float32


@pytest.mark.parametrize("weighting", [score_matching, likelihood, MinSNR()])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_losses(scheduler, x, weighting, device):
    t = torch.full((2,), 0.5, device=device)
    with NoFloat64():
        loss = losses.denoising_loss(network, scheduler.parameterization, scheduler.sde, x, t, x, weighting=weighting)
    assert loss.shape == (2,) and loss.dtype == torch.float32


def test_a_step_of_the_ode_solver(scheduler, x):
    flow, rows = UnitScaleFlow(scheduler.score_fn(network), scheduler.sde, torch.float32), torch.arange(2)
    u, width = torch.full((2,), 1.0, dtype=torch.float64), torch.full((2,), 0.1, dtype=torch.float64)
    with NoFloat64():
        slope = flow(x, u, rows)
        step, landing = take_step(flow, Step(rows, u, width, x, [slope], DORMAND_PRINCE))
        assert landing.dtype == step.error.dtype == step.at(torch.tensor([0.5, 0.1])).dtype == torch.float32


def test_states_of_the_ode_are_double_where_that_exists():
    assert finest_dtype(torch.device("mps")) == torch.float32
    assert finest_dtype(torch.device("cpu")) == finest_dtype(torch.device("cuda")) == torch.float64


@pytest.mark.parametrize("name", DEQUANTIZATIONS)
def test_errors_of_dequantization_compare_scores_on_the_cpu(name):
    # The score comes from the device in float32; the comparison is in float64.
    centres = torch.zeros(SHAPE, dtype=torch.float64)
    noisy = DEQUANTIZATIONS[name](VESDEScheduler().sde, centres, 0.1, 1e-5, [torch.Generator()] * 2)
    assert noisy.single_draw_error(torch.zeros(SHAPE)).dtype == torch.float64


def test_weights_in_double_precision_and_those_of_the_device_agree(scheduler):
    x0, noise, t = torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([0.3, 0.9])

    def loss(t):
        return losses.denoising_loss(network, scheduler.parameterization, scheduler.sde, x0, t, noise)

    torch.testing.assert_close(loss(t), loss(t.double()), rtol=1e-6, atol=0)
    slope = losses.score_slope(scheduler.parameterization, scheduler.sde, t)
    exact = losses.score_slope(scheduler.parameterization, scheduler.sde, t.double())
    assert slope.dtype == torch.float32
    torch.testing.assert_close(slope.double(), exact, rtol=1e-4, atol=0)
