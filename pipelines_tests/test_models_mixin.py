"""What diffusers expects of a model, and what a caller may do wrong, on tiny networks."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scoresde_pipelines.models import DDPMpp, NCSNpp, NCSNv2
from scoresde_pipelines.models.convolution import make_convolution
from scoresde_pipelines.models.noise_levels import index_of_sigma, sigma_of_index
from scoresde_pipelines.models.resampling import BoxFilter, FIRFilter, Upsample, up_conv


SMALL: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "init_scale": 1.0, "dropout": 0.0}


def make(name: str, **arguments: Any) -> torch.nn.Module:
    """A tiny network of each class, its output nowhere near zero."""
    torch.manual_seed(1)
    if name == "NCSNv2":
        return NCSNv2(block_out_channels=(8, 8, 16, 16), **arguments).eval()
    return {"NCSNpp": NCSNpp, "DDPMpp": DDPMpp}[name](**{**SMALL, **arguments}).eval()


@pytest.fixture(params=["NCSNpp", "DDPMpp", "NCSNv2"])
def model(request: pytest.FixtureRequest) -> Any:
    """One network of each class."""
    return make(request.param)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and noise levels (or times)."""
    return torch.rand(3, 3, 32, 32), torch.tensor([0.05, 1.0, 30.0])


def public(config: Any) -> dict[str, Any]:
    """The arguments in a configuration, tuples and lists alike."""
    return {key: list(item) if isinstance(item, tuple) else item for key, item in config.items() if key[0] != "_"}


def test_save_and_load(model: Any, batch: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again(*batch).sample, model(*batch).sample)
    assert public(again.config) == public(model.config)
    assert not again.training


def test_save_and_load_half_precision_variant(model: Any, batch: Any, tmp_path: Path) -> None:
    model.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "diffusion_pytorch_model.fp16.safetensors").is_file()
    again = type(model).from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert again.dtype == torch.float16


def test_from_config_keeps_every_argument(model: Any, batch: Any) -> None:
    again = type(model).from_config(model.config).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(*batch).sample, model(*batch).sample)


def test_tuple_equals_output(model: Any, batch: Any) -> None:
    (alone,) = model(*batch, return_dict=False)
    assert torch.equal(alone, model(*batch).sample)


def test_an_image_does_not_depend_on_its_batch(model: Any, batch: Any) -> None:
    images, times = batch
    together = model(images, times).sample
    for i in range(3):
        alone = model(images[i : i + 1], times[i : i + 1]).sample
        assert (alone - together[i : i + 1]).abs().max() < 1e-5 * alone.abs().max()


@pytest.mark.parametrize("name", ["NCSNpp", "DDPMpp", "NCSNv2"])
def test_timesteps_of_every_kind(name: str) -> None:
    network, images = make(name), torch.rand(2, 3, 32, 32)
    expected = network(images, torch.tensor([0.25, 0.25])).sample
    for time in (0.25, torch.tensor(0.25), torch.tensor([0.25]), torch.tensor(0.25, dtype=torch.float64)):
        assert torch.equal(network(images, time).sample, expected)
    whole = network(images, torch.tensor([7, 7])).sample
    for step in (7, torch.tensor(7), torch.tensor([7])):
        assert torch.equal(network(images, step).sample, whole)


@pytest.mark.parametrize("name", ["NCSNpp", "DDPMpp", "NCSNv2"])
def test_gradient_checkpointing_changes_nothing(name: str, batch: Any) -> None:
    plain, saving = make(name).train(), make(name).train()
    saving.enable_gradient_checkpointing()
    assert saving.is_gradient_checkpointing
    for network in (plain, saving):
        network(*batch).sample.square().mean().backward()
    for one, other in zip(plain.parameters(), saving.parameters()):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("name", ["NCSNpp", "DDPMpp", "NCSNv2"])
def test_half_precision_weights(name: str, batch: Any) -> None:
    exact = make(name)(*batch).sample
    network = make(name).to(torch.bfloat16)
    output = network(batch[0].to(torch.bfloat16), batch[1]).sample
    assert output.dtype == torch.bfloat16
    assert (output.float() - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()
    if name == "NCSNpp":
        assert torch.equal(network.time_proj.weight, make(name).time_proj.weight)


def test_no_graph_breaks(model: Any, batch: Any) -> None:
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(*batch).sample, model(*batch).sample)


def test_memory_format_of_the_input_is_kept(model: Any, batch: Any) -> None:
    images, times = batch
    last, usual = (
        model(images.contiguous(memory_format=torch.channels_last), times).sample,
        model(images, times).sample,
    )
    assert usual.is_contiguous()
    assert (last - usual).abs().max() < 1e-5 * usual.abs().max()


def test_fresh_networks_are_as_good_as_silent() -> None:
    """With init_scale 0 the last convolution has variance 1e-10 (times 1 / fan), so the output is below 1e-4."""
    network = NCSNpp(block_out_channels=(8, 16), layers_per_block=1, scale_by_sigma=False)
    assert 0 < network(torch.rand(2, 3, 32, 32), 1.0).sample.abs().max() < 1e-4


