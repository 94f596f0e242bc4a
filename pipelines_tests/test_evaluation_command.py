"""`scoresde evaluate` on small networks: the command, the function, several processes, a kill, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from launching import accelerate_launch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from scoresde_pipelines import (
    NCSNpp,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    VESDEScheduler,
    VPSDEScheduler,
    evaluate,
)
from scoresde_pipelines.cli import app
from scoresde_pipelines.evaluation_models import ModelSource, find_models
from scoresde_pipelines.evaluation_sampling import PipelineSource
from scoresde_pipelines.training.checkpoint_manifest import write_manifest
from scoresde_pipelines.training.evaluation import Row
from scoresde_pipelines.training.evaluation.real_images import open_real
from scoresde_pipelines.training.feature_classifier import FeatureClassifier
from scoresde_pipelines.training.seeding import combined_seed


ROOT = Path(__file__).resolve().parents[1]
COUNT = 8


def save_model(folder, scheduler, channels=1, size=8, seed=0):
    torch.manual_seed(seed)
    network = NCSNpp(
        sample_size=size,
        block_out_channels=(8, 8),
        layers_per_block=1,
        in_channels=channels,
        out_channels=channels,
        time_embedding_type="fourier" if isinstance(scheduler, VESDEScheduler) else "positional",
        scale_by_sigma=isinstance(scheduler, VESDEScheduler),
    )
    ScoreSdePipeline(network.eval(), scheduler).save_pretrained(folder)


def save_images(folder, count, channels=1, size=8, seed=0):
    folder.mkdir(parents=True)
    shape = (count, size, size) if channels == 1 else (count, size, size, channels)
    for index, image in enumerate(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)):
        Image.fromarray(image).save(folder / f"{index:03d}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two models of 8 x 8 gray images, a data set with a train and a test split, and a classifier."""
    path = tmp_path_factory.mktemp("evaluation")
    save_model(path / "ve", VESDEScheduler(sigma_max=10.0))
    save_model(path / "vp", VPSDEScheduler(continuous=True), seed=1)
    save_images(path / "data" / "test", COUNT)
    save_images(path / "data" / "train", 2 * COUNT, seed=1)
    torch.manual_seed(2)
    classifier = FeatureClassifier(1, num_classes=3, widths=(4, 4), num_features=5, sample_size=8)
    classifier.save_pretrained(path / "classifier")
    return path


def words(folder, output, *more, models=("ve", "vp"), steps=(2, 3)):
    options = [("--data", folder / "data"), ("--output", output), ("--num-images", COUNT), ("--batch-size", 3)]
    options += [("--features", folder / "classifier"), ("--cache-dir", folder / "cache"), ("--device", "cpu")]
    options += [("--model", folder / name) for name in models] + [("--steps", count) for count in steps]
    return ["evaluate", *(str(word) for pair in options for word in pair), *map(str, more)]


def run(folder, output, *more, **options) -> Result:
    return CliRunner().invoke(app, words(folder, output, *more, **options))


SAMPLERS = ("--sampler", "default", "--sampler", "ddim")


@pytest.fixture(scope="module")
def table(folder) -> dict:
    result = run(folder, folder / "whole", *SAMPLERS, "--metrics", "kid", "--metrics", "is", "--npz")
    assert result.exit_code == 0, result.output
    assert "| model | sampler | steps | calls | KID | IS | s/image |" in result.output
    return json.loads((folder / "whole" / "results.json").read_text())


