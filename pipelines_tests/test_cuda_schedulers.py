"""Schedulers on tensors of a CUDA GPU: the values of the CPU, and no wait for the GPU between steps.

Skipped without a GPU; see the fixture `device`. That a sampling loop reads no value back is shown without one as well, on
the device meta, whose tensors have none.
"""

import contextlib
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scoresde_pipelines import (
    AutoGuidance,
    AveragePoolOperator,
    BlurOperator,
    ClassifierFreeGuidance,
    GrayOperator,
    MaskOperator,
    SubVPSDEScheduler,
    TiledScore,
    VESDEScheduler,
    VPSDEScheduler,
    sampling_loop,
)
from scoresde_pipelines.schedulers import CORRECTORS, PREDICTORS
from scoresde_pipelines.schedulers.transfers import to_device
from scoresde_pipelines.training.evaluation.kid import kernel_distance
from scoresde_pipelines.training.evaluation.neighbours import precision_recall


CPU, META = torch.device("cpu"), torch.device("meta")
SHAPE = (2, 3, 8, 8)
SCHEDULERS = {
    "vp": lambda **options: VPSDEScheduler(continuous=True, **options),
    "table": VPSDEScheduler,
    "subvp": SubVPSDEScheduler,
    "ve": lambda **options: VESDEScheduler(sigma_max=10.0, **options),
    "edm": lambda **options: VESDEScheduler(sigma_max=10.0, prediction_type="edm", data_mean=0.4, **options),
}
NAMES = [name for name in PREDICTORS if name != "learned_steps"]  # its steps are those of one model
SAMPLERS = [(predictor, None) for predictor in NAMES] + [("reverse_diffusion", corrector) for corrector in CORRECTORS]


def network(x, t, **_):
    return 0.5 * x.cos() + 0.01 * t.to(x).reshape(-1, *(1,) * (x.ndim - 1)).cos()


def noise(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def stock_loop(scheduler, device, generator):
    """The loop of a diffusers pipeline."""
    scheduler.set_timesteps(8, device=device)
    assert scheduler.timesteps.device.type == device.type
    x = noise().to(device) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("predictor, corrector", SAMPLERS)
def test_steps_have_the_values_of_the_cpu(device, kind, predictor, corrector):
    found = []
    for place in (CPU, device):
        scheduler = SCHEDULERS[kind](predictor=predictor, corrector=corrector)
        found.append(stock_loop(scheduler, place, torch.Generator().manual_seed(1)).cpu())
    size = float(found[0].abs().max())
    assert math.isfinite(size) and size > 0
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-4 * max(1.0, size))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_noise_and_velocity_have_the_values_of_the_cpu(device, kind):
    scheduler = SCHEDULERS[kind]()
    timesteps = scheduler.timesteps[[3, -3]]
    for method in (scheduler.add_noise, scheduler.get_velocity):
        expected = method(noise(1), noise(2), timesteps)
        for place in (CPU, device):
            found = method(noise(1).to(device), noise(2).to(device), timesteps.to(place))
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------- no waiting


@contextlib.contextmanager
def no_waiting(device):
    """An error for every operation that waits for the GPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("predictor, corrector", [("restart", None), *SAMPLERS])
def test_a_sampling_loop_never_waits_for_the_gpu(device, kind, predictor, corrector):
    # With a generator of the GPU: the noise of a CPU generator has to be copied.
    scheduler = SCHEDULERS[kind](predictor=predictor, corrector=corrector)
    scheduler.set_timesteps(20 if predictor == "restart" else 5, device=device)
    x = noise().to(device) * scheduler.init_noise_sigma
    with no_waiting(device):
        found = sampling_loop(scheduler, scheduler.score_fn(network), x, torch.Generator(device).manual_seed(0))
    assert bool(found.isfinite().all())


def test_a_stock_loop_never_waits_for_the_gpu(device):
    scheduler = VESDEScheduler(sigma_max=10.0, prediction_type="edm", data_mean=[0.4, 0.5, 0.6], predictor="restart")
    scheduler.set_timesteps(20, device=device)
    x, generator = noise().to(device) * scheduler.init_noise_sigma, torch.Generator(device).manual_seed(0)
    # The size of the start is checked at the first step, which waits once.
    first, *others = scheduler.timesteps
    x = scheduler.step(network(scheduler.scale_model_input(x, first), first), first, x, generator=generator)[0]
    with no_waiting(device):
        for t in others:
            x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, generator=generator)[0]
    assert bool(x.isfinite().all())


def test_what_waits_is_found(device):
    if device.type != "cuda":
        pytest.skip("nothing waits on a CPU")
    value = torch.ones(2, device=device)
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting(device):
        bool(value.any())  # as the error control of an adaptive solver does
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting(device):
        torch.tensor(0.5).to(device)


class NothingRead(TorchDispatchMode):
    """An error where a value on the device meta would be read, or more than a number is copied to it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        if str(func).startswith(("aten.where", "aten.index")):  # these copy numbers and indices to the device
            assert len({value.device for value in tensors}) < 2, f"{func} copies to the device, and waits for it"
        if "_to_copy" in str(func) and result.device.type == "meta" and args[0].device.type == "cpu":
            assert args[0].ndim > 0, "a single number is copied, and waited for"
        return result


