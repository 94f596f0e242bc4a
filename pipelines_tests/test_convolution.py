"""The 3x3 convolution against the direct one: values, derivatives, where Winograd's algorithm is taken, packed filters."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_pipelines.models import NCSNpp, packed_filters
from scoresde_pipelines.models.fast_cpu import convolution, make_convolution, packing, winograd
from scoresde_pipelines.models.fast_cpu.convolution import conv3x3


def direct(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1)


def in_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def case(count=24, channels=64, out_channels=96, height=24, width=24) -> tuple[Tensor, Tensor, Tensor]:
    x = in_channels_last(torch.randn(count, channels, height, width))
    return x, torch.randn(out_channels, channels, 3, 3) / (9 * channels) ** 0.5, torch.randn(out_channels)


@pytest.fixture
def any_size(monkeypatch):
    """Winograd's algorithm for small images too."""
    for name in ("MIN_PIXELS", "MIN_CHANNELS", "MIN_PRODUCTS"):
        monkeypatch.setattr(convolution, name, 0)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What has been computed by Winograd's algorithm."""
    made: list[str] = []
    for name in ("convolve", "weight_gradient"):
        real = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *args, n=name, f=real: made.append(n) or f(*args))
    return made


def relative(value: Tensor, exact: Tensor) -> float:
    return float((value - exact).detach().norm() / exact.detach().norm())


