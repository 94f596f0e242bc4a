"""`scoresde restore`: several sharp, noise-free pictures behind a blurred or noisy one."""

from typing import Annotated, Any

import typer

from . import command_options as options
from .command_checks import in_range
from .command_pictures import Geometry, restoration
from .command_run import PictureRun, named


def restore(
    model: options.Model,
    image: options.Picture,
    output: options.Folder,
    num_images: options.NumImages = 4,
    seed: options.Seed = 0,
    steps: options.Steps = None,
    sampler: options.Sampler = "default",
    method: options.Method = None,
    blur_std: Annotated[
        float,
        typer.Option(help="Of the Gaussian blur, in pixels; 0 for none.", callback=in_range("blur_std", 0)),
    ] = 0.0,
    noise_std: options.NoiseStd = 0.02,
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
