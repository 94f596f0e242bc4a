"""Every published configuration at full size on the meta device: parameter counts, key maps, and the table of presets."""

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde_pipelines.models.ncsnpp import NCSNpp
from scoresde_pipelines.models.official.config import preset_from_official_config
from scoresde_pipelines.models.official.inference import infer_architecture, infer_preset
from scoresde_pipelines.models.official.keys import official_tensors
from scoresde_pipelines.models.official.presets import MODELS, PRESETS, Preset, preset


# Millions of parameters as published, and the start of the sha256 of the official network's list of [key, shape],
# recorded by building it. (The official code cannot build NCSNv2, nor the unconditional DDPM.)
DDPM, DDPMPP, DDPMPP_DEEP = (
    ("35.22", "c4ee9b0ffba966af"),
    ("61.80", "2fa04e55ad686151"),
    ("106.63", "c6358eac4d13260e"),
)
NCSNPP, NCSNPP_DEEP = ("62.69", "2f8e2512ad2bd63a"), ("107.52", "c5b5fd94e3853193")
NCSNPP_256, NCSNPP_1024 = ("65.57", "c92337e266822fb2"), ("105.79", "9a46ed5b411526cb")
DDPM_256 = ("111.57", "42a79e8dbf864c0e")
OFFICIAL = {
    "ve/cifar10_ncsnpp_continuous": ("62.76", "4715570828c759f7"),
    "ve/cifar10_ncsnpp_deep_continuous": ("107.59", "2509e99bc5a522d1"),
    "ve/cifar10_ncsnpp": NCSNPP,
    "ve/celeba_ncsnpp": ("62.69", "d79db25d7911f434"),
    "ve/cifar10_ddpm": DDPM,
    "ve/bedroom_ncsnpp_continuous": NCSNPP_256,
    "ve/church_ncsnpp_continuous": NCSNPP_256,
    "ve/ffhq_256_ncsnpp_continuous": NCSNPP_256,
    "ve/celebahq_256_ncsnpp_continuous": NCSNPP_256,
    "ve/ffhq_ncsnpp_continuous": NCSNPP_1024,
    "ve/celebahq_ncsnpp_continuous": NCSNPP_1024,
    "vp/cifar10_ddpmpp": DDPMPP,
    "vp/cifar10_ddpmpp_continuous": DDPMPP,
    "vp/cifar10_ddpmpp_deep_continuous": DDPMPP_DEEP,
    "vp/cifar10_ncsnpp": NCSNPP,
    "vp/cifar10_ncsnpp_continuous": NCSNPP,
    "vp/cifar10_ncsnpp_deep_continuous": NCSNPP_DEEP,
    "vp/ddpm/cifar10": DDPM,
    "vp/ddpm/cifar10_continuous": DDPM,
    "vp/ddpm/bedroom": DDPM_256,
    "vp/ddpm/church": DDPM_256,
    "vp/ddpm/celebahq": DDPM_256,
    "subvp/cifar10_ddpmpp_continuous": DDPMPP,
    "subvp/cifar10_ddpmpp_deep_continuous": DDPMPP_DEEP,
    "subvp/cifar10_ncsnpp_continuous": NCSNPP,
    "subvp/cifar10_ncsnpp_deep_continuous": NCSNPP_DEEP,
    "subvp/cifar10_ddpm_continuous": DDPM,
}
NOT_BUILDABLE = {"vp/ddpm/cifar10_unconditional", "ve/ncsnv2/cifar10", "ve/ncsnv2/celeba", "ve/ncsnv2/bedroom"}


def test_the_table_is_complete() -> None:
    assert set(PRESETS) == set(OFFICIAL) | NOT_BUILDABLE


@pytest.mark.parametrize("name", OFFICIAL)
def test_count_and_key_map(name: str) -> None:
    millions, digest = OFFICIAL[name]
    with torch.device("meta"):
        model = PRESETS[name].make_model()
    assert all(parameter.is_meta for parameter in model.parameters())
    tensors = [[tensor.key, list(tensor.shape)] for tensor in official_tensors(model)]
    assert f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f}" == millions
    assert hashlib.sha256(json.dumps(tensors).encode()).hexdigest()[:16] == digest


def test_ncsnv2_key_map_grows_with_its_stages() -> None:
    """Stage names of the 128 px and 256 px networks; the 32 px one is in the golden figures."""
    for name, stages in (("ve/ncsnv2/celeba", "1 2 3 4"), ("ve/ncsnv2/bedroom", "1 2 3 4 5")):
        with torch.device("meta"):
            keys = [tensor.key for tensor in official_tensors(PRESETS[name].make_model())]
        assert len(keys) == len(set(keys))
        for kind in ("res", "refine"):
            found = dict.fromkeys(key.partition(".")[0] for key in keys if key.startswith(kind))
            assert list(found) == [kind + stage for stage in stages.split()]


