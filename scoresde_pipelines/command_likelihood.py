"""`scoresde likelihood`: bits/dim of a data set under a model, as a table that grows row by row."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .command_checks import check_data, check_table, check_text, in_range, one_of
from .command_options import FITS, Device, Json, Model
from .command_run import best_device, named, report


# The names of the tables in `schedulers`, which imports torch.
DEQUANTIZATIONS = ("uniform", "truncated_normal", "none")
DIVERGENCES = ("exact", "hutchinson", "hutchinson_shared")


def likelihood(
    model: Model,
    data: Annotated[
        str, typer.Option(help="Folder or parquet file of images, or a Hub data set.", callback=check_data)
    ],
    output: Annotated[
        Path, typer.Option(help="Table to write or to go on with: .csv or .jsonl.", callback=check_table)
    ],
    split: Annotated[
        str,
        typer.Option(
            help="Split of the data set; of a folder without splits all images are read.", callback=check_text
        ),
    ] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Measure the first so many images only.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; results do not depend on it.")] = 16,
    fit: Annotated[str, one_of("fit", FITS, "'crop' or 'pad' to the model's resolution.")] = "crop",
    dequantization: Annotated[str, one_of("dequantization", DEQUANTIZATIONS)] = "uniform",
    num_dequantizations: Annotated[int, typer.Option(min=1, help="Draws of dequantization noise per image.")] = 1,
    importance_weighted: Annotated[
        bool, typer.Option("--importance-weighted", help="Tighter bound from several draws.")
    ] = False,
    divergence: Annotated[str, one_of("divergence", DIVERGENCES)] = "hutchinson",
    num_probes: Annotated[int, typer.Option(min=1, help="Probes per image and quadrature node.")] = 1,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Error per step of the ODE solver; 1e-5 is the paper's.",
            callback=in_range("tolerance", 0, 1, "()"),
        ),
    ] = 1e-3,
    official_cells: Annotated[
        bool, typer.Option("--official-cells", help="Dequantize as (255 x + u) / 256, like the official code.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Together with an image's index it decides all randomness.")
    ] = 0,
    device: Device = None,
    json: Json = False,
) -> None:
    """Mean bits/dim of a data set with its standard error. Run it again to go on after an interruption.

    On several processes, with or without GPUs:
    accelerate launch --multi_gpu --num_processes 2 -m scoresde_pipelines.cli likelihood ...
    """
    from .training.model_names import check_hub_name

    with named("model"):
        check_hub_name(model)
    from .likelihood_measurement import images_of_shape, measure, open_images
    from .likelihood_table import LikelihoodTable
    from .models.weight_files import fingerprint
    from .pipeline_likelihood import ScoreSdeLikelihoodPipeline
    from .schedulers.probability_flow import ODEError

    options: dict[str, Any] = {
        "dequantization": dequantization,
        "num_dequantizations": num_dequantizations,
        "importance_weighted": importance_weighted,
        "divergence": divergence,
        "num_probes": num_probes,
        "tolerance": tolerance,
        "official_cells": official_cells,
    }
    settings = {"model": model, "data": data, "split": split, "fit": fit, "seed": seed, **options}
    with named("data"):
        dataset, about = open_images(data, split)
    with named("model"):
        pipe = ScoreSdeLikelihoodPipeline.from_pretrained(model).to(best_device(device))
    channels, *size = pipe.sample_shape
    with named("data"):
        images = images_of_shape(dataset, fit, pipe.sample_shape)
    for change in about.conversions(channels, (size[0], size[1])):
        typer.secho(f"warning: {change}: bits/dim are those of the changed images", fg="yellow", err=True)
    with named("output"):
        table = LikelihoodTable(output, {**settings, "weights": fingerprint(pipe.unet)})
    count = len(images) if limit is None else min(limit, len(images))
    try:
        measure(pipe, images, table, count, batch_size, seed, options)
    except (ODEError, OSError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    mean, standard_error, done = table.summary(count)
    if done >= count:
        known_error = None if done == 1 else standard_error
        found = {"bits_per_dim": mean, "standard_error": known_error, "images": done, "table": str(output)}
        measured = f"{mean:.4f} bits/dim over 1 image"
        if known_error is not None:
            measured = f"{mean:.4f} +- {known_error:.4f} bits/dim over {done} images"
        text = f"{measured} of {data} ({split}): {output}"
        report({"model": model, "data": data, "split": split, **found}, json, text)