def test_a_row_for_every_model_sampler_and_number_of_steps(folder, table):
    found = [(Path(row["model"]).name, row["sampler"], row["steps"], row["nfe"]) for row in table["rows"]]
    # The VE model's own sampler corrects once at every level.
    assert found == [
        ("ve", "default", 2, 4.0),
        ("ve", "default", 3, 6.0),
        ("ve", "ddim", 2, 2.0),
        ("ve", "ddim", 3, 3.0),
        ("vp", "default", 2, 2.0),
        ("vp", "default", 3, 3.0),
        ("vp", "ddim", 2, 2.0),
        ("vp", "ddim", 3, 3.0),
    ]
    for row in [*table["rows"], {"metrics": table["real"]}]:
        assert set(row["metrics"]) == {"kid", "is"} and row["metrics"]["kid"]["se"] > 0
    assert table["settings"]["real_images"] == {"reference": COUNT, "other": COUNT}
    assert {"torch", "device", "seconds", "processes"} <= set(table["environment"])
    assert "table.md" in os.listdir(folder / "whole") and "quality.png" in os.listdir(folder / "whole")


def shard_images(folder: Path) -> torch.Tensor:
    return torch.cat([load_file(path)["images"] for path in sorted(folder.glob("*.safetensors"))])


def row_folder(output: Path, model: str, sampler_and_steps: str) -> Path:
    (found,) = (output / "samples").glob(f"*{model}-*_{sampler_and_steps}")
    return found / "seed-0"


def test_images_are_those_of_the_pipeline(folder, table):
    pipe = ScoreSdePipeline.from_pretrained(folder / "vp")
    pipe.scheduler = VPSDEScheduler.from_config(pipe.scheduler.config, predictor="exponential")
    generators = [torch.Generator().manual_seed(combined_seed(0, index)) for index in range(COUNT)]
    expected = (pipe(COUNT, 3, generator=generators, output_type="pt").images * 255).round()
    found = shard_images(row_folder(folder / "whole", "vp", "ddim_3"))
    assert (found.float() - expected).abs().max() <= 1  # batches of another size round differently
    (path,) = (folder / "whole" / "npz").glob("*vp-*_ddim_3.npz")
    assert np.array_equal(np.load(path)["arr_0"][..., 0], found[:, 0].numpy())


