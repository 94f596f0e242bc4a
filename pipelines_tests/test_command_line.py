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
from PIL import Image
from typer.testing import CliRunner

import scoresde_pipelines
from scoresde_pipelines import (
    BlurOperator,
    MaskOperator,
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


STEPS, COUNT, SEED = 3, 3, 11
COMMANDS = [
    *("sample", "inpaint", "colorize", "upscale", "restore", "interpolate", "likelihood"),
    *("train", "evaluate", "convert", "ema", "export", "info", "app"),
]


@pytest.fixture
def folder(command_folder: Path) -> Path:
    return command_folder


def run(folder: Path, command: str, output: Path | None, *more: object, code: int = 0) -> str:
    words = [command, "--model", folder / "model", *([] if output is None else ["--output", output]), *more]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else " ".join(result.output.replace("│", " ").split())


def written(output: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(output.glob("0*.png"))]


def check(output: Path, images: list[Image.Image]) -> None:
    """The pictures are those of the Python API, and nothing else is there."""
    found = written(output)
    assert len(found) == len(images)
    for ours, theirs in zip(found, images):
        assert np.array_equal(ours, np.asarray(theirs))
    assert sorted(path.name for path in output.iterdir()) == [
        *(f"{k:04d}.png" for k in range(len(images))),
        "grid.png",
    ]
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def generators(count: int = COUNT) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(SEED + k) for k in range(count)]


def loaded(cls, folder: Path):
    pipe = cls.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    return pipe


RUN = ("--num-images", COUNT, "--seed", SEED, "--steps", STEPS, "--device", "cpu")


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


def test_pictures_of_another_size_need_fit(folder, tmp_path):
    words = ["--image", folder / "small.png", *RUN]
    message = run(folder, "colorize", tmp_path / "out", *words, code=2)
    assert "image must be 8 x 8 pixels, got 4 x 4" in message and "--fit crop" in message
    run(folder, "colorize", tmp_path / "out", *words, "--fit", "pad")
    assert len(written(tmp_path / "out")) == COUNT
    image, mask = (Image.open(folder / name).resize((20, 12), 0) for name in ("a.png", "mask.png"))
    image.save(tmp_path / "wide.png"), mask.save(tmp_path / "wide_mask.png")
    words = ["--image", tmp_path / "wide.png", "--mask", tmp_path / "wide_mask.png", "--fit", "pad", *RUN]
    run(folder, "inpaint", tmp_path / "wide" / "out", *words)
    options = {"num_inference_steps": STEPS, "num_samples": COUNT, "generator": generators(), "resize": "pad"}
    check(tmp_path / "wide" / "out", loaded(ScoreSdeInpaintPipeline, folder)(image, mask, **options).images)
    missing = run(folder, "colorize", tmp_path / "new", "--image", tmp_path / "none.png", *RUN, code=2)
    assert "picture must be a file" in missing and "none.png" in "".join(missing.split())
    stretched = run(folder, "colorize", tmp_path / "new", *words[:2], "--fit", "stretch", *RUN, code=2)
    assert "fit must be one of crop, pad, got 'stretch'" in stretched
    one = ["--image", folder / "small.png", "--image", folder / "small.png"]
    for command, words in (("interpolate", one), ("restore", one[:2]), ("colorize", one[:2])):
        message = run(folder, command, tmp_path / "new", *words, code=2)  # names options that the command has
        assert ("--tile-size" in message) == (command != "interpolate")


