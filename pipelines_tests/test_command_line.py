"""The `scoresde` commands: pictures equal to those of the Python API, exit codes, and nothing overwritten or left behind."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from command_runs import COUNT, RUN, SEED, STEPS, check, generators, loaded, run, written
from PIL import Image
from typer.testing import CliRunner

import scoresde_pipelines
from scoresde_pipelines import (
    BlurOperator,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeColorizationPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    ScoreSdeSuperResolutionPipeline,
    VESDEScheduler,
)
from scoresde_pipelines.cli import app
from scoresde_pipelines.samplers import SAMPLERS


COMMANDS = [
    *("sample", "inpaint", "colorize", "upscale", "restore", "interpolate", "likelihood"),
    *("train", "evaluate", "convert", "ema", "export", "info", "app"),
]


@pytest.fixture
def folder(command_folder: Path) -> Path:
    return command_folder


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_sample_gives_the_pictures_of_python(folder, tmp_path, batch_size):
    result = json.loads(run(folder, "sample", tmp_path / "new" / "out", *RUN, "--batch-size", batch_size, "--json"))
    images = loaded(ScoreSdePipeline, folder)(COUNT, STEPS, generator=generators()).images
    check(tmp_path / "new" / "out", images)
    assert result["images"] == [str(tmp_path / "new" / "out" / f"{k:04d}.png") for k in range(COUNT)]
    assert result["network_calls"] == 2 * STEPS and result["seed"] == SEED
    grid = np.asarray(Image.open(result["grid"]))
    assert np.array_equal(grid[:16:2, :16:2], np.asarray(images[0]))  # each pixel twice as large


def test_sample_of_classes(folder, tmp_path):
    run(folder, "sample", tmp_path / "out", *RUN, "--class", "dog", "--class", 0, "--guidance-scale", 2)
    pipe = loaded(ScoreSdeClassConditionalPipeline, folder)
    labels = ["dog"] * COUNT + ["cat"] * COUNT
    check(tmp_path / "out", pipe(labels, 2.0, STEPS, generator=generators(2 * COUNT)).images)


def test_sample_with_a_weak_model(folder, tmp_path):
    weak = loaded(ScoreSdePipeline, folder).unet
    shutil.copytree(folder / "model", tmp_path / "weak")
    for parameter in weak.parameters():
        parameter.data *= 0.5
    weak.save_pretrained(tmp_path / "weak" / "unet")
    options = ("--weak-model", tmp_path / "weak", "--weak-guidance-scale", 3)
    run(folder, "sample", tmp_path / "new" / "out", *RUN, *options)
    pipe = loaded(ScoreSdePipeline, folder)
    images = pipe(COUNT, STEPS, generator=generators(), weak_unet=weak, weak_guidance_scale=3.0).images
    check(tmp_path / "new" / "out", images)
    assert not np.array_equal(images[0], pipe(COUNT, STEPS, generator=generators()).images[0])


def test_samplers_are_those_of_the_table(folder, tmp_path, monkeypatch):
    run(folder, "sample", tmp_path / "pc" / "out", *RUN, "--sampler", "pc")
    pipe = loaded(ScoreSdePipeline, folder)
    pipe.scheduler = VESDEScheduler.from_config(pipe.scheduler.config, **SAMPLERS["pc"])
    check(tmp_path / "pc" / "out", pipe(COUNT, STEPS, generator=generators()).images)
    run(folder, "sample", tmp_path / "ode" / "out", *RUN, "--sampler", "ode")
    check(
        tmp_path / "ode" / "out",
        loaded(ScoreSdePipeline, folder)(COUNT, STEPS, generator=generators(), ode_tolerance=1e-3).images,
    )
    run(folder, "sample", tmp_path / "noisy" / "out", *RUN, "--sampler", "adaptive_restart")
    restarts = {"ode_tolerance": 1e-3, "num_restarts": 3, "generator": generators()}
    check(tmp_path / "noisy" / "out", loaded(ScoreSdePipeline, folder)(COUNT, **restarts).images)
    monkeypatch.setitem(SAMPLERS, "mine", {"predictor": "euler_maruyama", "corrector": None})
    run(folder, "sample", tmp_path / "mine" / "out", *RUN, "--sampler", "mine")
    pipe.scheduler = VESDEScheduler.from_config(pipe.scheduler.config, predictor="euler_maruyama", corrector=None)
    check(tmp_path / "mine" / "out", pipe(COUNT, STEPS, generator=generators()).images)


def test_inpaint_and_colorize(folder, tmp_path):
    image, mask = Image.open(folder / "a.png"), Image.open(folder / "mask.png")
    options = {"num_inference_steps": STEPS, "num_samples": COUNT, "generator": generators()}
    run(folder, "inpaint", tmp_path / "1" / "out", "--image", folder / "a.png", "--mask", folder / "mask.png", *RUN)
    check(tmp_path / "1" / "out", loaded(ScoreSdeInpaintPipeline, folder)(image, mask, **options).images)
    assert np.array_equal(written(tmp_path / "1" / "out")[2][:, :4], np.asarray(image)[:, :4])
    run(folder, "colorize", tmp_path / "2" / "out", "--image", folder / "a.png", *RUN, "--sampler", "ode")
    options["generator"] = generators()
    check(tmp_path / "2" / "out", loaded(ScoreSdeColorizationPipeline, folder)(image, sampler="ode", **options).images)


def test_upscale_and_restore(folder, tmp_path):
    options = {"num_inference_steps": STEPS, "num_samples": COUNT}
    run(folder, "upscale", tmp_path / "1" / "out", "--image", folder / "small.png", "--scale", 2, *RUN)
    pipe, small = loaded(ScoreSdeSuperResolutionPipeline, folder), Image.open(folder / "small.png")
    check(tmp_path / "1" / "out", pipe(small, 2, generator=generators(), **options).images)
    averages = np.stack(written(tmp_path / "1" / "out")).reshape(COUNT, 4, 2, 4, 2, 3).mean((2, 4))
    clipped = np.stack(written(tmp_path / "1" / "out")).reshape(COUNT, 4, 2, 4, 2, 3)
    whole = ((clipped > 0) & (clipped < 255)).all((2, 4))
    assert whole.any()
    assert np.abs(averages - np.asarray(Image.open(folder / "small.png")))[whole].max() <= 0.5
    run(
        folder,
        "restore",
        tmp_path / "2" / "out",
        "--image",
        folder / "a.png",
        "--blur-std",
        0.5,
        "--noise-std",
        0.1,
        *RUN,
    )
    options |= {"sampler": "scheduler", "solver_iterations": 1}
    pipe = loaded(ScoreSdeInverseProblemPipeline, folder)
    image = torch.from_numpy(np.asarray(Image.open(folder / "a.png")).copy()).permute(2, 0, 1)[None] / 255
    expected = pipe(image, BlurOperator.gaussian(0.5), noise_std=0.1, generator=generators(), **options)
    check(tmp_path / "2" / "out", expected.images)


def test_interpolate(folder, tmp_path):
    words = ["--image", folder / "a.png", "--image", folder / "b.png", "--num-images", 3, "--device", "cpu"]
    run(folder, "interpolate", tmp_path / "out", *words)
    ends = [Image.open(folder / f"{name}.png") for name in "ab"]
    check(tmp_path / "out", loaded(ScoreSdeLikelihoodPipeline, folder).interpolate(*ends, 3, 1e-3).images)


def test_info(folder):
    facts = json.loads(run(folder, "info", None, "--json"))
    assert facts["sde"] == "VESDE" and facts["shape"] == [3, 8, 8] and facts["classes"] == ["cat", "dog"]
    network = loaded(ScoreSdePipeline, folder).unet
    assert facts["parameters"] == sum(p.numel() for p in network.parameters())
    assert facts["data_range"] == [0.0, 1.0] and facts["network"] == "NCSNpp" and facts["licence"] is None
    result = CliRunner().invoke(app, ["info", "--model", "emoji-32-ve"])
    assert "4,497,539" in result.stdout and "apache-2.0" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "./nofolder"], "got './nofolder': there is no such folder"),
        (["--sampler", "nope"], "sampler must be one of default, pc, reverse_diffusion"),
        (["--dtype", "int8"], "dtype must be one of float32, float16, bfloat16, got 'int8'"),
        (["--device", "abacus"], "abacus"),
        (["--class", "bird"], "class_labels must be among ['cat', 'dog'], got 'bird'"),
        (["--class", "7"], "class_labels must lie in 0..1, got [7]"),
        (["--num-images", "0"], "num-images"),
        (["--steps", "x"], "steps"),
    ],
)
def test_bad_arguments_end_with_2_and_write_nothing(folder, tmp_path, words, message):
    assert message in run(folder, "sample", tmp_path / "out", *RUN, *words, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", [".", "./", "a/..", "new/deep"])
def test_outputs_by_every_spelling(folder, tmp_path, monkeypatch, output):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    run(folder, "sample", output, *RUN, "--num-images", 1, "--overwrite")
    assert sorted(path.name for path in Path(output).iterdir() if path.name != "a") == ["0000.png", "grid.png"]


def test_outputs_are_not_overwritten_unasked(folder, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "0000.png").write_text("mine")
    (output / "note.txt").write_text("mine")
    message = run(folder, "sample", output, *RUN, code=2)
    assert "output must be a new or an empty folder" in message and (output / "0000.png").read_text() == "mine"
    run(folder, "sample", output, *RUN, "--overwrite")
    assert len(written(output)) == COUNT and (output / "note.txt").read_text() == "mine"


def test_a_failure_during_the_work_ends_with_1(folder, tmp_path):
    pipe = ScoreSdePipeline.from_pretrained(folder / "model")
    with torch.no_grad():
        pipe.unet.conv_in.bias.fill_(float("nan"))
    pipe.save_pretrained(tmp_path / "model")
    message = run(tmp_path, "sample", tmp_path / "out", *RUN, code=1)
    assert "error: images must be finite, got NaN or infinity in 3 of them" in message
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_help_needs_no_torch_and_fits_80_columns():
    code = """
        import sys
        from importlib import import_module
        from scoresde_pipelines.cli import app
        for words in sys.argv[1:]:
            try:
                app(words.split() + ["--help"])
            except SystemExit as end:
                assert end.code == 0
        for script in ("unconditional", "classifier"):
            try:
                import_module(f"scoresde_pipelines.training.train_{script}").run(["--help"])
            except SystemExit as end:
                assert end.code == 0
        assert not {"torch", "diffusers", "numpy", "PIL"} & set(sys.modules), sorted(sys.modules)
    """
    words = ["", *COMMANDS]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(Path(scoresde_pipelines.__file__).parents[1])}
    code = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert re.findall(r"--[\w-]+…", done.stdout) == []  # names of options are whole
    first = done.stdout.split("Usage:")[1]
    assert [name for name in COMMANDS if f" {name} " not in first] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "sample --model emoji-32-v --output x",
            "got 'emoji-32-v': there is no such folder or shipped model (did you mean ",
        ),
        ("sample --model emoji-32-ve --output x --guidance-scale -1", "finite number of at least 0, got -1.0"),
        (
            "likelihood --model emoji-32-ve --data . --output x.csv --tolerance 2",
            "must be a finite number in (0, 1), got 2.0",
        ),
        ("evaluate --model emoji-32-ve --data picture --output x", "got 'picture': did you mean 'pictures'?"),
        ("train", "give either --dataset_name (a data set on the Hub) or --train_data_dir (a local folder)"),
        ("train --train_data_dir nowhere", "train_data_dir must be an existing folder or file, got 'nowhere'"),
        (
            "train --train_data_dir . --learning_rate -1",
            "--learning_rate must be a finite number of at least 0, got -1.0",
        ),
        ("train --train_data_dir . --pretrained_model_name_or_path emoji-32-v", "(did you mean 'emoji-32-ve'?)"),
    ],
)
def test_slips_are_refused_before_torch_is_imported(words, message, tmp_path):
    (tmp_path / "pictures").mkdir()
    code = (
        "import sys\nfrom scoresde_pipelines.cli import app\n"
        "try:\n    app(sys.argv[1:])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(scoresde_pipelines.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_version_and_train_help(capsys):
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout.strip() == f"scoresde {scoresde_pipelines.__version__}"
    with pytest.raises(SystemExit) as end:
        app(["train", "--resolution"])
    assert end.value.code == 2  # argparse: a missing value
    assert capsys.readouterr().err.startswith("usage: scoresde train (--train_data_dir DIR | --dataset_name NAME)")


def test_warnings_are_a_line_without_the_place_in_the_code(folder, tmp_path, monkeypatch):
    lines, before = [], warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda *place: lines.append(warnings.formatwarning(*place[:4])))
        run(folder, "sample", tmp_path / "out", *RUN)
    clipped = [line for line in lines if "clipped" in line]
    assert len(clipped) == 1 and re.fullmatch(r"warning: [\d.]+% of the pixel values .*\n", clipped[0])
    assert warnings.formatwarning is before


def test_app_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["app"])
    assert result.exit_code == 1 and "pip install 'scoresde_pipelines[app]'" in result.output


def test_app_names_what_is_wrong(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["--model", "./none"], "got './none': there is no such folder"),
        (["--model", "run/checkpoint-*"], "model must match a folder, got 'run/checkpoint-*'"),
        (["--device", "abacus"], "device must be an available"),
    ):
        result = CliRunner().invoke(app, ["app", *words])
        assert result.exit_code == 2 and message in " ".join(result.output.replace("│", " ").split())
