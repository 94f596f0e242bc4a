"""`scoresde convert`: an official checkpoint becomes a pipeline folder, or a clear error and nothing."""

import pickle
import signal
from pathlib import Path

import pytest
import torch
from official_names import to_official
from safetensors import SafetensorError
from typer.testing import CliRunner

from scoresde_pipelines import DDPMpp, ScoreSdePipeline
from scoresde_pipelines.cli import app


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DDPMpp(sample_size=16, block_out_channels=(16, 16), layers_per_block=1, attention_resolutions=(8,)).eval()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    """What the official code's `save_checkpoint` writes, with EMA weights that are twice the others."""
    state = to_official(network)
    shadow = [2 * value for value in state.values()]
    content = {
        "model": {f"module.{key}": value for key, value in state.items()},
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow},
        "optimizer": {},
        "step": 7,
    }
    path = tmp_path_factory.mktemp("official") / "vp" / "cifar10_ddpmpp_continuous" / "checkpoint_1.pth"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(("option", "factor"), [("--ema", 2.0), ("--no-ema", 1.0)])
def test_the_folder_holds_the_same_network(network, checkpoint, tmp_path, option, factor):
    folder = tmp_path / "pipeline"
    result = CliRunner().invoke(app, ["convert", str(checkpoint), str(folder), option])
    assert result.exit_code == 0, result.output
    pipe = ScoreSdePipeline.from_pretrained(str(folder))
    for (name, ours), theirs in zip(pipe.unet.state_dict().items(), network.state_dict().values()):
        torch.testing.assert_close(ours, factor * theirs, msg=name)
    assert pipe.scheduler.config.continuous and "ddpm" in (folder / "README.md").read_text("utf-8").lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipeline"], "nothing else is left behind"


class Hostile:
    def __reduce__(self):
        return (Path("executed").write_text, ("by the unpickler",))


@pytest.mark.parametrize("kind", ["missing", "truncated", "hostile", "text"])
def test_a_bad_file_is_an_error_and_leaves_nothing(checkpoint, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, folder = tmp_path / "bad.pth", tmp_path / "pipeline"
    if kind == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:2000])
    elif kind == "hostile":
        path.write_bytes(pickle.dumps({"model": Hostile()}, protocol=2))
    elif kind == "text":
        path.write_text("not a checkpoint")
    result = CliRunner().invoke(app, ["convert", str(path), str(folder)])
    expected = (2, "Error") if kind == "missing" else (1, "error:")  # before any work
    said = "".join(result.output.replace("│", "").split())  # a box breaks lines
    assert result.exit_code == expected[0] and expected[1] in said and path.name in said
    assert not folder.exists() and not Path("executed").exists()


def test_a_disk_that_cannot_be_written_is_an_error_and_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(ScoreSdePipeline, "save_pretrained", full)
    result = CliRunner().invoke(app, ["convert", str(checkpoint), str(tmp_path / "new" / "folder" / "pipeline")])
    assert result.exit_code == 1 and "error: I/O error: No space left" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing(checkpoint, tmp_path, monkeypatch, number, code):
    def interrupted(pipe, folder):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "half").write_text("written")
        signal.raise_signal(number)

    before = signal.getsignal(signal.SIGTERM)
    # A shell starts its background jobs with Ctrl-C ignored, and this test may be in one.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(ScoreSdePipeline, "save_pretrained", interrupted)
    try:
        result = CliRunner().invoke(app, ["convert", str(checkpoint), str(tmp_path / "new" / "pipeline")])
    finally:
        signal.signal(signal.SIGINT, ctrl_c)
    assert result.exit_code == code
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_guess_is_a_warning_and_the_data_range_follows_the_network(checkpoint, tmp_path):
    other = tmp_path / "checkpoint_1.pth"
    other.write_bytes(checkpoint.read_bytes())
    result = CliRunner().invoke(app, ["convert", str(other), str(tmp_path / "pipeline")])
    assert result.exit_code == 0
    assert "warning: these tensors fit several published configurations: taking 'vp/cifar10_ddpmpp" in result.output
    config = ScoreSdePipeline.from_pretrained(str(tmp_path / "pipeline")).config
    assert (config.data_min, config.data_max) == (-1.0, 1.0)


def test_an_existing_folder_is_not_overwritten(checkpoint, tmp_path):
    result = CliRunner().invoke(app, ["convert", str(checkpoint), str(tmp_path)])
    assert result.exit_code == 2 and list(tmp_path.iterdir()) == []
