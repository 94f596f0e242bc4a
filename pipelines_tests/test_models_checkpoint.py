"""Reading official checkpoints: what is read, what is refused, and what the errors say."""

import copy
import json
import os
import pickle
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_names import to_official

from scoresde_pipelines.models import DDPMpp, NCSNpp
from scoresde_pipelines.models.official.checkpoint import load_official_checkpoint
from scoresde_pipelines.models.official.keys import official_tensors


CONFIG: dict[str, Any] = {
    "data": {"image_size": 32, "num_channels": 3, "centered": False},
    "model": {
        "name": "ncsnpp", "nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (16,), "dropout": 0.1,
        "resamp_with_conv": True, "conditional": True, "scale_by_sigma": True, "num_scales": 1000,
        "embedding_type": "fourier", "resblock_type": "biggan", "fir": True, "progressive_input": "residual",
        "progressive": "none", "progressive_combine": "sum", "skip_rescale": True,
    },
    "training": {"sde": "vesde", "continuous": True},
}  # fmt: skip


def network(**arguments: Any) -> NCSNpp:
    """The network of `CONFIG`, with weights that are nowhere near zero."""
    torch.manual_seed(3)
    model = NCSNpp(block_out_channels=(8, 16), layers_per_block=1, init_scale=1.0, **arguments)
    return model.eval()


def official_file(model: NCSNpp) -> dict[str, Any]:
    """What the official code would have saved: averaged weights = `model`, last weights = twice those."""
    averaged = to_official(model)
    frozen = {tensor.key for tensor in official_tensors(model) if not tensor.trained}
    last = OrderedDict((f"module.{key}", value if key in frozen else 2 * value) for key, value in averaged.items())
    last["module.sigmas"] = torch.linspace(np.log(50), np.log(0.01), 1000, dtype=torch.float64).exp()
    shadow = [value for key, value in averaged.items() if key not in frozen]
    ema = {"decay": np.float64(0.999), "num_updates": np.int64(5), "shadow_params": shadow}
    return {"optimizer": {"state": {}, "param_groups": []}, "model": last, "ema": ema, "step": np.int64(5)}


def saved(folder: Path, content: Any, **options: Any) -> Path:
    """The content as a file."""
    path = folder / "checkpoint_1.pth"
    torch.save(content, path, **options)
    return path


@pytest.fixture
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch and its noise levels."""
    return torch.rand(2, 3, 32, 32), torch.tensor([0.3, 20.0])


@pytest.mark.parametrize("legacy", [False, True])
def test_averaged_weights_by_default(tmp_path: Path, sample: Any, legacy: bool) -> None:
    expected = network()
    path = saved(tmp_path, official_file(expected), _use_new_zipfile_serialization=not legacy)
    model, scheduler = load_official_checkpoint(path, CONFIG)
    assert torch.equal(model(*sample).sample, expected(*sample).sample)
    assert not model.training
    assert type(scheduler).__name__ == "VESDEScheduler"
    assert scheduler.config.sigma_max == 50.0


def test_last_weights_on_request(tmp_path: Path) -> None:
    expected = network()
    model, _ = load_official_checkpoint(saved(tmp_path, official_file(expected)), CONFIG, use_ema=False)
    state = expected.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name] if name == "time_proj.weight" else 2 * state[name])


def test_keys_and_not_positions_decide(tmp_path: Path, sample: Any) -> None:
    expected = network()
    content = official_file(expected)
    content["model"] = OrderedDict(reversed(content["model"].items()))
    model, _ = load_official_checkpoint(saved(tmp_path, content), CONFIG)
    assert torch.equal(model(*sample).sample, expected(*sample).sample)


def test_architecture_without_a_configuration(tmp_path: Path, sample: Any) -> None:
    expected = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, scheduler = load_official_checkpoint(saved(tmp_path, official_file(expected)))
    assert isinstance(model, NCSNpp)
    assert torch.equal(model(*sample).sample, expected(*sample).sample)
    assert (scheduler.config.sigma_min, scheduler.config.sigma_max) == (0.01, 50.0)


def test_positional_networks_are_told_apart_by_folder_or_with_a_warning(tmp_path: Path) -> None:
    torch.manual_seed(0)
    content = official_file(DDPMpp(block_out_channels=(8, 16), layers_per_block=1))
    with pytest.warns(UserWarning, match=r"taking 'vp/cifar10_ddpmpp_continuous'.*'subvp/cifar10_ddpmpp_continuous'"):
        _, scheduler = load_official_checkpoint(saved(tmp_path, content))
    assert type(scheduler).__name__ == "VPSDEScheduler"
    folder = tmp_path / "subvp" / "cifar10_ddpmpp_continuous"
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, scheduler = load_official_checkpoint(saved(folder, content))
    assert type(scheduler).__name__ == "SubVPSDEScheduler"
    assert model.config.block_out_channels == (8, 16)


def test_every_misfit_is_named(tmp_path: Path) -> None:
    content = official_file(network())
    del content["model"]["module.all_modules.3.bias"]
    content["model"]["module.all_modules.99.weight"] = torch.zeros(2)
    content["model"]["module.all_modules.1.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="3 tensors") as error:
        load_official_checkpoint(saved(tmp_path, content), CONFIG)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines == [
        "missing: all_modules.3.bias [8]",
        "extra: all_modules.99.weight [2]",
        "shape of all_modules.1.weight must be [32, 16], got [3, 3]",
    ]


def test_a_preset_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not fit the architecture"):
        load_official_checkpoint(saved(tmp_path, official_file(network())), "vp/ddpm/cifar10")


def test_misfits_of_the_average_are_named(tmp_path: Path) -> None:
    content = official_file(network())
    short = content["ema"] | {"shadow_params": content["ema"]["shadow_params"][:-1]}
    with pytest.raises(ValueError, match=r"ema.shadow_params has \d+ tensors, the architecture \d+ trained"):
        load_official_checkpoint(saved(tmp_path, content | {"ema": short}), CONFIG)
    shadow = list(content["ema"]["shadow_params"])
    shadow[0] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"shape of ema all_modules.1.weight must be \[32, 16\], got \[1\]"):
        load_official_checkpoint(saved(tmp_path, content | {"ema": {"shadow_params": shadow}}), CONFIG)
    del content["ema"]
    with pytest.raises(ValueError, match="pass use_ema=False"):
        load_official_checkpoint(saved(tmp_path, content), CONFIG)


class Hostile:
    """Runs a command when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("where", ["model", "step", "plain"])