def test_image_k_of_every_row_starts_from_the_same_noise(folder, monkeypatch):
    starts = []
    original = ScoreSdePipeline.prepare_latents

    def remember(self, *arguments, **options):
        latents = original(self, *arguments, **options)
        starts.append(latents / self.scheduler.init_noise_sigma)
        return latents

    monkeypatch.setattr(ScoreSdePipeline, "prepare_latents", remember)
    models = find_models([str(folder / "ve"), str(folder / "vp")])
    source = PipelineSource(models, {"default": {}, "ddim": {"predictor": "exponential"}}, "cpu")
    rows, _, _ = source.rows([2, 3])
    for row in rows:
        source.generate(row, 5, [4, 7])
    source.generate(rows[0], 5, [7])
    source.generate(rows[0], 6, [7])
    assert len(starts) == len(rows) + 2
    for start in starts[1 : len(rows)]:
        torch.testing.assert_close(start, starts[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(starts[-2], starts[0][1:], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(starts[-1], starts[-2])


def test_the_function_returns_what_is_written(folder, tmp_path):
    mine = {
        "slow": {"predictor": "euler_maruyama", "corrector": "langevin", "correct_steps": 2},
        "ode": {"ode_tolerance": 0.1},
        "noisy": {"ode_tolerance": 0.1, "num_restarts": 1},
    }
    result = evaluate(
        str(folder / "vp"),
        str(folder / "data"),
        tmp_path,
        samplers=["slow", "ode", "noisy"],
        sampler_settings=mine,
        steps=2,
        seeds=[0, 1],
        num_images=6,
        features=lambda images: images.float().mean(dim=(2, 3)),
        metrics=["kid", "bpd", "pr"],
        num_bpd_images=2,
        device="cpu",
    )
    slow, ode, noisy = result.rows
    assert (slow.nfe, slow.num_images, len(slow.metrics["kid"].per_seed)) == (6.0, 12, 2)
    assert noisy.nfe > ode.nfe > 10
    pipe = ScoreSdeLikelihoodPipeline.from_pretrained(folder / "vp")
    pictures = [load_image(folder, index) for index in torch.randperm(COUNT, generator=generator(0)).tolist()[:2]]
    seeds = [generator(combined_seed(0, index)) for index in range(2)]
    bits = pipe(torch.stack(pictures), tolerance=1e-3, generator=seeds).bits_per_dim
    assert slow.metrics["bpd"].value == pytest.approx(float(bits.mean()), rel=1e-4)
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["metrics"]["kid"]["value"] == pytest.approx(
        slow.metrics["kid"].value
    )


def generator(seed):
    return torch.Generator().manual_seed(seed)


def load_image(folder, index):
    return torch.from_numpy(np.array(Image.open(folder / "data" / "test" / f"{index:03d}.png")))[None]


# ---------------------------------------------------------------------- checkpoints


def save_checkpoint(run_folder, step, scale=1.0):
    """What training writes: averaged weights, and a manifest of the files."""
    path = run_folder / f"checkpoint-{step}"
    path.mkdir()
    weights = ScoreSdePipeline.from_pretrained(run_folder).unet.state_dict()
    save_file({name: value * scale for name, value in weights.items()}, path / "unet_ema.safetensors")
    write_manifest(path, step, {})
    return path


def test_a_sweep_over_checkpoints_names_the_best(folder, tmp_path):
    save_model(tmp_path / "run", VPSDEScheduler(continuous=True), seed=1)
    save_checkpoint(tmp_path / "run", 1000)
    save_checkpoint(tmp_path / "run", 200, scale=1.5)
    pattern = str(tmp_path / "run" / "checkpoint-*")
    result = run(folder, tmp_path / "out", "--model", pattern, "--metrics", "kid", models=(), steps=(3,))
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [Path(row["model"]).name for row in found["rows"]] == ["checkpoint-200", "checkpoint-1000"]
    best = min(found["rows"], key=lambda row: row["metrics"]["kid"]["value"])
    assert found["best"]["model"] == best["model"] and f"Best by KID: {best['model']}" in result.output
    # The checkpoint's own weights are used: unscaled ones give the pipeline's images.
    images = []
    for name in (tmp_path / "run", tmp_path / "run" / "checkpoint-1000", tmp_path / "run" / "checkpoint-200"):
        source = PipelineSource([find_models([str(name)])[0]], {"default": {}}, "cpu")
        images.append(source.generate(Row(str(name), "default", 3, "x"), 0, [0, 1])[0])
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


def test_a_folder_may_have_the_name_of_a_pattern(tmp_path):
    for name in ("run[1]*", "run1", "runs"):
        save_model(tmp_path / name, VPSDEScheduler(continuous=True))
    assert [source.location for source in find_models([str(tmp_path / "run[1]*")])] == [str(tmp_path / "run[1]*")]
    assert [source.location for source in find_models([str(tmp_path / "run[1s]")])] == [
        str(tmp_path / "run1"),
        str(tmp_path / "runs"),
    ]


def test_checkpoints_that_cannot_be_read_are_named(folder, tmp_path):
    save_model(tmp_path / "run", VPSDEScheduler(continuous=True), seed=1)
    path = save_checkpoint(tmp_path / "run", 3)
    (tmp_path / "run" / "model_index.json").rename(tmp_path / "kept.json")
    with pytest.raises(ValueError, match=r"has no model_index\.json"):
        find_models([str(path)])
    (tmp_path / "kept.json").rename(tmp_path / "run" / "model_index.json")
    with open(path / "unet_ema.safetensors", "ab") as file:
        file.write(b"cut")
    with pytest.raises(ValueError, match="model must be a complete checkpoint, got"):
        find_models([str(path)])
    with pytest.raises(ValueError, match="model must match a folder, got"):
        find_models([str(tmp_path / "run" / "nothing-*")])
    with pytest.raises(ValueError, match="model must name different models"):
        find_models(["emoji-32-ve", "emoji-32-ve"])


# ---------------------------------------------------------------------- processes and interruptions


def spawn(command: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def same_images(first: Path, second: Path) -> None:
    files = [path.relative_to(first) for path in sorted((first / "samples").rglob("*.safetensors"))]
    assert files == [path.relative_to(second) for path in sorted((second / "samples").rglob("*.safetensors"))]
    for path in files:
        ours, theirs = load_file(first / path), load_file(second / path)
        assert torch.equal(ours["images"], theirs["images"]) and torch.equal(ours["features"], theirs["features"])


def same_figures(found, table):
    """The figures of two results; BLAS rounds in another order from call to call."""
    pairs = [(row["metrics"], expected["metrics"]) for row, expected in zip(found["rows"], table["rows"], strict=True)]
    for metrics, expected in [*pairs, (found["real"], table["real"])]:
        assert metrics.keys() == expected.keys()
        for name, figures in expected.items():
            assert metrics[name] == pytest.approx(figures, rel=1e-9, abs=1e-12, nan_ok=True)


def test_two_processes_make_the_table_of_one(folder, table, tmp_path):
    # The documented command; it also starts two processes on a machine without a GPU.
    module = [
        "-m",
        "scoresde_pipelines.cli",
        *words(folder, tmp_path, *SAMPLERS, "--metrics", "kid", "--metrics", "is"),
    ]
    process = spawn([*accelerate_launch(), *module])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    same_images(folder / "whole", tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["environment"]["processes"] == 2
    same_figures(found, table)


def test_a_kill_in_the_middle_changes_nothing(folder, table, tmp_path):
    command = [sys.executable, "-m", "scoresde_pipelines.cli"]
    command += words(folder, tmp_path, *SAMPLERS, "--metrics", "kid", "--metrics", "is")
    process = spawn(command)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and len(list(tmp_path.rglob("0*.safetensors"))) < 3:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("0*.safetensors")}
    assert 3 <= len(kept) < 24 and not (tmp_path / "results.json").exists()
    result = run(folder, tmp_path, *SAMPLERS, "--metrics", "kid", "--metrics", "is")
    assert result.exit_code == 0, result.output
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())  # not made again
    same_images(folder / "whole", tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    same_figures(found, table)


def test_other_settings_are_refused(folder, table):
    result = run(folder, folder / "whole", *SAMPLERS, "--batch-size", 4)
    assert result.exit_code != 0 and "batch_size: 3 instead of 4" in flat(result)


def flat(result: Result) -> str:
    """The output without the frame that typer draws around errors."""
    return " ".join(result.output.replace("│", " ").split())


# ---------------------------------------------------------------------- bad input


@pytest.fixture(scope="module")
def broken(folder) -> Path:
    """Models and data that do not fit the others."""
    path = folder / "broken"
    save_model(path / "large", VPSDEScheduler(continuous=True), size=16)
    save_model(path / "four", VPSDEScheduler(continuous=True), channels=4)
    pipe = ScoreSdePipeline.from_pretrained(folder / "vp")
    next(pipe.unet.parameters()).data[0] = torch.nan
    pipe.save_pretrained(path / "nan")
    save_images(path / "colour" / "test", COUNT, channels=3)
    save_images(path / "tiny" / "test", COUNT, size=4)
    return path


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--split", "validation"], "data must be images with the split 'validation', got"),
        (["--num-images", "9"], "num_images must be at most 8, the images of"),
        (["--data", "broken/colour"], "data must hold gray images like those of the model, got colour ones in"),
        (["--data", "broken/tiny"], "data must hold images of the model's size, 8 x 8, or larger ones, got 4 x 4 in"),
        (["--data", "nowhere"], "data must be a folder or parquet file that exists, or a data set of the Hub, got"),
        (["--model", "broken/large"], "model must name models of one image size, got [(8, 8), (16, 16)]"),
        (["--model", "broken/four"], "model must generate images of 1 or 3 channels, got [1, 4]"),
        (["--model", "broken/nan"], "model must have finite weights, got NaN or infinity in"),
        (["--model", "nowhere"], "model must be a shipped name, a folder or a Hub id, got"),
        (["--sampler", "fast"], "sampler must be one of default, pc,"),
        (["--steps", "0"], "Invalid value for '--steps'"),
        (["--guidance-scale", "2"], "data must have a column of class labels for guidance_scale, got"),
        (["--num-images", "2"], "num_images must be at least 3 for ['kid', 'fd'], got 2 generated and 2 real ones"),
        (["--metrics", "fid"], "metrics must be one of kid, fd, is, pr, bpd, nn, got 'fid'"),
        (["--features", "emoji"], "features must be one of ['efficientnet-lite0', 'inception', 'emoji-32', 'fashion"),
        (["--fit", "stretch"], "fit must be one of crop, pad, got 'stretch'"),
    ],
)
def test_bad_input_is_named_before_the_first_image(folder, broken, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(PipelineSource, "generate", lambda *arguments: pytest.fail("an image was generated"))
    option, value = changes
    if option in ("--data", "--split", "--num-images", "--guidance-scale"):  # of the data: before any model is loaded
        monkeypatch.setattr(ModelSource, "load", lambda model: pytest.fail("a model was loaded"))
        monkeypatch.setattr(
            "scoresde_pipelines.evaluation.load_features", lambda *arguments: pytest.fail("features were loaded")
        )
    value = folder / value if option in ("--data", "--model") else value
    result = run(folder, tmp_path, option, value)
    assert result.exit_code == 2, result.output
    assert message in flat(result)


def test_nan_images_are_named(folder, tmp_path, monkeypatch):
    source = PipelineSource(find_models([str(folder / "vp")]), {"default": {}}, "cpu")
    rows, _, _ = source.rows([2])
    forward = NCSNpp.forward

    def broken_forward(self, *arguments, **options):
        output = forward(self, *arguments, **options)
        output.sample[1] = torch.nan
        return output

    monkeypatch.setattr(NCSNpp, "forward", broken_forward)
    with pytest.raises(
        ValueError, match=r"images 4 to 6 of .*vp with default, 2 steps: images must be finite, .* in 1 of"
    ):
        source.generate(rows[0], 0, [4, 5, 6])


def test_cards_are_written_on_demand(folder, tmp_path):
    save_model(tmp_path / "vp", VPSDEScheduler(continuous=True), seed=1)
    model = str(tmp_path / "vp")
    result = run(folder, tmp_path / "out", "--model", model, "--metrics", "kid", "--write-card", models=(), steps=(2,))
    assert result.exit_code == 0, result.output
    text = (tmp_path / "vp" / "README.md").read_text()
    assert "model-index:" in text and "KID (default, 2 calls, classifier)" in text


def test_data_a_little_smaller_is_padded_and_larger_is_cropped(folder, tmp_path):
    from scoresde_pipelines.training.evaluation import open_real

    save_images(tmp_path / "small" / "test", 3, size=6)
    small = next(open_real(str(tmp_path / "small"), "test", [(1, 8, 8)], 3).reference.batches(3))
    assert small[:, :, 1:-1, 1:-1].float().mean() > 50 and int(small.sum()) == int(small[:, :, 1:-1, 1:-1].sum())
    save_images(tmp_path / "large" / "test", 3, size=16)
    large = open_real(str(tmp_path / "large"), "test", [(1, 8, 8)], 3)
    assert next(large.reference.batches(3)).shape == (3, 1, 8, 8) and large.other is None


def test_all_images_decide_whether_the_data_are_gray_and_models_need_not_be_square(tmp_path):
    save_images(tmp_path / "data", 2, channels=3, size=16)
    Image.new("L", (16, 16)).save(tmp_path / "data" / "000.png")  # the first
    real = open_real(str(tmp_path / "data"), "train", [(3, 8, 16)], 2)
    assert [batch.shape for batch in real.reference.batches(2)] == [(2, 3, 8, 16)]
    with pytest.raises(ValueError, match=r"data must hold gray images like those of the model, got colour ones"):
        open_real(str(tmp_path / "data"), "train", [(1, 16, 16)], 2)
