"""`scoresde interpolate`: a path of pictures between two."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import command_options as options
from .command_checks import check_picture, in_range
from .command_pictures import Geometry
from .command_run import PictureRun, Work, named


def interpolate(
    model: options.Model,
    image: Annotated[
        list[Path], typer.Option(help="The first and the last picture: give it twice.", callback=check_picture)
    ],
    output: options.Folder,
    num_images: Annotated[int, typer.Option(min=2, help="Pictures of the path, both ends included.")] = 8,
    tolerance: Annotated[
        float,
        typer.Option(help="Error per step of the ODE solver.", callback=in_range("tolerance", 0, 1, "()")),
    ] = 1e-3,
    fit: options.Fit = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """A row of pictures from one to another, along their codes of the probability-flow ODE."""
    if len(image) != 2:
        raise typer.BadParameter(f"image must be given twice, got {len(image)}", param_hint="--image")
    geometry = Geometry(fit=fit)
    with named("image"):
        geometry.check(model, *image, tiles=False)

    def prepare(pipe: Any, work: Work) -> Any:
        from .image_fit import fit_images

        size = geometry.fitted_size(pipe) or pipe.sample_shape[1:]
        first, last = (fit_images(geometry.tensor(path, pipe, tiles=False), size, geometry.fit) for path in image)
        return lambda indices, generators: pipe.interpolate(first, last, num_images, tolerance)

    run = PictureRun(model, output, 0, device, dtype, num_images, overwrite, json)
    run("ScoreSdeLikelihoodPipeline", num_images, prepare, num_images, image)
