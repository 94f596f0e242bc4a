"""`scoresde colorize`: several ways to color a gray picture."""

from typing import Any

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

    def problem(pipe: Any) -> dict[str, Any]:
        gray = open_picture(image, pipe, fit, tile_size=tile_size)
        tiles = {"tile_size": tile_size, "tile_overlap": tile_overlap}
        return {"image": gray, "noise_std": noise_std, "resize": fit} | tiles

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeColorizationPipeline", num_images, restoration(steps, sampler, method, problem))
