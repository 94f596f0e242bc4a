"""The vocabulary of options that the commands share: `model: options.Model`.

Importing it needs no torch, so that `--help` is quick.
"""

from pathlib import Path
from typing import Annotated

import typer

from .command_checks import (
    check_device,
    check_folder,
    check_model,
    check_models,
    check_picture,
    check_seed,
    complete_model,
    in_range,
    one_of,
)
from .samplers import SAMPLERS


METHODS = ("moment_matching", "pseudo_inverse", "replacement")  # particles: pictures would depend on the batch
FITS = ("crop", "pad")
DTYPES = ("float32", "float16", "bfloat16")

Model = Annotated[
    str,
    typer.Option(
        help="Shipped name, folder, Hub id, or id@revision.",
        show_default=False,
        callback=check_model,
        autocompletion=complete_model,
    ),
]
WeakModel = Annotated[
    str | None,
    typer.Option(
        help="Autoguidance by this model: as --model, or a training checkpoint.",
        callback=check_models,
        autocompletion=complete_model,
    ),
]
Folder = Annotated[
    Path, typer.Option(help="Folder for the pictures and grid.png.", show_default=False, callback=check_folder)
]
Picture = Annotated[Path, typer.Option(help="Picture to start from.", show_default=False, callback=check_picture)]
Seed = Annotated[int, typer.Option(help="Image k has the generator of seed + k.", callback=check_seed)]
Device = Annotated[
    str | None, typer.Option(help="cuda, mps or cpu; the best there is by default.", callback=check_device)
]
Dtype = Annotated[str, one_of("dtype", DTYPES, "Of the network: float32, float16 or bfloat16.")]
Sampler = Annotated[str, one_of("sampler", SAMPLERS)]
Steps = Annotated[int | None, typer.Option(min=1, help="Noise levels; the method's own number by default.")]
NumImages = Annotated[int, typer.Option(min=1, help="Number of pictures.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures at a time; it does not change them.")]
Fit = Annotated[
    str | None, one_of("fit", FITS, "For another size: 'crop' takes the middle of a picture, 'pad' all of it.")
]
Height = Annotated[int | None, typer.Option(min=1, help="Of the result, in pixels; by default that of the model.")]
Width = Annotated[int | None, typer.Option(min=1, help="Of the result, in pixels; by default that of the model.")]
TileSize = Annotated[int | None, typer.Option(min=1, help="Make large pictures on tiles of this side.")]
TileOverlap = Annotated[int | None, typer.Option(min=0, help="Of tiles, in pixels; half a tile by default.")]
NoiseStd = Annotated[
    float,
    typer.Option(help="Noise of the picture, whose values lie in [0, 1].", callback=in_range("noise_std", 0)),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace pictures in an output folder with files.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Method = Annotated[str | None, one_of("method", METHODS)]
