"""Pictures of other sizes through the commands: fitted, put back, on tiles, upright."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_runs import COUNT, RUN, STEPS, check, generators, loaded, run, written
from PIL import Image
from typer.testing import CliRunner

from scoresde_pipelines import (
    BlurOperator,
    MaskOperator,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeColorizationPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdePipeline,
    ScoreSdeSuperResolutionPipeline,
)
from scoresde_pipelines.cli import app


@pytest.fixture
def folder(command_folder: Path) -> Path:
    return command_folder


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
