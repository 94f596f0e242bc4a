"""`scoresde inpaint`: several ways to fill in the white part of a mask."""

from pathlib import Path
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


def inpaint(
    model: Model,
    image: Picture,
    mask: Annotated[Path, typer.Option(help="White where to repaint.", show_default=False)],
    output: Folder,
    num_images: NumImages = 4,
    seed: Seed = 0,
    steps: Steps = None,
    sampler: Sampler = "default",
    method: Method = None,
    fit: Fit = None,
    tile_size: TileSize = None,
    tile_overlap: TileOverlap = None,
    batch_size: BatchSize = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fill in a part of a picture, in several ways; the rest stays exactly as it is."""

    def problem(pipe: Any) -> dict[str, Any]:
        whole, white = (open_picture(path, pipe, fit, tile_size=tile_size) for path in (image, mask))
        tiles = {"tile_size": tile_size, "tile_overlap": tile_overlap}
        return {"image": whole, "mask_image": white, "resize": fit} | tiles

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeInpaintPipeline", num_images, restoration(steps, sampler, method, problem))
