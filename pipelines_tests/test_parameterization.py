"""Network outputs, scores, targets and times: all against x = alpha x_0 + sigma z."""

import pytest
import torch

from scoresde_pipelines.schedulers import (
    VESDE,
    VPSDE,
    DiscreteVPSDE,
    Parameterization,
    SubVPSDE,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)


SDES = {
    "ve": VESDE(0.01, 50.0),
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "discrete": DiscreteVPSDE(torch.linspace(1e-4, 0.02, 1000)),
}
PREDICTION_TYPES = ["score", "epsilon", "sample", "v_prediction"]


@pytest.mark.parametrize("scalar_time", [True, False])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("name", SDES)
def test_a_network_that_hits_its_target_has_the_score_of_its_noise(name, prediction_type, scalar_time):
    sde, parameterization = SDES[name], Parameterization(prediction_type)
    t = torch.tensor([0.002, 0.3, 0.99], dtype=torch.float64)
    t = t[1] if scalar_time else t
    x0, noise = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    alpha, sigma = (value.reshape(-1, 1, 1) for value in (sde.alpha(t), sde.sigma(t)))
    x = alpha * x0 + sigma * noise
    by_hand = {"score": -noise / sigma, "epsilon": noise, "sample": x0, "v_prediction": alpha * noise - sigma * x0}
    target = parameterization.target(sde, x0, noise, t)
    torch.testing.assert_close(target, by_hand[prediction_type], rtol=1e-12, atol=1e-12)
    score = parameterization.score(sde, target, x, t)
    torch.testing.assert_close(score, -noise / sigma, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(parameterization.output(sde, score, x, t), target, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_network_times_and_their_inverse(dtype, tolerance):
    t = torch.tensor([0.001, 0.25, 1.0], dtype=dtype)
    cases = {
        ("ve", "sigma"): 0.01 * 5000 ** t.double(),
        ("vp", "sigma"): (torch.exp(0.5 * t.double() * (0.1 + 0.1 + 19.9 * t.double())) - 1).sqrt(),
        ("vp", "scaled"): 999 * t.double(),
        ("discrete", "index"): 1000 * t.double() - 1,
    }
    for (name, convention), expected in cases.items():
        parameterization = Parameterization("epsilon", convention, 1000)
        time = parameterization.network_time(SDES[name], t)
        assert time.dtype == dtype
        torch.testing.assert_close(time.double(), expected, rtol=tolerance, atol=1e3 * tolerance)
        back = parameterization.t_from_network_time(SDES[name], time)
        assert back.dtype == torch.float64
        torch.testing.assert_close(back, t.double(), rtol=100 * tolerance, atol=tolerance)


def test_what_each_scheduler_tells_its_network():
    continuous = VPSDEScheduler(continuous=True)
    continuous.set_timesteps(3)
    assert continuous.timesteps.tolist() == pytest.approx([999.0, 0.5005 * 999, 0.999], rel=1e-6)
    subvp = SubVPSDEScheduler()
    subvp.set_timesteps(3)
    assert torch.equal(subvp.timesteps, continuous.timesteps)
    table = VPSDEScheduler()
    table.set_timesteps(1000)
    assert table.timesteps.dtype == torch.int64 and table.timesteps.tolist() == list(range(999, -1, -1))
    ve = VESDEScheduler(sigma_max=50.0, corrector=None)
    ve.set_timesteps(3)
    assert ve.timesteps.tolist() == pytest.approx(
        [50.0, 50 * 5000 ** (-0.5 * (1 - 1e-5)), 0.01 * 5000**1e-5], rel=1e-5
    )


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        Parameterization("noise")
    with pytest.raises(ValueError, match="time must be one of"):
        Parameterization("epsilon", "seconds")


@pytest.mark.parametrize("t", [float("nan"), float("inf"), -1.0])
def test_times_that_are_no_times_are_refused(t):
    sde = VPSDE()
    with pytest.raises(ValueError, match=r"time must be a finite time of at least 0, got"):
        Parameterization("epsilon", "scaled").t_from_network_time(sde, t)
    with pytest.raises(ValueError, match=r"t must be a finite time from 0 to T = 1, got"):
        sde.log_snr(t)
