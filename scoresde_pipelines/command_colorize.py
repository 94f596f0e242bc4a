"""`scoresde colorize`: several ways to color a gray picture."""

from typing import Any

import typer

from .command_options import (
    BatchSize,
    Device,
    Dtype,
    Fit,
    Folder,
    Height,
    Json,
    Method,
    Model,
    NoiseStd,
    NumImages,
    Overwrite,
    Picture,
    PictureRun,
    Sampler,
    Seed,
    Steps,
    TileOverlap,
    TileSize,
    Width,
    named,
)
from .command_pictures import Geometry, model_shape, restoration


def colorize(
    model: Model,
    image: Picture,
    output: Folder,
    num_images: NumImages = 4,
    seed: Seed = 0,
    steps: Steps = None,
    sampler: Sampler = "default",
    method: Method = None,
    fit: Fit = None,
    height: Height = None,
    width: Width = None,
    tile_size: TileSize = None,
    tile_overlap: TileOverlap = None,
    noise_std: NoiseStd = 0.0,
    batch_size: BatchSize = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    json: Json = False,
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
