"""`scoresde evaluate`: models x samplers x steps against real images, in one table with standard errors."""

from pathlib import Path
from typing import Annotated

import typer

from .command_checks import check_data, check_folder, check_models, complete_model, one_of
from .command_options import FITS, Device, Json, WeakModel
from .command_run import report
from .samplers import SAMPLERS


METRICS = ("kid", "fd", "is", "pr", "bpd", "nn")
METRICS_HELP = f"{', '.join(METRICS)}; repeat for more."
SAMPLER_HELP = f"One of {', '.join(SAMPLERS)}; repeat for more."


def evaluate(
    model: Annotated[
        list[str],
        typer.Option(
            help="Shipped name, folder, Hub id, or a quoted pattern 'runs/x/checkpoint-*'; repeat for more.",
            callback=check_models,
            autocompletion=complete_model,
        ),
    ],
    data: Annotated[
        str, typer.Option(help="Folder or parquet file of images, or a Hub data set.", callback=check_data)
    ],
    output: Annotated[Path, typer.Option(help="Folder to write, or to go on with.", callback=check_folder)],
    split: Annotated[str, typer.Option(help="Split of the data to compare with.")] = "test",
    sampler: Annotated[list[str], one_of("sampler", SAMPLERS, SAMPLER_HELP)] = ["default"],  # noqa: B006
    steps: Annotated[list[int], typer.Option(min=1, help="Noise levels; repeat for more.")] = [50],  # noqa: B006
    seeds: Annotated[list[int], typer.Option(help="Each gives num-images images; repeat for more.")] = [0],  # noqa: B006
    num_images: Annotated[int, typer.Option(min=1, help="Images of each row and seed, and real ones.")] = 1000,
    features: Annotated[
        str | None,
        typer.Option(
            help="efficientnet-lite0 (default), fashion-mnist-32, emoji-32, inception, or a transformers model."
        ),
    ] = None,
    metrics: Annotated[list[str], one_of("metrics", METRICS, METRICS_HELP)] = ["kid", "fd"],  # noqa: B006
    guidance_scale: Annotated[
        list[float] | None, typer.Option(help="Images of given classes, with this guidance; repeat for more.")
    ] = None,
    weak_model: WeakModel = None,
    weak_guidance_scale: Annotated[
        list[float] | None, typer.Option(help="Of --weak-model; 1 is without, 2 by default; repeat for more.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    fit: Annotated[str | None, one_of("fit", FITS, "'crop' or 'pad' real images to the models' size.")] = None,
    num_reference: Annotated[
        int | None, typer.Option(min=1, help="Real images to compare with, if not num-images.")
    ] = None,
    train_split: Annotated[str, typer.Option(help="Split with the training images, for the metric nn.")] = "train",
    num_bpd_images: Annotated[int, typer.Option(min=1, help="Real images for the metric bpd.")] = 16,
    features_weights: Annotated[Path | None, typer.Option(help="Weights file of the features 'inception'.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Where features of real images are kept.")] = None,
    npz: Annotated[bool, typer.Option("--npz", help="Also write images for public evaluation suites.")] = False,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="Also write the figures into the models' README.md.")
    ] = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Models x samplers x steps against real images. Run it again to go on after an interruption.

    On several processes, with or without GPUs:
    accelerate launch --multi_gpu --num_processes 2 -m scoresde_pipelines.cli evaluate ...
    """
    from .evaluation import evaluate as run_evaluation
    from .training.evaluation.report import markdown_table

    try:
        result = run_evaluation(
            model,
            data,
            output,
            split=split,
            samplers=sampler,
            steps=steps,
            seeds=seeds,
            num_images=num_images,
            features=features,
            metrics=metrics,
            guidance_scale=guidance_scale or None,
            weak_model=weak_model,
            weak_guidance_scale=weak_guidance_scale or None,
            batch_size=batch_size,
            fit=fit,
            num_reference=num_reference,
            train_split=train_split,
            num_bpd_images=num_bpd_images,
            features_weights=features_weights,
            cache_dir=cache_dir,
            npz=npz,
            write_cards=write_card,
            device=device,
        )
    except (ValueError, ImportError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    report({**result.as_dict(), "folder": str(output)}, json, f"{markdown_table(result)}\nwritten to {output}")
