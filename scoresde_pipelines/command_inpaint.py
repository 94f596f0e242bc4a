"""`scoresde inpaint`: several ways to fill in the white part of a mask."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import command_options as options
from .command_checks import check_mask, check_picture
from .command_pictures import Geometry, restoration
from .command_run import PictureRun, named


def inpaint(
    model: options.Model,
    image: options.Picture,
    mask: Annotated[Path, typer.Option(help="White where to repaint.", show_default=False, callback=check_picture)],
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
    batch_size: options.BatchSize = 16,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
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
