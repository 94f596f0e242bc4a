"""What schedulers refuse by name: times that the network does not know, and noise of another shape."""

import math

import numpy as np
import pytest
import torch

from scoresde_pipelines import NCSNpp, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler


X, NOISE = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
SCHEDULERS = {
    "table": VPSDEScheduler,
    "vp": lambda: VPSDEScheduler(continuous=True),
    "subvp": SubVPSDEScheduler,
    "ve": VESDEScheduler,
}
METHODS = ("add_noise", "get_velocity")

# ---------------------------------------------------------------------- times of training


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    ("timesteps", "found"),
    [
        (torch.tensor([1500.0, 1.0]), r"\[1500.0\]"),
        (torch.tensor([-1.0, 1.0]), r"\[-1.0\]"),
        (torch.tensor([1.0, math.nan]), r"\[nan\]"),
        (torch.tensor(math.inf), r"\[inf\]"),
    ],
)
def test_times_that_the_network_does_not_know_are_refused(name, method, timesteps, found):
    with pytest.raises(ValueError, match=rf"timesteps must lie in .* got {found}"):
        getattr(SCHEDULERS[name](), method)(X, NOISE, timesteps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("index", [1500, 1000, -1])
def test_indices_out_of_the_table_are_refused(method, index):
    with pytest.raises(ValueError, match=rf"timesteps must lie in 0 \.\.\. 999, .* got \[{index}.0\]"):
        getattr(VPSDEScheduler(), method)(X, NOISE, torch.tensor([3, index]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("timesteps", [5, 0.5, [1, 2], None, "a", torch.tensor([True, False]), torch.ones(2) * 1j])
def test_times_that_are_no_tensor_of_real_numbers_are_refused(name, method, timesteps):
    with pytest.raises(TypeError, match="timesteps must be a tensor of integers or floating-point numbers, got "):
        getattr(SCHEDULERS[name](), method)(X, NOISE, timesteps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("shape", [(3,), (2, 1), (0,)])
def test_times_of_another_shape_are_refused(name, method, shape):
    with pytest.raises(ValueError, match=r"timesteps must have shape \(\) or \(2,\), got \("):
        getattr(SCHEDULERS[name](), method)(X, NOISE, torch.ones(shape))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_of_another_shape_is_refused(name, method):
    with pytest.raises(
        ValueError, match=r"noise must have the shape of .*sample.*, \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"
    ):
        getattr(SCHEDULERS[name](), method)(X, NOISE[:1], torch.ones(2))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_first_and_the_last_time_are_known(name):
    scheduler = SCHEDULERS[name]()
    sde, ends = scheduler.sde, scheduler.timesteps[[0, -1]]
    std = sde.sigma(scheduler.times[[0, -1]])
    torch.testing.assert_close(scheduler.add_noise(X, NOISE, ends)[:, 0, 0, 0].double(), std, rtol=1e-5, atol=1e-7)
    # One time for all, as inpainting loops of diffusers pass it.
    torch.testing.assert_close(
        scheduler.add_noise(X, NOISE, ends[:1]), std[0].float().expand(X.shape), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("kind", [VESDEScheduler, VPSDEScheduler, NCSNpp])
@pytest.mark.parametrize("config", [[], 3, b"name"])
def test_a_configuration_of_another_kind_is_no_repository(kind, config):
    # diffusers would look for it on the Hub.
    with pytest.raises(TypeError, match="config must be a dictionary, .* got " + type(config).__name__):
        kind.from_config(config)
    with pytest.raises(TypeError, match="_use_default_values in config must be a list of names, got 3"):
        kind.from_config({"_use_default_values": 3})


@pytest.mark.parametrize("name", ["predictor", "corrector"])
@pytest.mark.parametrize("wrong", [lambda x: x, int, np.ones(2), torch.nn.Identity()])
def test_functions_that_cannot_be_called_as_steps_are_refused_when_they_are_given(name, wrong):
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        VPSDEScheduler(**{name: wrong})
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        setattr(VPSDEScheduler(), name, wrong)


def test_numbers_of_numpy_are_those_of_python_in_steps_and_files(tmp_path):
    # 150 corrections of 50 levels have no int8.
    numbers = {"num_train_timesteps": np.int64(50), "correct_steps": np.int8(3), "snr": np.float32(0.25)}
    scheduler = VPSDEScheduler(corrector="langevin", beta_end=torch.tensor(0.25), **numbers)
    assert len(scheduler.timesteps) == 200
    scheduler.save_pretrained(tmp_path)
    again = VPSDEScheduler.from_pretrained(tmp_path)
    assert (again.config.correct_steps, again.config.snr, again.config.beta_end) == (3, 0.25, 0.25)
