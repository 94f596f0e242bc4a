"""The Adams-Bashforth predictors on Gaussian data, where the probability-flow ODE is solved in closed form."""

import math
from itertools import pairwise

import pytest
import torch

from scoresde_pipelines import SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.schedulers import PREDICTORS, ExponentialAdamsBashforth


SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(sigma_max=50.0, corrector=None, timestep_spacing="log_snr", **kw),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, timestep_spacing="log_snr", prediction_type="score", **kw),
    "subvp": lambda **kw: SubVPSDEScheduler(timestep_spacing="log_snr", prediction_type="score", **kw),
}
DOUBLE = torch.float64


def exact_score(sde, x, t, m, v):
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return -(x - alpha * m) / (alpha**2 * v + sigma**2)


def sampled(scheduler, n, m, v):
    """Mean and standard deviation after sampling from the exact marginal: the result is affine in its start."""
    scheduler.set_timesteps(n)
    sde, start = scheduler.sde, scheduler.levels[0]
    alpha, sigma = float(sde.alpha(start)), float(sde.sigma(start))
    std = math.sqrt(alpha**2 * v + sigma**2)
    x = torch.tensor([[alpha * m], [alpha * m + std]], dtype=DOUBLE)
    for t in scheduler.times:
        x = scheduler.step_score(exact_score(sde, x, t, m, v), t, x).prev_sample
    return float(x[0]), float(x[1] - x[0])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_declared_order_is_the_measured_one(name, order):
    # From r = sigma / alpha = 20 to .5, in the middle of things: started with exact values of the ODE
    # y' = r y / (v + r^2), whose solution is sqrt(v + r^2).
    sde, v = SCHEDULERS[name]().sde, 0.3
    errors = []
    for n in (128, 256):
        levels = sde.t_from_log_snr(-2 * torch.linspace(math.log(20), math.log(0.5), n + 1, dtype=DOUBLE))
        predictor = ExponentialAdamsBashforth(order)
        for i, (t, s) in enumerate(pairwise(levels)):
            if i < order:
                x = torch.sqrt(sde.alpha(t) ** 2 * v + sde.sigma(t) ** 2).reshape(1, 1)
            x, std = predictor(sde, x, exact_score(sde, x, t, 0.0, v), t, s)
            assert float(std) == 0.0
        truth = math.sqrt(float(sde.alpha(s)) ** 2 * v + float(sde.sigma(s)) ** 2)
        errors.append(abs(float(x) - truth))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_one_step_of_order_one_is_the_exponential_predictor():
    sde, (t, s) = VPSDEScheduler(continuous=True).sde, torch.tensor([0.6, 0.4], dtype=DOUBLE)
    x, score = torch.randn(2, 3, 5, dtype=DOUBLE)
    torch.testing.assert_close(
        ExponentialAdamsBashforth(1)(sde, x, score, t, s)[0], PREDICTORS["exponential"](sde, x, score, t, s)[0]
    )


@pytest.mark.parametrize("n, tolerance", [(16, 0.006), (24, 0.003)])
@pytest.mark.parametrize("v", [0.01, 0.1, 1.0, 2.0])
@pytest.mark.parametrize("name", ["ve", "vp"])
def test_few_steps_give_the_variance_of_gaussian_data(name, v, n, tolerance):
    mean, std = sampled(SCHEDULERS[name](predictor="exponential_adams_bashforth"), n, 0.7, v)
    assert mean == pytest.approx(0.7, abs=0.003 * math.sqrt(v))
    assert std**2 / v == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_data_at_one_point_is_reached_by_any_number_of_steps(name, n):
    mean, std = sampled(SCHEDULERS[name](predictor="exponential_adams_bashforth"), n, 0.7, 0.0)
    assert mean == pytest.approx(0.7, abs=1e-6)
    assert std == pytest.approx(0.0, abs=1e-6)


def test_a_run_remembers_nothing_of_the_last_one_and_schedulers_do_not_share_memory():
    first, second = (SCHEDULERS["vp"](predictor="exponential_adams_bashforth") for _ in range(2))
    alone = sampled(first, 8, 0.3, 0.5)
    second.set_timesteps(8)
    second.step(torch.ones(1, 1), second.timesteps[0], torch.ones(1, 1))
    assert sampled(first, 8, 0.3, 0.5) == alone


def test_orders_out_of_range_are_named():
    with pytest.raises(ValueError, match="order must be an integer from 1 to 6, got 0"):
        ExponentialAdamsBashforth(0)
