"""`export_standalone`: pipelines that diffusers loads in a process in which this package cannot be imported."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from hub_stand_in import OWNER, handler_for
from typer.testing import CliRunner

from scoresde_pipelines import (
    NCSNpp,
    NoiseConditionalClassifier,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
    export_standalone,
)
from scoresde_pipelines.cli import app
from scoresde_pipelines.source_bundle import bundle


# Run elsewhere, without this package: loads the folders it is given, and writes what their calls return.
ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("scoresde_pipelines", "schedulers", "models", "training"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import json, torch
from diffusers import DiffusionPipeline

jobs, found = json.loads(sys.argv[1]), {}
for name, options in jobs.items():
    pipe = DiffusionPipeline.from_pretrained(name, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe).__module__.startswith("scoresde_standalone_"), type(pipe)
    if "image" in options:
        options = {**options, "image": torch.full((1, 1, 16, 16), 0.5), "mask_image": torch.ones(1, 1, 16, 16).tril()}
    options["generator"] = torch.Generator().manual_seed(3)
    found[name] = pipe(**options, output_type="pt").images
    scheduler = pipe.scheduler  # a loop of one's own
    scheduler.set_timesteps(4)
    x = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16) * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = pipe.unet(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(output, t, x, generator=generator).prev_sample
    found[name + "/loop"] = x
assert not [name for name in sys.modules if name.split(".")[0] == "scoresde_pipelines"]
torch.save(found, sys.argv[2])
"""
SIZE = {"sample_size": 16, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1}


def network(kind=NCSNpp, **options):
    torch.manual_seed(0)
    made = kind(**SIZE, **options).eval()
    for parameter in made.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return made


def positional(**options):
    return network(time_embedding_type="positional", scale_by_sigma=False, **options)


def pipelines():
    classifier = NoiseConditionalClassifier(depth=10, width=1, in_channels=1, num_classes=3, sample_size=16).eval()
    named = {"id2label": {0: "a", 1: "b", 2: "c"}}
    stock = UNet2DModel(
        **SIZE, norm_num_groups=4, down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2
    )
    options = {"num_inference_steps": 4}
    two = {**options, "batch_size": 2}
    return {
        "ve": (ScoreSdePipeline(network(), VESDEScheduler(sigma_max=50.0)), two),
        "vp": (ScoreSdePipeline(positional(), VPSDEScheduler(predictor="exponential_multistep")), two),
        "subvp": (ScoreSdePipeline(positional(), SubVPSDEScheduler(predictor="restart")), two),
        "ode": (ScoreSdePipeline(positional(), SubVPSDEScheduler()), {"batch_size": 1, "ode_tolerance": 0.1}),
        "stock": (ScoreSdePipeline(stock.eval(), VPSDEScheduler()), two),
        "classes": (
            ScoreSdeClassConditionalPipeline(positional(num_class_embeds=3), VPSDEScheduler(), **named),
            {**options, "class_labels": ["b", "c"], "guidance_scale": 2.0},
        ),
        "classifier": (
            ScoreSdeClassConditionalPipeline(positional(), VPSDEScheduler(), classifier),
            {**options, "class_labels": [1], "guidance_scale": 2.0},
        ),
        "inpaint": (ScoreSdeInpaintPipeline(positional(), VPSDEScheduler()), {**options, "image": 1}),
    }


def test_the_images_are_those_of_the_package(tmp_path):
    made, jobs, expected = pipelines(), {}, {}
    for name, (pipe, options) in made.items():
        folder = str(export_standalone(pipe, tmp_path / name))
        pipe.set_progress_bar_config(disable=True)
        jobs[folder] = dict(options)
        if "image" in options:
            options = {
                **options,
                "image": torch.full((1, 1, 16, 16), 0.5),
                "mask_image": torch.ones(1, 1, 16, 16).tril(),
            }
        generator = torch.Generator().manual_seed(3)
        expected[folder] = pipe(**options, output_type="pt", generator=generator).images
        pipe.scheduler.set_timesteps(4)
        x = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16) * pipe.scheduler.init_noise_sigma
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for t in pipe.scheduler.timesteps:
                output = pipe.unet(pipe.scheduler.scale_model_input(x, t), t).sample
                x = pipe.scheduler.step(output, t, x, generator=generator).prev_sample
        expected[folder + "/loop"] = x
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    # One of them from a local stand-in of the Hub.
    shutil.copytree(tmp_path / "subvp", tmp_path / "hub" / "subvp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(tmp_path / "hub"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    jobs[f"{OWNER}/subvp"] = jobs[str(tmp_path / "subvp")]
    for end in ("", "/loop"):
        expected[f"{OWNER}/subvp{end}"] = expected[f"{tmp_path / 'subvp'}{end}"]
    command = [sys.executable, "-c", ALONE, json.dumps(jobs), str(tmp_path / "found.pt")]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt")
    assert found.keys() == expected.keys() and len(found) == 2 * len(made) + 2
    for name, value in expected.items():
        # In another process tensors lie elsewhere in memory, and oneDNN may round in another order.
        atol = 1e-4 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_what_is_written(tmp_path):
    folder = export_standalone("fashion-mnist-32-vp", tmp_path / "model")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "model_index.json",
        "pipeline.py",
        "scheduler/scheduler_config.json",
        "scheduler/scoresde_scheduler.py",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/scoresde_unet.py",
    ]
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "ScoreSdePipeline"]
    assert index["unet"] == ["scoresde_unet", "DDPMpp"] and index["scheduler"] == [
        "scoresde_scheduler",
        "VPSDEScheduler",
    ]
    assert list(tmp_path.iterdir()) == [folder]
    sources = (folder / "unet" / "scoresde_unet.py").read_text()
    assert "schedulers.predictors" not in sources and len(sources) < 150_000  # what a network needs, and no more
    path = Path(__file__).resolve().parents[1] / "models" / "ddpmpp.py"
    assert "\n".join("|" + line for line in path.read_text().rstrip("\n").split("\n")) in sources


