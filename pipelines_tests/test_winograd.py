"""Winograd's convolution against the direct one: values, all derivatives, and when it is taken."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_pipelines.models import NCSNpp, winograd
from scoresde_pipelines.models.winograd import Conv3x3, conv3x3


def direct(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1)


def case(count=24, channels=64, out_channels=96, height=24, width=24) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(count, channels, height, width).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(out_channels, channels, 3, 3) / (9 * channels) ** 0.5, torch.randn(out_channels)


def small(monkeypatch) -> tuple[Tensor, Tensor, Tensor]:
    monkeypatch.setattr(winograd, "MIN_PIXELS", 0)
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 0)
    monkeypatch.setattr(winograd, "MIN_PRODUCTS", 0)
    return case(2, 3, 4, 8, 5)


def relative(value: Tensor, exact: Tensor) -> float:
    return float((value - exact).detach().norm() / exact.detach().norm())


def is_taken(x: Tensor, weight: Tensor) -> bool:
    return "_Convolution" in type(conv3x3(x, weight.requires_grad_()).grad_fn).__name__


@pytest.mark.parametrize("chunk", [8 << 20, 1 << 18, 1], ids=["whole", "images", "rows"])
@pytest.mark.parametrize("shape", [(2, 24, 24), (1, 64, 20), (16, 4, 17)])
def test_equals_the_direct_convolution(monkeypatch, chunk, shape):
    monkeypatch.setattr(winograd, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(winograd, "MIN_PRODUCTS", 0)
    count, height, width = shape
    inputs = [v.requires_grad_() for v in case(count, height=height, width=width)]
    doubles = [v.detach().double().requires_grad_() for v in inputs]
    assert is_taken(*inputs[:2])
    result, exact = conv3x3(*inputs).mul_(2.0), 2 * direct(*doubles)  # in place, as the networks add to it
    assert relative(result, exact) < 1e-6
    weights = torch.randn_like(exact)
    gradients = torch.autograd.grad(result, inputs, weights.float())
    for gradient, exact_one in zip(gradients, torch.autograd.grad(exact, doubles, weights)):
        assert relative(gradient, exact_one) < 1e-6


def test_rounding_is_that_of_a_direct_sum():
    x, weight, _ = case(channels=256)
    exact = direct(x.double(), weight.double())
    assert relative(conv3x3(x, weight), exact) < 2.5 * relative(direct(x, weight), exact)


@pytest.mark.parametrize("side", ["x", "weight"])
def test_second_derivatives(monkeypatch, side):
    x, weight, bias = small(monkeypatch)

    def second(convolve) -> tuple[Tensor, ...]:
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        gradient = torch.autograd.grad(
            (convolve(*leaves, bias) ** 3).sum(), leaves[side == "weight"], create_graph=True
        )
        return torch.autograd.grad((gradient[0] ** 2).sum(), leaves)

    for value, exact in zip(second(conv3x3), second(direct)):
        assert relative(value, exact) < 1e-5


def test_function_transforms(monkeypatch):
    inputs = small(monkeypatch)
    x, weight, bias = inputs
    tangents = tuple(torch.randn_like(v) for v in inputs)
    for value, exact in zip(torch.func.jvp(conv3x3, inputs, tangents), torch.func.jvp(direct, inputs, tangents)):
        assert relative(value, exact) < 1e-5
    pullbacks = [torch.func.vjp(convolve, *inputs)[1](conv3x3(*inputs)) for convolve in (conv3x3, direct)]
    for value, exact in zip(*pullbacks):
        assert relative(value, exact) < 1e-5
    stacked = torch.randn(3, *x.shape)
    assert (
        relative(
            torch.vmap(lambda x: conv3x3(x, weight, bias))(stacked),
            torch.vmap(lambda x: direct(x, weight, bias))(stacked),
        )
        < 1e-5
    )
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        both = [jacobian(lambda x, c=c: c(x, weight, bias).sin())(x) for c in (conv3x3, direct)]
        assert relative(*both) < 1e-5
    for leaf in (0, 1):  # forward over reverse
        gradient = [torch.func.grad(lambda *v, c=c: (c(*v) ** 3).sum(), leaf) for c in (conv3x3, direct)]
        both = [torch.func.jvp(g, inputs, tangents)[1] for g in gradient]
        assert relative(*both) < 1e-5


def test_taken_where_it_pays_and_nowhere_else():
    x, weight, _ = case()
    assert is_taken(x, weight)
    assert not is_taken(x[:1, :, :4], weight)  # few pixels
    assert not is_taken(x[:, :, :22].contiguous(memory_format=torch.channels_last), weight)  # rows not in fours
    assert not is_taken(x[:, :8].contiguous(memory_format=torch.channels_last), weight[:, :8].detach())  # few channels
    assert not is_taken(x.contiguous(), weight)  # channels first
    assert not is_taken(x.double(), weight.detach().double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_taken(x, weight)
        assert conv3x3(x, weight).dtype == torch.bfloat16
    assert torch.isnan(conv3x3(x.clone().fill_(torch.nan), weight)).all()


def test_a_layer_is_a_convolution_of_torch():
    layer, plain = Conv3x3(64, 64), torch.nn.Conv2d(64, 64, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    x, _, _ = case()
    assert isinstance(layer, torch.nn.Conv2d)
    assert relative(layer(x), plain(x)) < 1e-6


@torch.no_grad()
def test_a_network_gives_the_same_with_and_without(monkeypatch):
    torch.manual_seed(0)
    unet = NCSNpp(sample_size=32, block_out_channels=(64, 64), layers_per_block=1).eval()
    for parameter in unet.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    x, t = torch.randn(16, 3, 32, 32), torch.linspace(0.1, 7.0, 16)
    calls = []
    convolve = winograd._convolve
    monkeypatch.setattr(winograd, "_convolve", lambda *args: calls.append(1) or convolve(*args))
    fast = unet(x, t).sample
    assert calls
    monkeypatch.setattr(winograd, "MIN_PIXELS", 1 << 60)
    assert relative(fast, unet(x, t).sample) < 1e-5
