"""`scoresde inpaint`: several ways to fill in the white part of a mask."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .command_checks import check_mask, check_picture
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


def inpaint(
    model: Model,
    image: Picture,
    mask: Annotated[Path, typer.Option(help="White where to repaint.", show_default=False, callback=check_picture)],
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
    batch_size: BatchSize = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fill in a part of a picture, in several ways; the rest stays exactly as it is."""

    geometry = Geometry(height, width, tile_size, tile_overlap, fit)
    with named("mask"):
        check_mask(image, mask)
    with named("image"):
        geometry.check(model, image, mask)

    def problem(pipe: Any) -> dict[str, Any]:
        whole, white = (geometry.open(path, pipe, whole=True) for path in (image, mask))
        return {"image": whole, "mask_image": white} | geometry.arguments

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeInpaintPipeline", num_images, restoration(steps, sampler, method, problem), pictures=[image, mask])