@pytest.mark.parametrize("chunk", [8 << 20, 1 << 18, 1], ids=["whole", "images", "rows"])
@pytest.mark.parametrize("shape", [(2, 24, 24), (1, 64, 20), (16, 4, 17)])
def test_equals_the_direct_convolution(monkeypatch, calls, chunk, shape):
    monkeypatch.setattr(winograd, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(convolution, "MIN_PRODUCTS", 0)
    count, height, width = shape
    inputs = [v.requires_grad_() for v in case(count, height=height, width=width)]
    doubles = [v.detach().double().requires_grad_() for v in inputs]
    result, exact = conv3x3(*inputs).mul_(2.0), 2 * direct(*doubles)  # in place, as the networks add to it
    assert relative(result, exact) < 1e-6
    weights = torch.randn_like(exact)
    gradients = torch.autograd.grad(result, inputs, in_channels_last(weights.float()))
    for gradient, exact_one in zip(gradients, torch.autograd.grad(exact, doubles, weights)):
        assert relative(gradient, exact_one) < 1e-6
    assert calls == ["convolve", "convolve", "weight_gradient"]


def test_rounding_is_that_of_a_direct_sum(calls):
    x, weight, _ = case(channels=256)
    exact = direct(x.double(), weight.double())
    assert relative(conv3x3(x, weight), exact) < 2.5 * relative(direct(x, weight), exact)
    assert calls


@pytest.mark.parametrize("side", ["x", "weight"])
def test_second_derivatives(any_size, calls, side):
    x, weight, bias = case(2, 3, 4, 8, 5)

    def second(convolve) -> tuple[Tensor, ...]:
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        gradient = torch.autograd.grad(
            (convolve(*leaves, bias) ** 3).sum(), leaves[side == "weight"], create_graph=True
        )
        return torch.autograd.grad((gradient[0] ** 2).sum(), leaves)

    for value, exact in zip(second(conv3x3), second(direct)):
        assert relative(value, exact) < 1e-5
    assert set(calls) == {"convolve", "weight_gradient"}


def test_forward_mode(any_size, calls):
    inputs = case(2, 3, 4, 8, 5)
    tangents = tuple(in_channels_last(torch.randn_like(v)) if v.ndim == 4 else torch.randn_like(v) for v in inputs)
    for value, exact in zip(torch.func.jvp(conv3x3, inputs, tangents), torch.func.jvp(direct, inputs, tangents)):
        assert relative(value, exact) < 1e-5
    assert calls == ["convolve"] * 3  # the value, and the tangents of images and of filters
    for leaf in (0, 1):  # forward over reverse
        gradient = [torch.func.grad(lambda *v, c=c: (c(*v) ** 3).sum(), leaf) for c in (conv3x3, direct)]
        both = [torch.func.jvp(g, inputs, tangents)[1] for g in gradient]
        assert relative(*both) < 1e-5
    assert "weight_gradient" in calls


@pytest.mark.parametrize("jacobian", [torch.func.jacrev, torch.func.jacfwd])
def test_function_transforms(monkeypatch, any_size, jacobian):
    x, weight, bias = case(2, 3, 4, 8, 5)
    batched = {}
    for function in (convolution.Convolution, convolution.WeightGradient):
        real = function.vmap
        monkeypatch.setattr(
            function,
            "vmap",
            staticmethod(lambda *args, n=function.__name__, f=real: batched.update({n: True}) or f(*args)),
        )
    for leaf in (0, 1):
        both = [jacobian(lambda x, w, c=c: c(x, w, bias).sin(), leaf)(x, weight) for c in (conv3x3, direct)]
        assert relative(*both) < 1e-5
    # Each of the stacked images lies in channels_last memory, so that the transform meets our own function.
    stacked = torch.randn(3, 2, 8, 5, 3).permute(0, 1, 4, 2, 3)
    both = [torch.vmap(lambda x, c=c: c(x, weight, bias))(stacked) for c in (conv3x3, direct)]
    assert relative(*both) < 1e-5
    grads = torch.randn(3, 2, 8, 5, 4).permute(0, 1, 4, 2, 3)
    both = [
        torch.vmap(lambda g, c=c: torch.func.vjp(lambda w: c(x, w, bias), weight)[1](g)[0])(grads)
        for c in (conv3x3, direct)
    ]
    assert relative(*both) < 1e-5
    assert set(batched) == {"Convolution", "WeightGradient"}


class TestWhereItIsTaken:
    """Each case misses one condition alone."""

    @pytest.fixture(autouse=True)
    def counted(self, calls):
        self.calls = calls

    def is_taken(self, x: Tensor, weight: Tensor) -> bool:
        self.calls.clear()
        result = conv3x3(x, weight)
        assert relative(result.double(), direct(x.double(), weight.double())) < 1e-2
        return bool(self.calls)

    def test_where_it_pays(self):
        x, weight, _ = case()
        assert self.is_taken(x, weight)
        assert not self.is_taken(in_channels_last(x[:, :, :22]), weight)  # rows not in fours
        assert not self.is_taken(x.contiguous(), weight)  # channels first
        assert not self.is_taken(x.double(), weight.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not self.is_taken(x, weight)
            assert conv3x3(x, weight).dtype == torch.bfloat16
        assert torch.isnan(conv3x3(x.clone().fill_(torch.nan), weight)).all()

    def test_not_for_few_products(self):
        x, weight, _ = case(2)
        assert not self.is_taken(x, weight)

    def test_not_for_few_pixels_or_channels(self, monkeypatch):
        monkeypatch.setattr(convolution, "MIN_PRODUCTS", 0)
        x, weight, _ = case(2)
        assert self.is_taken(x, weight)
        assert not self.is_taken(in_channels_last(x[:1, :, :4]), weight)
        assert not self.is_taken(in_channels_last(x[:, :20]), weight[:, :20])


def test_a_layer_is_a_convolution_of_torch(calls):
    layer, plain = make_convolution(64, 96, 3), torch.nn.Conv2d(64, 96, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    x, _, _ = case()
    assert isinstance(layer, torch.nn.Conv2d)
    assert relative(layer(x), plain(x)) < 1e-6
    assert calls


@pytest.fixture(scope="module")
def unet() -> NCSNpp:
    torch.manual_seed(0)
    unet = NCSNpp(sample_size=32, block_out_channels=(64, 64), layers_per_block=1).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return unet


@torch.no_grad()
def test_a_network_gives_the_same_with_and_without(monkeypatch, calls, unet):
    x, t = torch.randn(16, 3, 32, 32), torch.linspace(0.1, 7.0, 16)
    fast = unet(x, t).sample
    assert calls
    monkeypatch.setattr(convolution, "MIN_PIXELS", 1 << 60)
    assert relative(fast, unet(x, t).sample) < 1e-5


def test_function_transforms_of_a_network(unet):
    x, tangent, t = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32), torch.tensor([0.5, 5.0])
    with torch.no_grad():
        value, product = torch.func.jvp(lambda x: unet(x, t).sample, (x,), (tangent,))
        each = torch.vmap(lambda x, t: unet(x[None], t[None]).sample[0])(x, t)
        assert relative(value, unet(x, t).sample) < 1e-5
        assert relative(each, value) < 1e-5
    x.requires_grad_()
    (pulled,) = torch.autograd.grad(unet(x, t).sample, x, product)
    assert float((pulled * tangent).sum()) == pytest.approx(float(product.square().sum()), rel=1e-4)

    def loss(parameters, x, t):
        return torch.func.functional_call(unet, parameters, (x[None], t[None])).sample.square().sum()

    parameters = {name: value.detach() for name, value in unet.named_parameters() if value.requires_grad}
    per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x.detach(), t)
    expected = torch.autograd.grad(unet(x[1:], t[1:]).sample.square().sum(), unet.conv_in.weight)[0]
    assert relative(per_sample["conv_in.weight"][1], expected) < 1e-4


needs_packing = pytest.mark.skipif(not packing.CAN_PACK, reason="this PyTorch has no oneDNN for x86 processors")


def packs(unet: NCSNpp) -> list:
    layers = [layer for layer in unet.modules() if isinstance(layer, torch.nn.Conv2d)]
    return [pack for layer in layers for pack in packing.PACKED.get(layer, {}).values()]


class TestPackedFilters:
    """Outputs with filters kept packed are those without."""

    @needs_packing
    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    @torch.no_grad()
    def test_same_outputs_whatever_the_batch(self, unet, calls, memory_format):
        unet = copy.deepcopy(unet).to(memory_format=memory_format)
        with packed_filters(unet):
            for count in (8, 3, 1, 8):  # an ODE's samples end at different times
                x, t = torch.randn(count, 3, 32, 32), torch.linspace(0.1, 7.0, count)
                packed = unet(x, t).sample
                assert relative(packed, copy.deepcopy(unet)(x, t).sample) < 2e-6
            assert {pack.fast for pack in packs(unet)} == {True, False}
            held = packs(unet)
        assert held and calls and not packs(unet)

    @needs_packing
    @torch.no_grad()
    def test_changed_weights_are_noticed(self, unet):
        unet = copy.deepcopy(unet)
        x, t = torch.randn(2, 3, 32, 32), torch.tensor([0.5, 5.0])
        with packed_filters(unet):
            before = unet(x, t).sample
            unet.load_state_dict({name: 1.1 * value for name, value in unet.state_dict().items()})
            after = unet(x, t).sample
        assert relative(after, before) > 1e-2
        assert relative(after, unet(x, t).sample) < 2e-6

    @needs_packing
    @pytest.mark.parametrize("edit", ["fused optimizer", "NumPy", "one entry", "order", "data", "replaced"])
    def test_changes_that_leave_no_trace_but_the_values_are_noticed(self, unet, edit):
        unet = copy.deepcopy(unet)
        x, t = torch.randn(2, 3, 32, 32), torch.tensor([0.5, 5.0])
        layer = unet.mid_block.resnets[0].conv1
        with packed_filters(unet):
            with torch.no_grad():
                before = unet(x, t).sample
            if edit == "fused optimizer":
                optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=1e-2, fused=True)
                unet(x, t).sample.square().mean().backward()
                optimizer.step()
            elif edit == "NumPy":
                layer.weight.detach().numpy()[...] *= 1.5
            elif edit == "one entry":
                layer.weight.detach().numpy()[3, 5, 1, 2] += 5.0
            elif edit == "order":
                layer.weight.detach().numpy()[...] = layer.weight.detach().flip(0, 3).numpy().copy()
            elif edit == "data":
                layer.weight.data.mul_(1.5)
            else:
                layer.weight.data = 1.5 * layer.weight.data
            with torch.no_grad():
                after = unet(x, t).sample
        with torch.no_grad():
            assert relative(after, before) > 1e-4
            assert relative(after, unet(x, t).sample) < 2e-6

    def test_gradients_do_not_see_it(self, unet):
        x = torch.randn(2, 3, 32, 32, requires_grad=True)
        t = torch.tensor([0.5, 5.0])
        with packed_filters(unet):
            (packed,) = torch.autograd.grad(unet(x, t).sample.square().sum(), x)
            assert not packs(unet)
        (plain,) = torch.autograd.grad(unet(x, t).sample.square().sum(), x)
        assert torch.equal(packed, plain)

    @needs_packing
    def test_the_outer_of_two_owns_it_and_errors_end_it(self, unet):
        with pytest.raises(ZeroDivisionError), packed_filters(unet):
            with packed_filters(unet):
                pass
            assert unet.conv_in in packing.PACKED
            raise ZeroDivisionError
        assert not any(layer in packing.PACKED for layer in unet.modules())

    @needs_packing
    @torch.no_grad()
    def test_a_copy_starts_without(self, unet):
        x, t = torch.randn(2, 3, 32, 32), torch.tensor([0.5, 5.0])
        with packed_filters(unet):
            expected = unet(x, t).sample
            clone = copy.deepcopy(unet)
        assert not packs(clone)
        assert relative(clone(x, t).sample, expected) < 2e-6