def test_pad_returns_all_of_the_picture_and_crop_its_middle_and_both_say_so(folder, tmp_path):
    image = Image.open(folder / "a.png").resize((20, 12), 0)
    image.save(tmp_path / "wide.png")
    given = ["--image", tmp_path / "wide.png", *RUN]
    commands = (
        ("colorize", [], "is resized to 8 x 5", "is resized to 13 x 8 and cut to 8 x 8", (8, 5)),
        ("upscale", ["--scale", 2], "is resized to 4 x 2", "is resized to 7 x 4 and cut to 4 x 4", (8, 4)),
        ("restore", ["--blur-std", 0.5], "is resized to 8 x 5", "is resized to 13 x 8 and cut to 8 x 8", (8, 5)),
    )
    for command, more, padded, cropped, size in commands:
        for fit, expected, result in (("pad", padded, size), ("crop", cropped, (8, 8))):
            words = [command, "--model", folder / "model", "--output", tmp_path / fit / command, *given, *more]
            done = CliRunner().invoke(app, [str(word) for word in (*words, "--fit", fit)])
            assert done.exit_code == 0, done.output
            assert f"20 x 12 pixels, {expected}: --tile-size takes it as it is" in " ".join(done.stderr.split())
            assert Image.open(tmp_path / fit / command / "0000.png").size == result
    pipe = loaded(ScoreSdeSuperResolutionPipeline, folder)
    options = {"num_inference_steps": STEPS, "num_samples": COUNT, "resize": "pad"}
    images = pipe(image, 2, generator=generators(), **options).images
    for ours, theirs in zip(written(tmp_path / "pad" / "upscale"), images):
        assert np.array_equal(ours, np.asarray(theirs))
    message = run(folder, "upscale", tmp_path / "none", *given, code=2)
    assert "image must be 2 x 2 pixels, got 20 x 12" in message
    assert "give --tile-size (all of it in its own size), --fit pad (all of it, shrunk where it is larger)" in message


def test_restore_measures_no_border(folder, tmp_path):
    image = Image.open(folder / "a.png").crop((0, 0, 8, 5))
    image.save(tmp_path / "low.png")
    blur = ["--blur-std", 0.5, "--noise-std", 0.1]
    run(folder, "restore", tmp_path / "out", "--image", tmp_path / "low.png", *blur, "--fit", "pad", *RUN)
    known, padded = torch.zeros(8, 8), torch.zeros(1, 3, 8, 8)
    known[1:6] = 1
    padded[:, :, 1:6] = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    options = {"num_inference_steps": STEPS, "num_samples": COUNT, "sampler": "scheduler", "solver_iterations": 1}
    pipe = loaded(ScoreSdeInverseProblemPipeline, folder)
    operator = MaskOperator(known) @ BlurOperator.gaussian(0.5)
    images = pipe(padded, operator, noise_std=0.1, generator=generators(), **options).images
    for ours, theirs in zip(written(tmp_path / "out"), images, strict=True):
        assert np.array_equal(ours, np.asarray(theirs)[1:6])


def test_large_pictures_are_restored_on_tiles(folder, tmp_path):
    image, mask = (Image.open(folder / name).resize((20, 12), 0) for name in ("a.png", "mask.png"))
    image.save(tmp_path / "wide.png"), mask.save(tmp_path / "wide_mask.png")
    given = ["--image", tmp_path / "wide.png", "--tile-size", 8, "--tile-overlap", 3, *RUN]
    options = {"num_inference_steps": STEPS, "num_samples": COUNT, "tile_size": 8, "tile_overlap": 3}
    for command, cls, more, arguments in (
        ("inpaint", ScoreSdeInpaintPipeline, ["--mask", tmp_path / "wide_mask.png"], {"mask_image": mask}),
        ("colorize", ScoreSdeColorizationPipeline, [], {}),
        ("upscale", ScoreSdeSuperResolutionPipeline, ["--scale", 2], {"scale": 2}),
    ):
        run(folder, command, tmp_path / command / "out", *given, *more)
        images = loaded(cls, folder)(image=image, **arguments, **options, generator=generators()).images
        assert images[0].size == ((40, 24) if command == "upscale" else (20, 12))
        check(tmp_path / command / "out", images)
    blurred = ["--blur-std", 0.5, "--noise-std", 0.1]
    run(folder, "restore", tmp_path / "restore" / "out", *given, *blurred)
    measured = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    more = {"height": 12, "width": 20, "noise_std": 0.1, "sampler": "scheduler", "solver_iterations": 1}
    pipe = loaded(ScoreSdeInverseProblemPipeline, folder)
    images = pipe(measured, BlurOperator.gaussian(0.5), **more, **options, generator=generators()).images
    check(tmp_path / "restore" / "out", images)
    message = run(folder, "colorize", tmp_path / "out", *given, "--fit", "pad", code=2)
    assert "--fit must not be given with --tile-size alone" in message
    small = ["--image", tmp_path / "odd.png", "--tile-size", 128, *RUN]
    image.resize((19, 12)).save(tmp_path / "odd.png")
    message = run(folder, "colorize", tmp_path / "out", *small, code=2)
    expected = "tile_size must be at most 18 in the width 19, got 128: width is not divisible by 2 for 2 levels"
    assert expected in message
    run(folder, "colorize", tmp_path / "odd" / "out", *small[:2], "--tile-size", 18, *RUN)  # what the message says
    assert written(tmp_path / "odd" / "out")[0].shape == (12, 19, 3)
    message = run(folder, "colorize", tmp_path / "out", *given[:2], "--tile-size", 7, *RUN, code=2)
    assert "tile_size must be divisible by 2 for 2 levels, got 7" in message