def test_every_preset_has_its_scheduler() -> None:
    for name, item in PRESETS.items():
        scheduler = item.make_scheduler()
        assert (
            type(scheduler).__name__ == {"ve": "VE", "vp": "VP", "subvp": "SubVP"}[name.split("/")[0]] + "SDEScheduler"
        )
        assert item.training["ema_decay"] in (0.999, 0.9999)
    assert PRESETS["ve/church_ncsnpp_continuous"].make_scheduler().config.sigma_max == 380.0
    assert PRESETS["vp/cifar10_ddpmpp_continuous"].make_scheduler().config.continuous
    assert not PRESETS["vp/cifar10_ddpmpp"].make_scheduler().config.continuous


def test_presets_equal_official_configurations(shared_dir: Path) -> None:
    """The recorded configurations are published ones made smaller (one with another junction): the rest is its preset."""
    small = ("block_out_channels", "layers_per_block", "sample_size", "pyramid_combine")
    for path in sorted((shared_dir / "golden" / "models").glob("*.json")):
        info = json.loads(path.read_text())
        name = info["source_config"].removeprefix("configs/").removesuffix(".py")
        ours, theirs = PRESETS[name], preset_from_official_config(info["config"])
        assert (ours.model_class, ours.scheduler_class) == (theirs.model_class, theirs.scheduler_class)
        expected = {key: value for key, value in ours.arguments().items() if key not in small}
        assert {key: value for key, value in theirs.arguments().items() if key not in small} == expected
        one, other = ours.make_scheduler().config, theirs.make_scheduler().config
        assert {key: one[key] for key in one if key[0] != "_"} == {key: other[key] for key in other if key[0] != "_"}


def inferred(name: str, path: str, **changes: Any) -> tuple[Preset, list[str]]:
    """What is read off the tensors of a preset's network (on the meta device), and what is warned of."""
    preset_ = PRESETS[name]
    with torch.device("meta"):
        model = MODELS[preset_.model_class](**{**preset_.model, **changes})
        state = {tensor.key: torch.empty(tensor.shape) for tensor in official_tensors(model)}
    config = model.config
    high, low = math.log(config.sigma_max), math.log(config.sigma_min)
    state["sigmas"] = torch.linspace(high, low, config.num_train_timesteps, dtype=torch.float64).exp()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = infer_preset(state, Path(path), preset_.training["ema_decay"])
    return found, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_recognised(name: str) -> None:
    """By its tensors and the decay of its average where they tell; by its folder always, without a warning."""
    expected = PRESETS[name]
    found, messages = inferred(name, f"downloads/{name}/checkpoint_8.pth")
    assert messages == []
    assert found.arguments() == expected.arguments()
    assert (found.scheduler_class, found.scheduler) == (expected.scheduler_class, expected.scheduler)
    found, messages = inferred(name, "checkpoint_8.pth")
    if found.scheduler != expected.scheduler or found.arguments() != expected.arguments():
        assert len(messages) == 1 and repr(name) in messages[0]
    if name.startswith("ve/"):
        assert messages == []


@pytest.mark.parametrize("fir", [False, True])
@pytest.mark.parametrize("output", ["none", "output_skip", "residual"])
@pytest.mark.parametrize("pyramid", ["none", "input_skip", "residual"])
@pytest.mark.parametrize("blocks", ["biggan", "ddpm"])
def test_option_mixes_are_read_off_the_tensors(blocks: str, pyramid: str, output: str, fir: bool) -> None:
    for levels in ((32, 64), (64, 32, 32)):
        told = {"resnet_type": blocks, "input_pyramid": pyramid, "output_pyramid": output, "fir": fir}
        arguments = told | {"block_out_channels": levels, "layers_per_block": 1, "base_channels": 32}
        with torch.device("meta"):
            tensors = official_tensors(NCSNpp(**arguments, pyramid_combine="cat", norm_num_groups=None))
        family, found = infer_architecture({tensor.key: torch.empty(tensor.shape) for tensor in tensors})
        if blocks == "biggan" and pyramid != "residual" and output != "residual":
            del told["fir"]  # it leaves no trace
        assert family == "NCSNpp"
        assert {key: found[key] for key in told} == told
        assert found["block_out_channels"] == levels and found["layers_per_block"] == 1
        assert found["base_channels"] == (None if levels[0] == 32 else 32)
        assert found["pyramid_combine"] == ("cat" if pyramid == "input_skip" else "sum")


def test_unknown_names_and_bad_configurations_are_named() -> None:
    with pytest.raises(ValueError, match=r"name must be one of .*ve/cifar10_ncsnpp_continuous.*got 'cifar'"):
        preset("cifar")
    with pytest.raises(ValueError, match="lacks the section 'data'"):
        preset_from_official_config({})
    sections = {"data": {"image_size": 32}, "model": {"name": "ncsnpp"}, "training": {"sde": "vpsde"}}
    with pytest.raises(ValueError, match=r"config\['model'\] lacks 'nf'"):
        preset_from_official_config(sections)
    with pytest.raises(ValueError, match=r"config\['training'\]\['sde'\] must be one of .*got 'ddim'"):
        preset_from_official_config(sections | {"training": {"sde": "ddim"}})


def test_the_old_module_of_presets_warns() -> None:
    from scoresde_pipelines.models import presets

    with pytest.warns(FutureWarning, match=r"import PRESETS from scoresde_pipelines\.models\.official"):
        assert presets.PRESETS is PRESETS
