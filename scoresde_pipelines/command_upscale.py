"""`scoresde upscale`: several pictures in the model's size whose averages are a small picture."""

from typing import Annotated, Any

import typer

from . import command_options as options
from .command_pictures import Geometry, restoration
from .command_run import PictureRun, named


def upscale(
    model: options.Model,
    image: options.Picture,
    output: options.Folder,
    num_images: options.NumImages = 4,
    seed: options.Seed = 0,
    steps: options.Steps = None,
    sampler: options.Sampler = "default",
    method: options.Method = None,
    scale: Annotated[int, typer.Option(min=2, help="How many times larger.")] = 4,
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
    """Enlarge a picture to the model's size, in several ways; averages of pixels stay as they are."""

    geometry = Geometry(height, width, tile_size, tile_overlap, fit)
    with named("image"):
        geometry.check(model, image, scale=scale)

    def problem(pipe: Any) -> dict[str, Any]:
        small = geometry.open(image, pipe, scale)
        return {"image": small, "scale": scale, "noise_std": noise_std} | geometry.arguments

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeSuperResolutionPipeline", num_images, restoration(steps, sampler, method, problem), pictures=[image])