def test_the_size_of_the_result(folder, tmp_path):
    size = {"height": 12, "width": 16}
    words = ["--height", 12, "--width", 16]
    options = {"num_inference_steps": STEPS, **size}
    run(folder, "sample", tmp_path / "1" / "out", *RUN, *words)
    check(tmp_path / "1" / "out", loaded(ScoreSdePipeline, folder)(COUNT, generator=generators(), **options).images)
    run(folder, "sample", tmp_path / "2" / "out", *RUN, *words, "--class", "dog", "--tile-size", 8)
    pipe = loaded(ScoreSdeClassConditionalPipeline, folder)
    images = pipe(["dog"] * COUNT, tile_size=8, generator=generators(), **options).images
    assert images[0].size == (16, 12)
    check(tmp_path / "2" / "out", images)
    image, mask = (Image.open(folder / name).resize((20, 12), 0) for name in ("a.png", "mask.png"))
    image.save(tmp_path / "wide.png"), mask.save(tmp_path / "wide_mask.png")
    for command, cls, more, arguments in (
        ("inpaint", ScoreSdeInpaintPipeline, ["--mask", tmp_path / "wide_mask.png"], {"mask_image": mask}),
        ("colorize", ScoreSdeColorizationPipeline, [], {}),
        ("upscale", ScoreSdeSuperResolutionPipeline, ["--scale", 2], {"scale": 2}),
    ):
        given = ["--image", tmp_path / "wide.png", *more, *words, *RUN]
        run(folder, command, tmp_path / command / "out", *given, "--fit", "pad")
        pipe = loaded(cls, folder)
        images = pipe(
            image=image, **arguments, **options, num_samples=COUNT, resize="pad", generator=generators()
        ).images
        check(tmp_path / command / "out", images)
        message = run(folder, command, tmp_path / "new", *given, code=2)
        assert f"image must be {'8 x 6' if command == 'upscale' else '16 x 12'} pixels, got 20 x 12" in message
    run(folder, "restore", tmp_path / "restore" / "out", *given[:2], *words, *RUN, "--fit", "crop")
    assert written(tmp_path / "restore" / "out")[0].shape == (12, 16, 3)


def test_pictures_are_turned_upright_before_their_size_is_looked_at(folder, tmp_path):
    rotated = Image.open(folder / "a.png").resize((12, 8), 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    rotated.save(tmp_path / "turned.png", exif=exif)
    words = ["--image", tmp_path / "turned.png", "--height", 12, "--width", 8, *RUN]
    run(folder, "colorize", tmp_path / "1" / "out", *words)
    upright = rotated.transpose(Image.Transpose.ROTATE_270)
    pipe = loaded(ScoreSdeColorizationPipeline, folder)
    options = {"num_inference_steps": STEPS, "num_samples": COUNT, "height": 12, "width": 8}
    check(tmp_path / "1" / "out", pipe(upright, generator=generators(), **options).images)


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