def test_initial_variances() -> None:
    """Uniform with variance 1 / ((fan_in + fan_out) / 2); a third of the merged projection counts as a layer of its own."""
    network = NCSNpp(block_out_channels=(64, 128), layers_per_block=1)
    block, attention = network.down_blocks[1].resnets[0], network.down_blocks[1].attentions[0]
    assert block.conv1.weight.var().item() == pytest.approx(1 / (9 * 96), rel=0.05)
    assert attention.to_qkv.weight.var().item() == pytest.approx(0.1 / 128, rel=0.05)
    assert block.conv1.bias.abs().max() == 0


def test_classes_and_the_label_for_none() -> None:
    network = make("NCSNpp", num_class_embeds=10)
    images, times = torch.rand(2, 3, 32, 32), torch.tensor([0.5, 0.5])
    none = network(images, times).sample
    assert torch.equal(network(images, times, torch.tensor([10, 10])).sample, none)
    one = network(images, times, torch.tensor([3, 7])).sample
    assert not torch.allclose(one, none)
    network.class_embedding.weight.data.zero_()
    plain = make("NCSNpp")
    plain.load_state_dict({key: value for key, value in network.state_dict().items() if "class" not in key})
    torch.testing.assert_close(network(images, times, torch.tensor([3, 7])).sample, plain(images, times).sample)


def test_noise_level_table() -> None:
    """Index i of N stands for sigma_max (sigma_min / sigma_max)^(i / (N - 1))."""
    config = {"sigma_max": 50.0, "sigma_min": 0.01, "num_train_timesteps": 1000}
    index = torch.arange(1000)
    levels = sigma_of_index(config, index, torch.float64)
    torch.testing.assert_close(levels, 50 * (0.01 / 50) ** (index.double() / 999), rtol=1e-12, atol=0)
    assert torch.equal(index_of_sigma(config, levels.float()), index)
    assert index_of_sigma(config, torch.tensor([1e3, 1e-3])).tolist() == [0, 999]