def test_the_command_writes_the_same_and_names_what_is_wrong(tmp_path):
    expected = export_standalone("fashion-mnist-32-vp", tmp_path / "function")
    words = ["export", "--model", "fashion-mnist-32-vp", "--output", str(tmp_path / "command")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "trust_remote_code=True" in done.stdout, done.output
    for path in expected.rglob("*"):
        twin = tmp_path / "command" / path.relative_to(expected)
        assert path.is_dir() or path.name == "README.md" or path.read_bytes() == twin.read_bytes()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "must be a new or an empty folder" in " ".join(again.output.split())
    assert (
        CliRunner().invoke(app, ["export", "--model", "nowhere/at/all", "--output", str(tmp_path / "x")]).exit_code
        == 2
    )


def test_what_cannot_be_exported_is_named(tmp_path):
    class Own(VPSDEScheduler):
        pass

    class OwnNetwork(NCSNpp):
        pass

    with pytest.raises(TypeError, match=r"scheduler must be of a class of scoresde_pipelines, .* got .*Own"):
        export_standalone(ScoreSdePipeline(positional(), Own()), tmp_path / "a")
    with pytest.raises(TypeError, match=r"unet must be of a class of scoresde_pipelines, .* got .*OwnNetwork"):
        export_standalone(ScoreSdePipeline(network(OwnNetwork), VESDEScheduler()), tmp_path / "a")
    with pytest.raises(TypeError, match=r"pipeline must be a name or a pipeline of scoresde_pipelines, got .*NCSNpp"):
        export_standalone(network(), tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="folder must be a new or an empty folder"):
        export_standalone(ScoreSdePipeline(positional(), VPSDEScheduler()), tmp_path / "full")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]
    export_standalone(ScoreSdePipeline(positional(), VPSDEScheduler()), tmp_path / "full", overwrite=True)
    assert not (tmp_path / "full" / "mine.txt").exists() and (tmp_path / "full" / "pipeline.py").is_file()


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    unet = network()
    next(unet.parameters()).data.flatten()[0] = float("inf")
    with pytest.raises(ValueError, match="pipeline must have finite weights, got NaN or infinity in "):
        export_standalone(ScoreSdePipeline(unet, VESDEScheduler()), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_replaces_nothing(tmp_path, monkeypatch):
    pipe = ScoreSdePipeline(positional(), VPSDEScheduler())
    export_standalone(pipe, tmp_path / "model")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(pipe.unet), "save_pretrained", full)
    with pytest.raises(OSError, match="the disk is full: the pipeline could not be written"):
        export_standalone(pipe, tmp_path / "model", overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_sources_of_one_version_share_their_classes(tmp_path):
    namespaces = []
    for cls in (VPSDEScheduler, ScoreSdePipeline):
        namespace = {"__name__": "anything"}
        exec(bundle([cls], "A test."), namespace)
        namespaces.append(namespace)
    scheduler = namespaces[0]["VPSDEScheduler"]
    assert issubclass(scheduler, sys.modules[scheduler.__module__.rpartition(".")[0] + ".scheduling_sde"].SDEScheduler)
    pipe = namespaces[1]["ScoreSdePipeline"](positional_of(namespaces), scheduler())
    assert type(pipe.scheduler) is scheduler


def positional_of(namespaces):
    namespace = {"__name__": "anything"}
    exec(bundle([NCSNpp], "A test."), namespace)
    return network(namespace["NCSNpp"], time_embedding_type="positional", scale_by_sigma=False)
