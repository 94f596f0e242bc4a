"""`scoresde upscale`: several pictures in the model's size whose averages are a small picture."""

from typing import Annotated, Any

import typer

from .command_options import (
    BatchSize,
    Device,
    Dtype,
    Fit,
    Folder,
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
    open_picture,
    restoration,
)


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

    def problem(pipe: Any) -> dict[str, Any]:
        small = open_picture(image, pipe, fit, scale, tile_size)
        tiles = {"tile_size": tile_size, "tile_overlap": tile_overlap}
        return {"image": small, "scale": scale, "noise_std": noise_std, "resize": fit} | tiles

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeSuperResolutionPipeline", num_images, restoration(steps, sampler, method, problem))
