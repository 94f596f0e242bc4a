"""`scoresde upscale`: several pictures in the model's size whose averages are a small picture."""

from typing import Annotated, Any

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
from .command_pictures import Geometry, restoration


def upscale(
    model: Model,
    image: Picture,
    output: Folder,
    num_images: NumImages = 4,
    seed: Seed = 0,
    steps: Steps = None,
    sampler: Sampler = "default",
    method: Method = None,
    scale: Annotated[int, typer.Option(min=2, help="How many times larger.")] = 4,
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
    """Enlarge a picture to the model's size, in several ways; averages of pixels stay as they are."""

    geometry = Geometry(height, width, tile_size, tile_overlap, fit)
    with named("image"):
        geometry.check(model, image, scale=scale)

    def problem(pipe: Any) -> dict[str, Any]:
        small = geometry.open(image, pipe, scale)
        return {"image": small, "scale": scale, "noise_std": noise_std} | geometry.arguments

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeSuperResolutionPipeline", num_images, restoration(steps, sampler, method, problem), pictures=[image])
