"""Options that are wrong whatever the model: every command refuses them before it loads one, and writes nothing."""

import shutil

import pytest
from typer.testing import CliRunner

from scoresde_pipelines.cli import app
from scoresde_pipelines.pipeline_pretrained import PretrainedPipeline


# Options that are wrong whatever the model, of every command that loads one.
GIVEN = {
    "sample": [],
    "inpaint": ["--image", "a.png", "--mask", "mask.png"],
    "colorize": ["--image", "a.png"],
    "upscale": ["--image", "small.png"],
    "restore": ["--image", "a.png"],
    "interpolate": ["--image", "a.png", "--image", "b.png"],
    "likelihood": ["--data", "."],
    "evaluate": ["--data", "."],
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
    (["--data", ".", "--split", "train"], ["likelihood"], ("data must hold images that can be read", "text.png")),
    (
        ["--data", ".", "--split", "train", "--num-images", "3"],
        ["evaluate"],
        ("data must hold images that can be read", "text.png"),
    ),
    (["--weak-model", "./none"], ["sample", "evaluate"], ("there is no such folder",)),
    (["--metrics", "nope"], ["evaluate"], ("metrics must be among", "nope")),
    (["--device", "abacus"], [name for name in GIVEN if name != "export"], ("device must be an available", "abacus")),
    (["--model", "./none"], list(GIVEN), ("there is no such folder",)),
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
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    output = [] if "--output" in words else ["--output", "table.csv" if command == "likelihood" else "new"]
    model = [] if "--model" in words else ["--model", str(command_folder / "model")]
    result = CliRunner().invoke(app, [command, *model, *output, *GIVEN[command], *words])
    text = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2, text
    assert [message for message in messages if message not in text] == [], text
    assert sorted(tmp_path.rglob("*")) == before