def dense_fir(x: torch.Tensor, kernel: list[float], up: int, down: int) -> torch.Tensor:
    """Zero-stuff, pad as StyleGAN2 does, convolve, keep every `down`-th: the definition, by one-dimensional loops."""
    taps = torch.tensor(kernel, dtype=x.dtype) / sum(kernel) * up
    length, extra = len(kernel), len(kernel) - 2
    front, back = ((extra + 1) // 2 + up - 1, extra // 2) if up == 2 else ((extra + 1) // 2, extra // 2)
    for dim in (2, 3):
        x = x.movedim(dim, -1)
        stuffed = torch.zeros(*x.shape[:-1], up * x.shape[-1], dtype=x.dtype)
        stuffed[..., ::up] = x
        padded = F.pad(stuffed, (front, back))
        size = padded.shape[-1] - length + 1
        x = sum(padded[..., j : j + size] * taps[length - 1 - j] for j in range(length))[..., ::down].movedim(-1, dim)
    return x


@pytest.mark.parametrize(
    "kernel", [[1, 3, 3, 1], [1, 1], [1, 2, 1], [1, 2, 3, 4], [1, 4, 6, 4, 1], [1, 2, 5, 7, 2, 1]]
)
def test_fir_against_its_definition(kernel: list[float]) -> None:
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    fir = FIRFilter(kernel).double()
    tolerance = {"rtol": 1e-6, "atol": 1e-6}  # the taps are float32
    torch.testing.assert_close(fir.down(x), dense_fir(x, kernel, 1, 2), **tolerance)
    torch.testing.assert_close(fir.up(x), dense_fir(x, kernel, 2, 1), **tolerance)


def test_filters_keep_a_constant() -> None:
    flat = torch.full((1, 2, 8, 8), 3.0)
    for filter in (FIRFilter([1, 3, 3, 1]), BoxFilter()):
        assert torch.equal(filter.down(flat)[..., 1:-1, 1:-1], torch.full((1, 2, 2, 2), 3.0))
        assert torch.equal(filter.up(flat)[..., 2:-2, 2:-2], torch.full((1, 2, 12, 12), 3.0))


@pytest.mark.parametrize("size", [(16, 16), (24, 12), (8, 8)])
def test_convolution_after_nearest_neighbour_in_fewer_products(size: tuple[int, int]) -> None:
    layer = make_convolution(3, 5, 3).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    found, expected = up_conv(BoxFilter(), x, layer), layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    probe = torch.randn_like(expected)
    inputs = (x, layer.weight, layer.bias)
    gradients = zip(torch.autograd.grad(found, inputs, probe), torch.autograd.grad(expected, inputs, probe))
    for one, other in gradients:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class DoubledConv(torch.nn.Conv2d):
    """Stands for an adapter that took a convolution's place: twice its output."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize("fir", [False, True])
def test_upsampling_blocks_call_a_convolution_that_somebody_replaced(fir: bool) -> None:
    model = make("DDPMpp", fir=fir)
    x, time = torch.randn(1, 3, 32, 32), torch.tensor([1.0])
    block = model.up_blocks[0].upsampler
    for name in ("conv1", "conv_shortcut", "conv2"):
        plain = getattr(block, name)
        with torch.no_grad():
            before = model(x, time).sample
            adapter = DoubledConv(plain.in_channels, plain.out_channels, plain.kernel_size, padding=plain.padding)
            adapter.load_state_dict({key: value / 2 for key, value in plain.state_dict().items()})
            setattr(block, name, adapter)
            after = model(x, time).sample
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_fir_upsampling_convolution_is_a_convolution_between_stuffing_and_filter() -> None:
    layer = Upsample(FIRFilter([1, 3, 3, 1]), 2, 4, True).double()
    layer.conv.bias.data.normal_()
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    stuffed = torch.zeros(1, 2, 12, 12, dtype=torch.float64)
    stuffed[..., ::2, ::2] = x
    # Without padding anywhere: away from the border, filter and convolution commute.
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 4
    kernel = torch.outer(taps, taps).expand(2, 1, 4, 4)
    expected = F.conv2d(F.conv2d(stuffed, kernel, groups=2), layer.conv.weight, layer.conv.bias)
    torch.testing.assert_close(layer(x)[..., 3:-2, 3:-2], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_embedding_type": "random"}, "time_embedding_type must be one of .* got 'random'"),
        ({"resnet_type": "vgg"}, "resnet_type must be one of"),
        ({"output_pyramid": "giza"}, "output_pyramid must be one of"),
        ({"act_fn": "tanh"}, "act_fn must be one of"),
        ({"norm_num_groups": 3}, "norm_num_groups must divide the channels of every layer, got 3 for 8"),
        ({"layers_per_block": 0}, "layers_per_block must be an integer of at least 1, got 0"),
        ({"block_out_channels": (8, -16)}, "block_out_channels must be a list of positive integers"),
        ({"block_out_channels": (8.0, 16)}, "block_out_channels must be a list of positive integers"),
        ({"block_out_channels": ()}, "block_out_channels must have at least one entry"),
        ({"attention_resolutions": 16}, "attention_resolutions must be a list of positive integers, got 16"),
        (
            {"attention_head_dim": 3, "attention_resolutions": (32,)},
            "attention_head_dim must divide the channels at every attention, got 3 for 8",
        ),
        ({"attention_head_dim": True}, "attention_head_dim must be an integer of at least 1, got True"),
        ({"num_class_embeds": -1}, "num_class_embeds must be an integer of at least 1, got -1"),
        ({"sample_size": (8, 16, 3)}, "sample_size must be a positive integer or a pair"),
        ({"dropout": 1.0}, r"dropout must be a finite number in \[0, 1\), got 1.0"),
        ({"dropout": float("nan")}, r"dropout must be a finite number in \[0, 1\), got nan"),
        ({"norm_eps": float("nan")}, r"norm_eps must be a finite number in \[1e-30, 1e\+09\], got nan"),
        ({"norm_eps": 1e-320}, r"norm_eps must be a finite number in \[1e-30, 1e\+09\], got"),
        (
            {"sample_size": (4, 6), "block_out_channels": (8, 8, 8)},
            r"sample_size must be divisible by 4 .* got \(4, 6\)",
        ),
        ({"norm_eps": 0}, r"norm_eps must be a finite number in \[1e-30, 1e\+09\], got 0"),
        ({"init_scale": -1.0}, r"init_scale must be a finite number in \[0, 1e\+09\], got -1.0"),
        ({"sigma_max": float("inf")}, r"sigma_max must be a finite number in \[1e-20, 1e\+09\], got inf"),
        ({"sigma_max": 0.001}, "sigma_max must be greater than sigma_min, got 0.001 and 0.01"),
        ({"num_train_timesteps": 1}, "num_train_timesteps must be an integer of at least 2, got 1"),
        ({"fir": "no"}, "fir must be True or False, got 'no'"),
        ({"fir_kernel": (1, -1)}, "fir_kernel must be at least 2 numbers"),
        ({"discrete_sigmas": True}, "discrete_sigmas must be False unless .* got True and 'fourier'"),
    ],
)
def test_bad_options_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NCSNpp(**{**SMALL, **arguments})


def test_bad_inputs_are_named(model: Any) -> None:
    with pytest.raises(ValueError, match=r"sample must have shape \(B, 3, H, W\).* got \(2, 1, 32, 32\)"):
        model(torch.rand(2, 1, 32, 32), 1.0)
    with pytest.raises(
        ValueError, match=r"timestep must be a number or have shape \(\), \(1,\) or \(2,\), got \(3,\)"
    ):
        model(torch.rand(2, 3, 32, 32), torch.ones(3))
    with pytest.raises(ValueError, match=r"class_labels must be None .* got Tensor"):
        model(torch.rand(2, 3, 32, 32), 1.0, torch.tensor([0, 1]))
    if not isinstance(model, NCSNv2):
        with pytest.raises(ValueError, match=r"divisible by 2, got \(2, 3, 31, 32\)"):
            model(torch.rand(2, 3, 31, 32), 1.0)
