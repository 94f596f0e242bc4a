"""`scoresde restore`: several sharp, noise-free pictures behind a blurred or noisy one."""

from typing import Annotated, Any

import typer

from .command_checks import in_range
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
)
from .command_pictures import TRAINED_NETWORK, Geometry, restoration


def restore(
    model: Model,
    image: Picture,
    output: Folder,
    num_images: NumImages = 4,
    seed: Seed = 0,
    steps: Steps = None,
    sampler: Sampler = "default",
    method: Method = None,
    blur_std: Annotated[
        float,
        typer.Option(help="Of the Gaussian blur, in pixels; 0 for none.", callback=in_range("blur_std", 0)),
    ] = 0.0,
    noise_std: NoiseStd = 0.02,
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
    """Remove Gaussian blur and noise from a picture, in several ways."""

    if blur_std == 0 and noise_std == 0:
        raise typer.BadParameter("blur-std or noise-std must be positive, got 0 for both")
    geometry = Geometry(height, width, tile_size, tile_overlap, fit)

    def problem(pipe: Any) -> dict[str, Any]:
        import torch

        from .image_fit import measured_inside
        from .schedulers import BlurOperator, MaskOperator

        measurement, place = geometry.tensor(image, pipe)
        size = measurement.shape[-2:]
        # Without blur every pixel is measured.
        operator = BlurOperator.gaussian(blur_std) if blur_std else MaskOperator(torch.ones(size).bool())
        operator = measured_inside(operator, place, (size[0], size[1]))
        stated = {"measurement": measurement, "operator": operator, "noise_std": noise_std, "place": place}
        return stated | TRAINED_NETWORK | geometry.size | {"height": size[0], "width": size[1]}

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeInverseProblemPipeline", num_images, restoration(steps, sampler, method, problem))