def test_a_hostile_file_runs_nothing(tmp_path: Path, where: str) -> None:
    target = tmp_path / "executed"
    content = official_file(network()) | {where: Hostile(target)}
    path = tmp_path / "checkpoint_1.pth"
    if where == "plain":
        path.write_bytes(pickle.dumps(Hostile(target)))
    else:
        torch.save(content, path)
    reason = "Unsupported operand" if where == "plain" else r"(posix|nt)\.system"
    with pytest.raises(ValueError, match=rf"refused: .*nothing in it was executed \(.*{reason}") as error:
        load_official_checkpoint(path, CONFIG)
    assert "weights_only" not in str(error.value), "torch's advice to switch the protection off is not passed on"
    assert not target.exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["checkpoint_1.pth"]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, keep: float) -> None:
    path = saved(tmp_path, official_file(network()))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"checkpoint_1.pth (cannot be read|is refused)"):
        load_official_checkpoint(path, CONFIG)


@pytest.mark.parametrize("index", [0, 5, 12, -2])
def test_one_changed_bit_of_a_weight_is_noticed(tmp_path: Path, index: int) -> None:
    """`torch.load` alone would take it."""
    content = official_file(network())
    path = saved(tmp_path, content)
    data = bytearray(path.read_bytes())
    data[data.index(content["ema"]["shadow_params"][index].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot be read: .*checksum"):
        load_official_checkpoint(path, CONFIG)


def overlapping_archive(path: Path, entries: int, size: int) -> None:
    """A stored zip whose directory names the same `size` bytes of the file `entries` times."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(size))
        only = archive.infolist()[0]
        for index in range(entries - 1):
            again = copy.copy(only)
            again.filename = again.orig_filename = f"archive/data/{index}"
            archive.filelist.append(again)
        archive._didModify = True  # type: ignore[attr-defined]


def test_overlapping_entries_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_1.pth"
    overlapping_archive(path, entries=20_000, size=4_000_000)  # 80 GB to read, in a file of 6 MB
    start = time.process_time()
    with pytest.raises(ValueError, match=r"entry archive/data/\d+ overlaps"):
        load_official_checkpoint(path)
    assert time.process_time() - start < 5


def test_a_quoted_size_beyond_the_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, official_file(network()))
    data = bytearray(path.read_bytes())
    entry = data.rfind(b"PK\x01\x02")  # the last entry of the directory: its sizes are at bytes 20 and 24
    data[entry + 20 : entry + 28] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="claims to end at byte"):
        load_official_checkpoint(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """A few bytes could claim any amount of memory."""
    path = saved(tmp_path, official_file(network()))
    small = tmp_path / "small.pth"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as other:
        for entry in archive.infolist():
            other.writestr(entry.filename, archive.read(entry))
    with pytest.raises(ValueError, match="compressed"):
        load_official_checkpoint(small, CONFIG)


def test_tensors_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    content = {"model": {"all_modules.0.weight": torch.zeros(1).expand(1 << 40)}}
    with pytest.raises(ValueError, match="claim 4398046511104 bytes, more than the file has"):
        load_official_checkpoint(saved(tmp_path, content))
    content = {"model": {"all_modules.987654321987.weight": torch.zeros(1)}}
    with pytest.raises(ValueError, match="one of them is number 987654321987"):
        load_official_checkpoint(saved(tmp_path, content))


@pytest.mark.parametrize("averaged", [True, False])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, averaged: bool) -> None:
    content = official_file(network())
    tensor = content["ema"]["shadow_params"][1] if averaged else content["model"]["module.all_modules.1.bias"]
    tensor[3] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinity in \['all_modules.1.bias'\]"):
        load_official_checkpoint(saved(tmp_path, content), CONFIG, use_ema=averaged)


def test_what_an_average_lacks_is_named(tmp_path: Path) -> None:
    content = official_file(network())
    shadow = content["ema"]["shadow_params"]
    for changed, line in (
        (shadow[:4] + shadow[5:], r"\n  missing: ema all_modules.3.weight \[8, 3, 3, 3\]$"),
        ([*shadow, torch.zeros(7, 9)], rf"\n  extra: ema.shadow_params\[{len(shadow)}\] \[7, 9\]$"),
    ):
        content["ema"]["shadow_params"] = changed
        with pytest.raises(ValueError, match=line):
            load_official_checkpoint(saved(tmp_path, content), CONFIG)


def test_a_configuration_without_a_network(tmp_path: Path) -> None:
    config = CONFIG | {"model": CONFIG["model"] | {"nonlinearity": "elu", "num_scales": 1}}
    with pytest.raises(
        ValueError, match="no network of this configuration: num_train_timesteps must be an integer of at least 2"
    ):
        load_official_checkpoint(saved(tmp_path, official_file(network())), config)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="path must be a checkpoint file"):
        load_official_checkpoint(tmp_path / "nothing.pth", CONFIG)
    with pytest.raises(FileNotFoundError, match=": a folder"):
        load_official_checkpoint(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"must hold a dictionary with 'model' and 'ema', got \['weights'\]"):
        load_official_checkpoint(saved(tmp_path, {"weights": torch.zeros(1)}), CONFIG)
    with pytest.raises(ValueError, match="must be a state dict"):
        load_official_checkpoint(saved(tmp_path, {"model": [torch.zeros(1)]}), CONFIG)
    with pytest.raises(ValueError, match="cannot be read off"):
        load_official_checkpoint(saved(tmp_path, {"model": {"weight": torch.zeros(1)}}))
    path = tmp_path / "text.pth"
    path.write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match=r"text.pth (cannot be read|is refused)"):
        load_official_checkpoint(path, CONFIG)
    with pytest.raises(TypeError, match="config must be a preset's name, a nested mapping or None, got int"):
        load_official_checkpoint(path, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("reached", [False, True], ids=["those that receive a gradient", "all"])
def test_a_network_that_is_not_told_its_noise_level(tmp_path: Path, sample: Any, reached: bool) -> None:
    """`conditional = False`: its blocks still have layers for the embedding, which an average may leave out."""
    config = CONFIG | {"model": CONFIG["model"] | {"conditional": False}}
    expected = network(time_conditioning=False, dropout=0.1)
    content = official_file(expected)
    unused = {tensor.key for tensor in official_tensors(expected) if not tensor.reached and tensor.trained}
    assert len(unused) == 2 * sum("time_emb_proj.weight" in name for name, _ in expected.named_parameters())
    if not reached:
        shadow = [value for key, value in to_official(expected).items() if key not in unused | {"all_modules.0.W"}]
        content["ema"] = content["ema"] | {"shadow_params": shadow}
    for given in (config, None):
        model, _ = load_official_checkpoint(saved(tmp_path, content), given)
        assert not model.config.time_conditioning
        torch.testing.assert_close(model(*sample).sample, expected(*sample).sample, rtol=0, atol=0)

    # The same network told an embedding that its blocks turn into nothing gives the same output.
    told = network()
    told.load_state_dict(expected.state_dict(), strict=False)
    for name, parameter in told.named_parameters():
        if "time_emb_proj" in name:
            torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(told(*sample).sample, expected(*sample).sample)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int64])
@pytest.mark.parametrize("where", ["model", "ema"])
def test_weights_that_are_not_floating_point(tmp_path: Path, dtype: torch.dtype, where: str) -> None:
    content = official_file(network())
    if where == "model":
        content["model"]["module.all_modules.3.weight"] = torch.ones(8, 3, 3, 3, dtype=dtype)
        message = rf"all_modules\.3\.weight \({dtype!s}\)"
    else:
        content["ema"]["shadow_params"][4] = torch.ones(8, 3, 3, 3, dtype=dtype)
        message = rf"ema\.shadow_params\[4\] \({dtype!s}\)"
    with pytest.raises(ValueError, match=f"must be floating-point numbers, got .*{message}"):
        load_official_checkpoint(saved(tmp_path, content), CONFIG)


def test_a_layer_that_official_networks_lack_is_named() -> None:
    model = network(num_class_embeds=3)
    with pytest.raises(ValueError, match=r"no official network has .*class_embedding\.weight"):
        official_tensors(model)
    model = network()
    model.down_blocks[0].resnets[0].extra = torch.nn.Linear(2, 2)
    model.conv_in = torch.nn.Sequential(model.conv_in)
    with pytest.raises(ValueError, match=r"no official network has .*conv_in\.0\.weight.*resnets\.0\.extra\.weight"):
        official_tensors(model)
    model = network()
    model.time_proj = torch.nn.Identity()
    assert len(official_tensors(model)) == len(official_tensors(network())) - 1