CONDITIONS = {
    "none": lambda score_fn, sde: score_fn,
    "tiles": lambda score_fn, sde: TiledScore(score_fn, 4, 2, 4),
    "autoguidance": lambda score_fn, sde: AutoGuidance(score_fn, score_fn, 2.0),
    "classes": lambda score_fn, sde: ClassifierFreeGuidance(score_fn, score_fn, 2.0, (0.1, 5.0), sde.noise_ratio),
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("predictor, corrector", [("restart", None), ("reverse_diffusion", "langevin")])
def test_no_value_is_read_in_a_sampling_loop(kind, predictor, corrector, condition):
    scheduler = SCHEDULERS[kind](predictor=predictor, corrector=corrector)
    scheduler.set_timesteps(20, device="meta")
    score_fn = CONDITIONS[condition](scheduler.score_fn(network), scheduler.sde)
    with NothingRead():
        found = sampling_loop(scheduler, score_fn, torch.empty(SHAPE, device="meta"))
    assert found.device == META and found.shape == SHAPE


def test_the_mode_finds_what_is_read():
    with pytest.raises(RuntimeError), NothingRead():
        bool(torch.empty(2, device="meta").any())
    with pytest.raises(AssertionError, match="single number"), NothingRead():
        torch.tensor(0.5).to("meta")


# ---------------------------------------------------------------------- copies


@pytest.mark.parametrize(
    "value", [torch.tensor(0.1, dtype=torch.float64), torch.tensor(7), torch.rand(5), noise() > 0]
)
def test_copies_have_the_values_of_plain_ones(device, value):
    for dtype in (None, torch.float32, torch.float64):
        expected = value.to(device, dtype or value.dtype)
        with no_waiting(device):
            found = to_device(value, device, dtype)
        assert found.device == expected.device and found.dtype == expected.dtype and torch.equal(found, expected)


def test_a_copy_keeps_the_gradient(device):
    value = torch.tensor([0.1, 0.2], requires_grad=True)
    to_device(value, device).square().sum().backward()
    torch.testing.assert_close(value.grad, 2 * value.detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["mask", "gray", "pool", "blur"])
def test_operators_have_the_values_of_the_cpu(device, name):
    operators = {
        "mask": MaskOperator(noise(3)[:1] > 0),
        "gray": GrayOperator((0.299, 0.587, 0.114)),
        "pool": AveragePoolOperator(2),
        "blur": BlurOperator.gaussian(0.6, 5),
    }
    operator, x = operators[name], noise()
    y = operator.A(x)
    there, measured = x.to(device), y.to(device)
    with no_waiting(device):
        found = operator.A(there), operator.At(measured)
    for one, expected in zip(found, (y, operator.At(y))):
        torch.testing.assert_close(one.cpu(), expected, rtol=1e-5, atol=1e-6)


def test_metrics_take_features_of_the_gpu(device):
    x, y = (torch.randn(40, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    expected, found = kernel_distance(x, y), kernel_distance(x.to(device), y.to(device))
    assert found.value == pytest.approx(expected.value, abs=1e-9) and found.se == pytest.approx(expected.se, abs=1e-9)
    measured, on_cpu = precision_recall(x.to(device), y.to(device)), precision_recall(x, y)
    for name, value in on_cpu.items():
        assert measured[name].value == pytest.approx(value.value, abs=1e-9)
