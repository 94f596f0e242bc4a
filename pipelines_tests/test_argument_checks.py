"""Checks of states, times and objects: what they accept, and the message by which each argument is named."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch._subclasses.fake_tensor import FakeTensorMode

from scoresde_pipelines.schedulers import (
    CORRECTORS,
    PREDICTORS,
    TIME_GRIDS,
    VESDE,
    VPSDE,
    DiscreteVPSDE,
    MaskOperator,
    MomentMatching,
    SubVPSDE,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
    checks,
    sampling_loop,
    solve_probability_flow,
)
from scoresde_pipelines.schedulers.correctors import make_corrector


X = torch.ones(2, 3)


@pytest.mark.parametrize("t", [0.5, np.float32(0.5), torch.tensor(0.5), [0.5]])
def test_a_time_is_a_number_or_a_tensor(t):
    assert checks.as_time(t).flatten().tolist() == [0.5]


@pytest.mark.parametrize("t", [None, "a", {}, object(), 1j, torch.tensor(1j), ["a"], 10**400, X.to_sparse()])
def test_what_is_no_time_is_named(t):
    with pytest.raises(TypeError, match=r"^log_snr must be a number or a (dense )?tensor of real numbers, got"):
        checks.as_time(t, "log_snr")


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: checks.check_time("t", torch.ones(3), X), ValueError, r"t must have shape \(\) or \(B,\) for x of"),
        (lambda: checks.check_time("t", torch.ones(2, 1), X), ValueError, r"got \(2, 1\)"),
        (
            lambda: checks.check_time("t", torch.ones(2).to("meta"), X),
            TypeError,
            "t must be a tensor with values, got one on",
        ),
        (
            lambda: checks.check_state("x", X.long()),
            TypeError,
            "x must be a floating-point tensor, got torch.int64",
        ),
        (lambda: checks.check_state("x", X.to_sparse()), TypeError, "got torch.sparse_coo torch.float32"),
        (lambda: checks.check_state("x", [1.0]), TypeError, "x must be a floating-point tensor, got list"),
        (lambda: checks.check_state("x", X, 4), ValueError, r"x must have at least 4 dimensions, got shape \(2, 3\)"),
        (lambda: checks.check_like("noise", X[0], X), ValueError, r"noise must have the shape of x, .*\(2, 3\)"),
        (lambda: checks.check_like("noise", X.to("meta"), X), ValueError, "noise must be on the device of x"),
        (lambda: checks.check_flag("prologue", "x"), TypeError, "prologue must be True or False, got str"),
        (lambda: checks.check_flag("prologue", 1), TypeError, "prologue must be True or False, got int"),
        (lambda: checks.check_numbers("means", "12"), TypeError, "means must be a sequence of numbers, got str"),
        (lambda: checks.check_numbers("means", {1, 2}), TypeError, "means must be a sequence of numbers, got set"),
        (
            lambda: checks.check_numbers("means", []),
            ValueError,
            "means must be a sequence of at least 1 numbers, got 0",
        ),
        (lambda: checks.check_numbers("means", [1, "2"]), TypeError, r"means\[1\] must be a number, got str"),
        (
            lambda: checks.check_numbers("means", [math.nan]),
            ValueError,
            r"means\[0\] must be a finite number, got nan",
        ),
        (lambda: checks.check_instance("sde", VPSDE, VPSDE), TypeError, "sde must be a VPSDE, got VPSDE"),
        (lambda: checks.check_function("score_fn", 3), TypeError, "score_fn must be a function, got int"),
        (lambda: checks.check_function("f", 3, optional=True), TypeError, "f must be None or a function, got int"),
        (
            lambda: checks.check_generator("generator", 3),
            TypeError,
            "generator must be a torch.Generator, got 3",
        ),
        (
            lambda: checks.check_generator("generator", [None], 1),
            TypeError,
            r"generator must be a torch.Generator or a list of them, got \[None\]",
        ),
        (
            lambda: checks.check_generator("generator", [torch.Generator()], 2),
            ValueError,
            "generator must hold one generator per image, 2, got 1",
        ),
        (lambda: checks.check_device("device", []), TypeError, "device must be a device, got list"),
        (lambda: checks.check_device("device", "nope"), ValueError, "device must be an available device, got 'nope'"),
    ],
)
def test_each_check_says_what_it_wants_and_got(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_checks_return_what_is_right():
    generators = (torch.Generator(), torch.Generator())
    assert checks.check_generator("generator", generators, 2) == list(generators)
    assert checks.check_generator("generator", None) is None
    assert checks.check_device("device", "cpu") == torch.device("cpu") and checks.check_device("device", None) is None
    assert checks.check_flag("flag", np.True_) is True
    assert checks.check_numbers("betas", torch.tensor([0.5, 0.25])) == [0.5, 0.25]
    assert checks.check_state("x", X) is X and checks.check_like("y", X + 1, X)[0, 0] == 2


# ------------------------------------------------------------------ the entries name their arguments


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_train_timesteps": 2.5}, "num_train_timesteps must be an integer"),
        ({"beta_start": "a"}, "beta_start must be a number, got str"),
        ({"beta_end": None}, "beta_end must be a number, got NoneType"),
        ({"beta_start": 0.02, "beta_end": 0.01}, "beta_start must be at most beta_end, got 0.02 and 0.01"),
        ({"beta_schedule": "nope"}, "beta_schedule must be one of"),
        ({"trained_betas": "a"}, "trained_betas must be a sequence of numbers, got str"),
        ({"trained_betas": [0.1, math.nan]}, r"trained_betas\[1\] must be a finite number"),
        ({"trained_betas": [1.0, 0.1]}, "trained_betas must be less than 1 but for the last"),
        ({"continuous": "x"}, "continuous must be True or False, got str"),
        ({"prologue": "x"}, "prologue must be True or False, got str"),
        ({"rescale_betas_zero_snr": "x"}, "rescale_betas_zero_snr must be True or False, got str"),
        ({"batch_mean_norm": None}, "batch_mean_norm must be True or False, got NoneType"),
        ({"data_mean": []}, "data_mean must be a sequence of at least 1 numbers, got 0"),
        ({"sigma_data": 1e308}, "sigma_data must be a finite number in"),
    ],
)
def test_options_of_a_scheduler(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        VPSDEScheduler(**options)


def test_options_of_the_other_schedulers():
    with pytest.raises(TypeError, match="sigma_max must be a number, got NoneType"):
        VESDEScheduler(sigma_max=None)
    with pytest.raises(ValueError, match=r"sigma_min must be less than sigma_max, got 60.0 and 50.0"):
        VESDEScheduler(sigma_min=60.0, sigma_max=50.0)
    with pytest.raises(TypeError, match="trained_betas must be a sequence of numbers"):
        VESDEScheduler(trained_betas="a")
    with pytest.raises(ValueError, match="trained_betas"):
        SubVPSDEScheduler(trained_betas=[0.1, math.nan])


@pytest.mark.parametrize("name", [name for name in PREDICTORS if not isinstance(PREDICTORS[name], type)])
def test_predictors(name):
    step, t, s = PREDICTORS[name], torch.tensor(0.5), torch.tensor(0.3)
    for arguments, message in [
        ((None, X, X, t, s), "sde must be an SDE, got NoneType"),
        ((VPSDE(), X.long(), X, t, s), "x must be a floating-point tensor"),
        ((VPSDE(), X, X[0], t, s), "score must have the shape of x"),
        ((VPSDE(), X, X, None, s), "t must be a number or a tensor"),
        ((VPSDE(), X, X, t, None), "s must be a number or a tensor"),
        ((VPSDE(), X, X, torch.ones(2), s), r"t must have shape \(\), one time"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            step(*arguments)


@pytest.mark.parametrize("name", CORRECTORS)
def test_correctors(name):
    t, corrector = torch.tensor(0.5), make_corrector(name)
    with pytest.raises(ValueError, match="noise must have the shape of x"):
        corrector(VPSDE(), X, X, t, X[0], 0.1)
    with pytest.raises(ValueError, match="snr must be a finite number"):
        corrector(VPSDE(), X, X, t, X, 0.0)


@pytest.mark.parametrize("name", TIME_GRIDS)
def test_time_grids(name):
    for arguments, message in [
        (("vp", 3, 1e-3), "sde must be an SDE, got str"),
        ((VPSDE(), "3", 1e-3), "n must be an integer"),
        ((VPSDE(), 3, math.nan), "sampling_eps must be a finite number"),
        ((VPSDE(), 3, 1.0), "sampling_eps must be a finite number"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            TIME_GRIDS[name](*arguments)


def test_steps_and_loops_of_a_scheduler():
    scheduler = VPSDEScheduler(continuous=True, num_train_timesteps=10)
    x, t = torch.ones(2, 1, 2, 2), scheduler.timesteps[0]
    for call, message in [
        (lambda: scheduler.step(x, t, x, generator=3), "generator must be a torch.Generator or a list of them, got 3"),
        (lambda: scheduler.step(x, None, x), "timestep must be a number or a tensor"),
        (
            lambda: scheduler.step(x.long(), t, x),
            "model_output must be a floating-point tensor, got torch.int64",
        ),
        (lambda: scheduler.set_timesteps(3, device=[]), "device must be a device, got list"),
        (lambda: scheduler.set_timesteps(timesteps=[1e9]), "timesteps must lie in 0 ... 999, the network's range"),
        (lambda: scheduler.set_begin_index(-1), "begin_index must be an integer from 0 to 10, got -1"),
        (lambda: scheduler.score_fn(None), "model must be a function, got NoneType"),
        (
            lambda: scheduler.score_fn(lambda x, t: None)(x, 0.5),
            "model must return a floating-point tensor, got NoneType",
        ),
        (lambda: scheduler.score_fn(lambda x, t: x)(x, -1.0), r"t must be a finite number in \[1e-30, 1\], got -1.0"),
        (
            lambda: sampling_loop(scheduler, lambda x, t: x, x, generator=3),
            "generator must be a torch.Generator or a list of them",
        ),
        (lambda: sampling_loop(VPSDE(), lambda x, t: x, x), "scheduler must be an SDEScheduler, got VPSDE"),
        (lambda: sampling_loop(scheduler, lambda x, t: x, x, on_step="a"), "on_step must be None or a function"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            call()


@pytest.mark.parametrize("result", [None, (1, 2, 3), (torch.ones(1, 1, 2, 2), 0.0), (None, 0.0)])
def test_what_a_predictor_of_one_s_own_returns(result):
    scheduler = VPSDEScheduler(continuous=True, num_train_timesteps=10)
    scheduler.predictor = lambda sde, x, score, t, s: result
    x = torch.ones(2, 1, 2, 2)
    with pytest.raises((TypeError, ValueError), match="predictor must return"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_posteriors():
    def score(x, t):
        return -x

    class Doubled(MaskOperator):
        def At(self, y):
            return 2 * super().At(y)

    y, mask = torch.ones(2, 4), MaskOperator(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    for arguments, message in [
        (("a", VPSDE(), mask, y), "score_fn must be a function, got str"),
        ((score, "vp", mask, y), "sde must be an SDE, got str"),
        ((score, VPSDE(), None, y), "operator must be a LinearOperator, got NoneType"),
        ((score, VPSDE(), mask, torch.full((2, 4), math.nan)), "y must be finite, got NaN or infinity"),
        ((score, VPSDE(), Doubled(torch.ones(4)), y), "Doubled.At is not the adjoint of A"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            MomentMatching(*arguments)
    with pytest.raises(ValueError, match="x must be finite, got NaN or infinity"):
        solve_probability_flow(score, VPSDE(), torch.full((2, 4), math.inf), 1.0, 0.1)
    with pytest.raises(TypeError, match="condition must be a mapping of names to tensors"):
        solve_probability_flow(score, VPSDE(), y, 1.0, 0.1, condition=3)


# ------------------------------------------------------------------ no check reads a value where it must not


def ancestral_mean(x):
    return PREDICTORS["ancestral"](VESDE(), x, -x, torch.tensor(0.5), torch.tensor(0.3))[0]


def test_steps_work_under_vmap_and_grad():
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([ancestral_mean(one) for one in x])
    assert torch.equal(torch.func.vmap(ancestral_mean)(x), expected)
    slope = torch.func.grad(lambda x: ancestral_mean(x).sum())(x[0])
    torch.testing.assert_close(slope, expected[0] / x[0])


def test_steps_work_on_meta_and_fake_tensors():
    assert ancestral_mean(torch.ones(2, 3, device="meta")).shape == (2, 3)
    with FakeTensorMode():
        assert ancestral_mean(torch.ones(2, 3)).shape == (2, 3)


def test_one_graph_of_the_denoised_image():
    from torch._dynamo.testing import CompileCounter

    def denoised(x, t):
        return VPSDE().denoise(x, -x, t)

    counter = CompileCounter()
    x, t = torch.randn(2, 3), torch.tensor(0.5)
    compiled = torch.compile(denoised, backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(x, t), denoised(x, t))
    assert counter.frame_count == 1


@pytest.mark.parametrize("make", [SubVPSDEScheduler, VESDEScheduler])
def test_a_saved_table_of_another_sde_is_no_ddpm_table(make, tmp_path):
    betas = [0.01, 0.02, 0.03]
    make(trained_betas=betas).save_pretrained(tmp_path)
    loaded = make.from_pretrained(tmp_path)
    assert loaded.config.trained_betas == betas and type(loaded.sde) is type(make(trained_betas=betas).sde)
    with pytest.raises(NotImplementedError, match="no DDPM table"):
        DDPMScheduler.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="config must describe the SDE of a VPSDEScheduler, got that of a"):
        VPSDEScheduler.from_pretrained(tmp_path)


@pytest.mark.parametrize("time", [-1.0, 1.5, 500])
@pytest.mark.parametrize("name", ["alpha", "sigma", "diffusion", "log_snr"])
def test_a_time_that_the_sde_does_not_have_is_refused(name, time):
    with pytest.raises(ValueError, match=rf"t must be a finite time from 0 to T = 1, got {time}"):
        getattr(VPSDE(), name)(time)


@pytest.mark.parametrize("sde", [VESDE(), VPSDE(), SubVPSDE(), DiscreteVPSDE([0.01] * 10)])
def test_no_kernel_leads_back_in_time(sde):
    times = torch.tensor([0.1, 0.6]), torch.tensor(0.5)
    for t, s in [(0.1, 0.5), (torch.tensor(0.1), torch.tensor(0.5)), times]:
        with pytest.raises(ValueError, match=r"s must be at most t, got s=0\.5 and t="):
            sde.transition(t, s)
    _, expected = sde.transition(0.6, 0.5)
    for captured in (
        torch.vmap(sde.transition, (0, None)),
        torch.compile(sde.transition, backend="eager", fullgraph=True),
    ):
        _, std = captured(*times)  # where no value can be read
        assert std.isnan().tolist() == [True, False]
        torch.testing.assert_close(std[1], expected.float(), rtol=1e-5, atol=0)
    assert float(sde.transition(0.5, 0.5)[1]) == 0


@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion", "ancestral", "ancestral_large"])
def test_no_step_with_noise_leads_forward_in_time(name):
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="s must be at most t"):
        PREDICTORS[name](VPSDE(), x, -x, torch.tensor(0.1), torch.tensor(0.2))


class Unprintable:
    """An object that has no `repr`."""

    def __repr__(self):
        raise RuntimeError("this object cannot be printed")


@pytest.mark.parametrize(
    "check, message",
    [
        (
            lambda value: checks.check_integer("steps", value),
            "steps must be an integer of at least 1, got Unprintable",
        ),
        (lambda value: checks.check_choice("sde", value, ["vp"]), r"sde must be one of \['vp'\], got Unprintable"),
        (lambda value: checks.check_generator("generator", value), "generator must be a torch.Generator, got Unprint"),
        (
            lambda value: checks.check_function("score_fn", lambda x, *, by=value: x, 2),
            "score_fn must be a function of 2",
        ),
        (lambda value: VPSDEScheduler(timestep_spacing=value), "timestep_spacing must be None or one of"),
    ],
)
def test_what_cannot_be_printed_is_named_by_its_type(check, message):
    with pytest.raises((TypeError, ValueError), match=message):
        check(Unprintable())


def test_a_message_shows_the_beginning_of_a_long_list():
    with pytest.raises(ValueError, match=r"steps must be an integer of at least 1, got \[0, 0.*\.\.\.$") as caught:
        checks.check_integer("steps", [0] * 10**5)
    assert len(str(caught.value)) < 400
