"""Samplers under classifier-free guidance in closed form: large scales make the ODE stiff, and high orders unstable.

Along each of 32 directions the data are N(0, v) without the condition and N(0.3, w) with it, v from 0.001 to 3.2 and w from
0.01 v to v: the guided ODE is linear. `docs/samplers.md` has the figures.
"""

import pytest
import torch
from torch import Tensor

from scoresde_pipelines import VPSDEScheduler
from scoresde_pipelines.schedulers import ExponentialMultistep, Restart


STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
DOUBLE = torch.float64
WITHOUT = torch.logspace(-3, 0.5, 8, dtype=DOUBLE).repeat_interleave(4)
GIVEN = WITHOUT * torch.tensor([0.01, 0.1, 0.3, 1.0], dtype=DOUBLE).repeat(8)
STARTS = torch.tensor([[-1.5], [-0.5], [0.0], [1.0]], dtype=DOUBLE).expand(4, 32)


def sample(scheduler: VPSDEScheduler, scale: float, calls: int) -> Tensor:
    scheduler.set_timesteps(calls)
    x = STARTS
    for t in scheduler.times:
        alpha, sigma = scheduler.sde.alpha(t), scheduler.sde.sigma(t)
        without = -x / (alpha**2 * WITHOUT + sigma**2)
        given = -(x - alpha * 0.3) / (alpha**2 * GIVEN + sigma**2)
        x = scheduler.step_score(without + scale * (given - without), t, x).prev_sample
    return x


def scheduler(predictor: str = "exponential_multistep", **options) -> VPSDEScheduler:
    return VPSDEScheduler(predictor=predictor, **options, **STABLE_DIFFUSION)


def error(candidate: VPSDEScheduler, scale: float, calls: int) -> float:
    """The rms distance to the guided ODE's solution."""
    exact = sample(scheduler(multistep_order=2), scale, 1000)
    return float((sample(candidate, scale, calls) - exact).square().mean().sqrt())


def test_without_much_guidance_the_highest_order_is_as_good():
    assert error(scheduler(), 2.0, 20) < 0.006
    assert error(scheduler(), 4.0, 20) < 0.02


def test_at_scale_7_5_order_two_is_stable_with_twenty_calls():
    assert error(scheduler(), 7.5, 20) > 2  # diverges
    assert error(scheduler(multistep_order=2), 7.5, 20) < 0.15
    assert error(scheduler(multistep_order=2), 7.5, 30) < 0.02
    ddim = scheduler("exponential", timestep_spacing="log_snr")
    assert error(ddim, 7.5, 20) == pytest.approx(0.076, abs=0.01)
    assert error(ddim, 7.5, 30) > 0.05


@pytest.mark.parametrize("predictor", ["exponential_multistep", "exponential_adams_bashforth", "restart"])
def test_the_configuration_chooses_the_order(predictor, tmp_path):
    low = scheduler(predictor, multistep_order=2)
    low.save_pretrained(tmp_path)
    for one in (low, VPSDEScheduler.from_pretrained(tmp_path), VPSDEScheduler.from_config(low.config)):
        assert one.predictor.order == 2
    assert scheduler(predictor).predictor.order == (4 if "bashforth" in predictor else 5)
    low.predictor = "exponential_multistep"  # by its name: the configuration holds; an object is taken as it is
    assert low.predictor.order == 2
    low.predictor = ExponentialMultistep(3)
    assert low.predictor.order == 3


def test_the_order_is_that_of_the_solver_of_restarts():
    a, b = scheduler("restart", multistep_order=1), scheduler("restart")
    assert a.predictor.solver.order == 1 and b.predictor.solver.order == 5
    own = Restart()
    own.order = 3
    assert own.solver.order == 3


@pytest.mark.parametrize("order", [0, 6, 2.5, "2", True])
def test_what_is_no_order_is_refused(order):
    with pytest.raises(ValueError, match="multistep_order must be an integer from 1 to 5, got"):
        VPSDEScheduler(multistep_order=order)
