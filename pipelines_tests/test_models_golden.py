"""Our networks against the figures recorded from the official code: outputs, input gradients, names, parameter counts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from official_names import official_layout, to_official
from safetensors.torch import load_file

from scoresde_pipelines.models.official.config import preset_from_official_config
from scoresde_pipelines.models.official.inference import infer_preset
from scoresde_pipelines.models.official.keys import from_official, official_tensors


NAMES = (
    "a_ve_ncsnpp_continuous",
    "b_ve_ncsnpp_celebahq256_like",
    "b2_ve_ncsnpp_ffhq1024_like",
    "c_ve_ncsnpp_discrete",
    "d_vp_ddpmpp_continuous",
    "e_vp_ncsnpp_continuous",
    "f_subvp_ddpmpp_continuous",
    "g_vp_ddpm_cifar10",
    "h_ve_ncsnv2_cifar10",
    "x2_ncsnpp_cat",
)


class Golden:
    """One recorded network: its description, its tensors, and ours with its weights."""

    def __init__(self, folder: Path, name: str) -> None:
        self.info: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.tensors = load_file(folder / f"{name}.safetensors")
        self.state = {key[3:]: value.float() for key, value in self.tensors.items() if key.startswith("sd.")}
        self.preset = preset_from_official_config(self.info["config"])
        self.model = self.preset.make_model().eval()
        self.model.load_state_dict(from_official(self.model, self.state))

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest, shared_dir: Path) -> Golden:
    """Each recorded network in turn."""
    return Golden(shared_dir / "golden" / "models", request.param)


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest deviation over the largest entry."""
    return ((value.double() - reference.double()).abs().max() / reference.double().abs().max()).item()


def test_output_and_input_gradient(golden: Golden) -> None:
    x = golden["x"].clone().requires_grad_()
    output = golden.model(x, golden["time_cond"]).sample
    (gradient,) = torch.autograd.grad((output * golden["cotangent"]).sum(), x)
    assert output.dtype == torch.float32
    assert relative(output, golden["output"]) < 1e-5
    assert relative(gradient, golden["grad_x"]) < 2e-5


def test_output_in_double_precision(golden: Golden) -> None:
    time = golden["time_cond"]
    golden.model.double()
    with torch.no_grad():
        output = golden.model(golden["x"].double(), time.double() if time.is_floating_point() else time).sample
    golden.model.float()
    assert relative(output, golden["output_f64"]) < 1e-12


def test_parameter_gradients(golden: Golden) -> None:
    golden.model.zero_grad()
    (golden.model(golden["x"], golden["time_cond"]).sample * golden["cotangent"]).sum().backward()
    parameters = dict(golden.model.named_parameters())
    norms = golden.info["param_grad_norms"]
    largest = max(norms.values())
    for tensor in official_tensors(golden.model):
        gradient = parameters[tensor.name].grad
        assert (gradient is None) == (tensor.key in golden.info["params_without_grad"])
        if gradient is not None:
            assert official_layout(tensor, gradient).norm().item() == pytest.approx(
                norms[tensor.key], rel=1e-3, abs=1e-6 * largest
            )


def test_key_map_is_complete_and_ordered(golden: Golden) -> None:
    expected = [(key, tuple(shape)) for key, shape, _ in golden.info["state_dict_keys"] if key != "sigmas"]
    assert [(tensor.key, tensor.shape) for tensor in official_tensors(golden.model)] == expected
    untrained = [tensor.key for tensor in official_tensors(golden.model) if not tensor.trained]
    assert untrained == golden.info["params_without_grad"]
    assert sum(p.numel() for p in golden.model.parameters()) == golden.info["num_parameters"]


def test_round_trip_to_official_names(golden: Golden) -> None:
    back = to_official(golden.model)
    assert list(back) == [key for key, *_ in golden.info["state_dict_keys"] if key != "sigmas"]
    assert all(torch.equal(back[key], value) for key, value in golden.state.items())


@pytest.mark.filterwarnings("ignore:these tensors fit")
def test_architecture_is_read_off_the_tensors(golden: Golden) -> None:
    config = golden.info["config"]
    found = infer_preset(golden.state, Path("checkpoint_1.pth")).arguments()
    expected = golden.preset.arguments()
    names = set(expected) - {"sigma_min", "sigma_max", "num_train_timesteps", "dropout"}
    if config["training"]["sde"] == "vpsde" and found["input_pyramid"] == "residual":
        # The tensors of a positional NCSN++ do not tell its SDE, and VE is the guess.
        names -= {"center_input_sample", "scale_by_sigma", "discrete_sigmas"}
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}


def test_a_discrete_network_understands_sigma(shared_dir: Path) -> None:
    """A float timestep is a noise level, an integer its place in the table: at the table's levels they agree."""
    golden = Golden(shared_dir / "golden" / "models", "c_ve_ncsnpp_discrete")
    index = golden["time_cond"]
    sigma = torch.tensor(50.0).log() + index / 999 * torch.tensor(0.01 / 50.0).log()
    with torch.no_grad():
        output = golden.model(golden["x"], sigma.exp()).sample
    assert golden.preset.model["discrete_sigmas"]
    assert relative(output, golden["output"]) < 1e-5


# Relative rms error under CPU bf16 autocast, measured on the official code with these weights and inputs.
OFFICIAL_BF16 = {
    "a_ve_ncsnpp_continuous": 1.87e-2,
    "b_ve_ncsnpp_celebahq256_like": 2.16e-2,
    "c_ve_ncsnpp_discrete": 1.67e-2,
    "d_vp_ddpmpp_continuous": 1.79e-2,
    "g_vp_ddpm_cifar10": 1.27e-2,
}


def test_bf16_autocast_is_no_further_than_official(shared_dir: Path) -> None:
    ratios = []
    for name, official in OFFICIAL_BF16.items():
        golden = Golden(shared_dir / "golden" / "models", name)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            output = golden.model(golden["x"], golden["time_cond"]).sample
        assert output.dtype == torch.float32
        error = (output - golden["output"]).square().mean().sqrt() / golden["output"].square().mean().sqrt()
        ratios.append(error.item() / official)
    assert max(ratios) < 1.15  # one input: rounding errors are random
    assert sum(ratios) / len(ratios) < 1.0
