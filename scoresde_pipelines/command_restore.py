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
    named,
)
from .command_pictures import Geometry, restoration


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
    with named("image"):
        geometry.check(model, image)

    def problem(pipe: Any) -> dict[str, Any]:
        from .deblurring import TRAINED_NETWORK, Deblurring

        given = Deblurring.of(geometry.tensor(image, pipe), geometry.fitted_size(pipe), geometry.fit, blur_std)
        height, width = given.measurement.shape[-2:]
        stated = {"measurement": given.measurement, "operator": given.operator, "place": given.place}
        stated |= {"noise_std": noise_std, **TRAINED_NETWORK, **geometry.size}
        return stated | {"height": height, "width": width}

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeInverseProblemPipeline", num_images, restoration(steps, sampler, method, problem), pictures=[image])
