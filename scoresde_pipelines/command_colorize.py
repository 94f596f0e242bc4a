"""`scoresde colorize`: several ways to color a gray picture."""

from typing import Any

import typer

from . import command_options as options
from .command_pictures import Geometry, model_shape, restoration
from .command_run import PictureRun, named


def colorize(
    model: options.Model,
    image: options.Picture,
    output: options.Folder,
    num_images: options.NumImages = 4,
    seed: options.Seed = 0,
    steps: options.Steps = None,
    sampler: options.Sampler = "default",
    method: options.Method = None,
    fit: options.Fit = None,
    height: options.Height = None,
    width: options.Width = None,
    tile_size: options.TileSize = None,
    tile_overlap: options.TileOverlap = None,
    noise_std: options.NoiseStd = 0.0,
    batch_size: options.BatchSize = 16,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Color a gray picture, in several ways. Of a color picture the mean of the channels is taken."""

    geometry = Geometry(height, width, tile_size, tile_overlap, fit)
    shape = model_shape(model)
    if shape is not None and shape[0] == 1:
        message = f"model must be one of colour images, got {model!r} with 1 channel"
        raise typer.BadParameter(message, param_hint="--model")
    with named("image"):
        geometry.check(model, image)

    def problem(pipe: Any) -> dict[str, Any]:
        gray = geometry.open(image, pipe)
        return {"image": gray, "noise_std": noise_std} | geometry.arguments

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeColorizationPipeline", num_images, restoration(steps, sampler, method, problem), pictures=[image])
