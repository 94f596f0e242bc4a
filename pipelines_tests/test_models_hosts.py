"""What diffusers, accelerate and PyTorch do with a network: offloading, casting, export, tracing, loading."""

import copy
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from safetensors.torch import load as read_tensors
from safetensors.torch import save_file

from scoresde_pipelines.models import DDPMpp, FeatureClassifier, NCSNpp, NCSNv2, NoiseConditionalClassifier
from scoresde_pipelines.models.official import PRESETS


WIDTHS: dict[str, Any] = {"block_out_channels": (16, 32), "layers_per_block": 1, "init_scale": 1.0}
NETWORKS: dict[str, Any] = {
    "NCSNpp": lambda: NCSNpp(**WIDTHS),
    "NCSNpp skip": lambda: NCSNpp(**WIDTHS, input_pyramid="input_skip", output_pyramid="output_skip"),
    "NCSNpp residual": lambda: NCSNpp(**WIDTHS, output_pyramid="residual", num_class_embeds=3),
    "DDPMpp": lambda: DDPMpp(**WIDTHS),
    "DDPM": lambda: DDPMpp(**WIDTHS, resnet_type="ddpm", skip_rescale=False),
    "NCSNv2": lambda: NCSNv2(block_out_channels=(24, 24, 32, 32)),
}
CPU = torch.device("cpu")


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval().requires_grad_(False)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(3, 3, 32, 32), torch.tensor([0.1, 1.0, 5.0])


def deviation(value: torch.Tensor, expected: torch.Tensor) -> float:
    value, expected = value.detach(), expected.detach()
    return float((value - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    "options", [{"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}]
)
@pytest.mark.skipif(
    diffusers.__version__.startswith("0.35.") and torch.accelerator.current_accelerator() is None,
    reason="group offload of diffusers 0.35 needs an accelerator",
)
def test_group_offload(network: Any, batch: Any, options: dict[str, Any]) -> None:
    expected = network(*batch).sample
    network.enable_group_offload(onload_device=CPU, offload_device=CPU, **options)
    assert deviation(network(*batch).sample, expected) < 1e-5


def test_weights_partly_on_disk(network: Any, batch: Any, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path / "network")
    names = [name for name, _ in network.named_children()]
    places = {name: "disk" if index % 2 else "cpu" for index, name in enumerate(names)}
    spread = type(network).from_pretrained(
        tmp_path / "network", device_map=places, offload_folder=str(tmp_path / "offload")
    )
    assert any(parameter.is_meta for parameter in spread.parameters())
    assert deviation(spread(*batch).sample, network(*batch).sample) < 1e-5


def test_hooks_of_accelerate(network: Any, batch: Any) -> None:
    expected = network(*batch).sample
    whole = dispatch_model(copy.deepcopy(network), device_map={"": "cpu"}, force_hooks=True)
    places = {name: "cpu" for name, _ in network.named_children()}
    parts = dispatch_model(copy.deepcopy(network), device_map=places, main_device="cpu", force_hooks=True)
    offloaded = cpu_offload(copy.deepcopy(network), execution_device=CPU)
    for hooked in (whole, parts, offloaded):
        assert deviation(hooked(*batch).sample, expected) < 1e-5


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_layerwise_casting(network: Any, batch: Any, storage: torch.dtype) -> None:
    """Weights stored in a narrow format and computed with in float32: the network of the rounded weights."""
    rounded = copy.deepcopy(network)
    network.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    stored = {name for name, value in network.named_parameters() if value.dtype == storage}
    assert len(stored) > len(list(network.parameters())) / 3
    for name, parameter in rounded.named_parameters():
        if name in stored:
            parameter.data = parameter.data.to(storage).float()
    output = network(*batch).sample
    assert output.dtype == torch.float32
    assert deviation(output, rounded(*batch).sample) < 1e-5


class Outputs(torch.nn.Module):
    """The network as a function of tensors alone."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.network(x, t, return_dict=False)[0]


def other_batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 3, 32, 32), torch.rand(count) + 0.1


@pytest.mark.parametrize("network", ["NCSNpp", "DDPM"], indirect=True)
def test_export_with_any_batch_size(network: Any, batch: Any) -> None:
    size = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(Outputs(network), batch, dynamic_shapes={"x": {0: size}, "t": {0: size}}).module()
    for count in (2, 7):
        inputs = other_batch(count)
        assert deviation(exported(*inputs), network(*inputs).sample) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_a_trace_serves_other_batch_sizes(network: Any, batch: Any) -> None:
    traced = torch.jit.trace(Outputs(network), batch)  # its own check traces again without gradients
    for count in (1, 2, 7):
        inputs = other_batch(count)
        assert deviation(traced(*inputs), network(*inputs).sample) < 1e-5


ALL = {**NETWORKS, "classifier": lambda: NoiseConditionalClassifier(depth=10, width=1), "features": FeatureClassifier}


@pytest.mark.parametrize("name", ALL)
def test_a_folder_that_lacks_a_tensor_is_refused(name: str, tmp_path: Path) -> None:
    made = ALL[name]()
    made.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = read_tensors(file.read_bytes())  # `load_file` would map the file that is written next
    lost = sorted(state)[len(state) // 2]
    del state[lost]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"must hold every tensor of {type(made).__name__}, got none for \['{lost}'\]"
    ):
        type(made).from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="pretrained_model_name_or_path must be a name or a path, got list"):
        type(made).from_pretrained([tmp_path])


def test_loading_information_is_still_to_be_had(tmp_path: Path) -> None:
    NETWORKS["DDPMpp"]().save_pretrained(tmp_path)
    network, info = DDPMpp.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(network, DDPMpp) and list(info["missing_keys"]) == []


def test_default_dropout_is_none_and_that_of_presets_is_published(tmp_path: Path) -> None:
    assert NCSNpp(**WIDTHS).config.dropout == DDPMpp(**WIDTHS).config.dropout == 0.0
    assert PRESETS["ve/cifar10_ncsnpp_deep_continuous"].arguments()["dropout"] == 0.1
    assert (
        PRESETS["vp/ddpm/church"].arguments()["dropout"]
        == PRESETS["ve/church_ncsnpp_continuous"].arguments()["dropout"]
        == 0
    )
    DDPMpp(**WIDTHS, dropout=0.1).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dropout"] == 0.1
    assert DDPMpp.from_pretrained(tmp_path).down_blocks[0].resnets[0].dropout.p == 0.1


@pytest.mark.parametrize("kind", [NCSNpp, DDPMpp])
def test_images_need_not_be_square(kind: Any, tmp_path: Path) -> None:
    """`attention_resolutions` are widths of levels; a transposed image is another input and runs as well."""
    network = kind(**WIDTHS, sample_size=(8, 16), attention_resolutions=(8,)).eval().requires_grad_(False)
    assert [len(block.attentions) for block in network.down_blocks] == [0, 1]
    assert [len(block.attentions) for block in network.up_blocks] == [1, 0]
    x, t = torch.rand(2, 3, 8, 16), torch.tensor([0.5, 2.0])
    output = network(x, t).sample
    assert output.shape == x.shape
    network.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path).requires_grad_(False)
    assert tuple(again.config.sample_size) == (8, 16) and torch.equal(again(x, t).sample, output)
    # Mirrored filters on a transposed image give the transposed output.
    mirrored = copy.deepcopy(network)
    mirrored.load_state_dict({k: v.transpose(2, 3) if v.ndim == 4 else v for k, v in network.state_dict().items()})
    assert deviation(mirrored(x.transpose(2, 3).contiguous(), t).sample.transpose(2, 3), output) < 1e-5
