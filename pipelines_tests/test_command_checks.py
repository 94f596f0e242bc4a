"""Options that are wrong whatever the model: every command refuses them before it loads one, and writes nothing."""

import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from scoresde_pipelines import ScoreSdePipeline, command_evaluate, command_likelihood
from scoresde_pipelines.cli import app
from scoresde_pipelines.command_checks import check_mask
from scoresde_pipelines.pipeline_pretrained import PretrainedPipeline
from scoresde_pipelines.schedulers import DEQUANTIZATIONS, DIVERGENCES
from scoresde_pipelines.training.evaluation.measures import METRICS, OTHER_METRICS


# Options that are wrong whatever the model, of every command that loads one.
GIVEN = {
    "sample": [],
    "inpaint": ["--image", "a.png", "--mask", "mask.png"],
    "colorize": ["--image", "a.png"],
    "upscale": ["--image", "small.png", "--scale", "2"],
    "restore": ["--image", "a.png"],
    "interpolate": ["--image", "a.png", "--image", "b.png"],
    "likelihood": ["--data", "pictures"],
    "evaluate": ["--data", "pictures"],
    "export": [],
}
PICTURES = ["sample", "inpaint", "colorize", "upscale", "restore", "interpolate"]
RESTORE = ["inpaint", "colorize", "upscale", "restore"]
WRONG = [
    (["--output", "a.png/out"], list(GIVEN), ("output must",)),
    (
        ["--output", "/proc/none/out"],
        [name for name in GIVEN if name != "likelihood"],
        ("output must be where one can write",),
    ),
    (["--output", "x" * 300], PICTURES, ("output must be a path",)),
    (["--model", "./" + "x" * 300], list(GIVEN), ("x" * 30,)),
    (["--output", "full"], [*PICTURES, "export"], ("output must be a new or an empty folder",)),
    (["--output", "table.txt"], ["likelihood"], ("output must be a file that ends in",)),
    (["--data", "./none"], ["likelihood", "evaluate"], ("data must be a folder or parquet file that exists",)),
    (["--data", "full"], ["likelihood", "evaluate"], ("must hold images or parquet files, 'full' has none",)),
    (
        ["--split", "train"],
        ["likelihood"],
        ("data must hold images that can be read, got image 3", "cannot identify image file"),
    ),
    (["--output", "pictures/new"], ["evaluate"], ("output must not lie in the folder of the data", "pictures/new")),
    (
        ["--split", "train", "--num-images", "3"],
        ["evaluate"],
        ("data must hold images that can be read, got image 3", "cannot identify image file"),
    ),
    (["--weak-model", "./none"], ["sample", "evaluate"], ("there is no such folder",)),
    (["--metrics", "nope"], ["evaluate"], ("metrics must be one of", "nope")),
    (["--device", "abacus"], [name for name in GIVEN if name != "export"], ("device must be an available", "abacus")),
    (["--device", "cudda"], ["sample"], ("device must be an available device, got 'cudda': did you mean 'cuda'?",)),
    (["--model", "./none"], list(GIVEN), ("there is no such folder",)),
    (["--model", "full"], list(GIVEN), ("got 'full': no model_index.json is in this folder",)),
    (["--weak-model", "full"], ["sample", "evaluate"], ("got 'full': no model_index.json is in this folder",)),
    (["--weak-guidance-scale", "2"], ["sample"], ("--weak-guidance-scale: must not be given without --weak-model",)),
    (["--guidance-scale", "2"], ["sample"], ("--guidance-scale: must be 1 without --class, got 2",)),
    (["--image", "small.png"], ["colorize", "restore"], ("image must be 8 x 8 pixels, got 4 x 4 in small.png: give",)),
    (["--image", "a.png"], ["upscale"], ("image must be 4 x 4 pixels, got 8 x 8 in a.png: give --tile-size",)),
    (["--scale", "3"], ["upscale"], ("scale must divide the network's height and width (8, 8), got 3",)),
    (["--mask", "small.png"], ["inpaint"], ("mask must have the size of the picture, 8 x 8 pixels, got 4 x 4",)),
    (["--model", "fashion-mnist-32-vp"], ["colorize"], ("model must be one of colour images", "with 1 channel")),
    (
        ["--image", "pictures/0001.png", "--output", "pictures", "--overwrite"],
        ["colorize", "restore"],
        ("output must not be the folder of 'pictures/0001.png', which would be replaced",),
    ),
    (["--dtype", "int8"], PICTURES, ("dtype must be one of", "int8")),
    (["--sampler", "nope"], ["sample", *RESTORE, "evaluate"], ("sampler must be one of", "nope")),
    (["--sampler", "adaptive_restart"], RESTORE, ("sampler must be one for a condition", "adaptive_restart")),
    (["--method", "nope"], RESTORE, ("method must be one of", "nope")),
    (["--fit", "stretch"], [*RESTORE, "interpolate", "likelihood", "evaluate"], ("fit must be one of", "stretch")),
    (["--seed", "-1"], ["sample", *RESTORE, "likelihood"], ("--seed",)),
    (["--seed", str(2**64)], ["sample", *RESTORE, "likelihood"], ("--seed",)),
    (["--steps", "0"], ["sample", *RESTORE, "evaluate"], ("steps", "1")),
    (["--noise-std", "nan"], ["colorize", "upscale", "restore"], ("noise_std must be a finite number", "nan")),
    (["--noise-std", "0"], ["restore"], ("blur-std or noise-std must be positive",)),
    (["--guidance-scale", "inf"], ["sample", "evaluate"], ("guidance_scale must be a finite number", "inf")),
    (
        ["--class", "bird"],
        ["sample"],
        ("value for --class: class_labels must be among ['cat', 'dog'], got 'bird'"),
    ),
    (["--class", "dog", "--class", "2"], ["sample"], ("class_labels must lie in 0..1, got [1, 2]",)),
    (["--class", "²"], ["sample"], ("class_labels must be among ['cat', 'dog'], got '²'",)),
    (["--tolerance", "0"], ["interpolate", "likelihood"], ("tolerance must be a finite number",)),
    (["--image", "none.png"], [*RESTORE, "interpolate"], ("picture must be a file that exists", "none.png")),
    (["--image", "text.png"], [*RESTORE, "interpolate"], ("picture must be a file that Pillow reads", "text.png")),
    (["--mask", "text.png"], ["inpaint"], ("picture must be a file that Pillow reads", "text.png")),
    (["--image", "a.png"], ["interpolate"], ("image must be given twice, got 3",)),
    (["--tile-overlap", "8", "--tile-size", "8"], ["sample", *RESTORE], ("tile_overlap must be less than",)),
    (["--tile-overlap", "2"], ["sample", *RESTORE], ("tile_overlap must be less than tile_size", "no tile_size")),
    (["--tile-size", "8", "--fit", "pad"], RESTORE, ("--fit must not be given with --tile-size alone",)),
]


@pytest.mark.parametrize(
    "words, command, messages", [(words, name, found) for words, names, found in WRONG for name in names]
)
def test_what_is_wrong_is_found_before_a_model_is_loaded(
    command_folder, tmp_path, monkeypatch, words, command, messages
):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(PretrainedPipeline, "from_pretrained", load)
    for name in ("a.png", "b.png", "small.png", "mask.png"):
        shutil.copy(command_folder / name, tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "pictures").mkdir()
    for name, copy in (("a.png", "0001.png"), ("a.png", "a.png"), ("b.png", "b.png")):
        shutil.copy(command_folder / name, tmp_path / "pictures" / copy)
    (tmp_path / "pictures" / "text.png").write_text("no picture")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    output = [] if "--output" in words else ["--output", "table.csv" if command == "likelihood" else "new"]
    model = [] if "--model" in words else ["--model", str(command_folder / "model")]
    result = CliRunner().invoke(app, [command, *model, *output, *GIVEN[command], *words])
    text = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2, text
    assert [message for message in messages if message not in text] == [], text
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "none.pth", "new"], "checkpoint must be a file that exists, got 'none.pth'"),
        (["ema", "none", "--sigma-rel", "0.1", "--output", "new"], "run must be a folder that exists, got 'none'"),
        (["ema", "full", "--sigma-rel", "0.1", "--output", "new"], "no model_index.json is in this folder"),
        (["info", "--model", "full"], "no model_index.json is in this folder"),
    ],
)
def test_files_and_folders_that_are_not_there_are_named(tmp_path, monkeypatch, words, message):
    (tmp_path / "full").mkdir()
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and message in " ".join(result.output.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_frames_and_transparency_that_a_result_cannot_hold_are_said(command_folder, tmp_path):
    frames = [Image.open(command_folder / f"{name}.png") for name in "ab"]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    mask = Image.open(command_folder / "mask.png")
    for name, alpha in (("half.png", mask), ("opaque.png", 255)):
        with_alpha = frames[0].convert("RGBA")
        with_alpha.putalpha(alpha)
        with_alpha.save(tmp_path / name)
    for name, message in (
        ("two.gif", "two.gif has 2 frames: the first one is taken"),
        ("half.png", "half.png is transparent in parts: they become white"),
        ("opaque.png", None),
    ):
        words = ["colorize", "--model", command_folder / "model", "--image", tmp_path / name, "--num-images", 1]
        words += ["--steps", 2, "--device", "cpu", "--output", tmp_path / "out" / name]
        result = CliRunner().invoke(app, list(map(str, words)))
        said = " ".join(result.stderr.split())
        assert result.exit_code == 0 and (message is None or message in said)
        assert ("has 2 frames" in said, "is transparent" in said) == (name == "two.gif", name == "half.png")


def test_too_little_memory_is_said_without_the_text_of_the_allocator(command_folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 120000000000 bytes.\nmore"
        )

    monkeypatch.setattr(ScoreSdePipeline, "__call__", fail)
    words = ["sample", "--model", command_folder / "model", "--device", "cpu", "--output", tmp_path / "out"]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 1
    assert "error: memory must hold the pictures of a batch: make fewer at a time, or smaller ones" in result.stderr
    assert "more" not in result.stderr and list(tmp_path.iterdir()) == []


def test_a_blur_wider_than_the_picture_is_refused_by_its_name(command_folder, tmp_path):
    words = ["restore", "--model", command_folder / "model", "--image", command_folder / "a.png", "--blur-std", 2]
    result = CliRunner().invoke(app, list(map(str, [*words, "--device", "cpu", "--output", tmp_path / "out"])))
    assert result.exit_code == 2
    assert "blur_std must be a finite number in [0, 1], got 2.0" in " ".join(result.output.replace("│", " ").split())


def test_a_black_mask_is_refused_before_a_model_is_loaded(tmp_path):
    for name, value in (("image", 255), ("black", 127), ("white", 128)):
        Image.new("L", (8, 8), value).save(tmp_path / f"{name}.png")
    check_mask(tmp_path / "image.png", tmp_path / "white.png")
    with pytest.raises(ValueError, match="mask must be white where to repaint, got one that is black everywhere"):
        check_mask(tmp_path / "image.png", tmp_path / "black.png")


def test_names_that_are_checked_without_torch_are_those_of_the_tables():
    assert set(command_likelihood.DEQUANTIZATIONS) == set(DEQUANTIZATIONS)
    assert set(command_likelihood.DIVERGENCES) == set(DIVERGENCES)
    assert (*METRICS, *OTHER_METRICS) == command_evaluate.METRICS
