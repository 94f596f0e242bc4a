"""`scoresde sample`: pictures from a model, of given classes or without."""

from typing import Annotated, Any

import typer

from . import command_options as options
from .command_checks import check_classes, in_range
from .command_pictures import Geometry
from .command_run import PictureRun, Work, load_weak, named, set_sampler
from .model_facts import Classes


def sample(
    model: options.Model,
    output: options.Folder,
    num_images: options.NumImages = 4,
    steps: Annotated[int, typer.Option(min=1, help="Noise levels; 'ode' chooses its own.")] = 50,
    sampler: options.Sampler = "default",
    seed: options.Seed = 0,
    label: Annotated[
        list[str] | None, typer.Option("--class", help="Name or number; num-images of each. Repeat for more.")
    ] = None,
    guidance_scale: Annotated[
        float,
        typer.Option(help="Above 1: more typical, less varied.", callback=in_range("guidance_scale", 0)),
    ] = 1.0,
    height: options.Height = None,
    width: options.Width = None,
    tile_size: options.TileSize = None,
    tile_overlap: options.TileOverlap = None,
    weak_model: options.WeakModel = None,
    weak_guidance_scale: Annotated[
        float | None,
        typer.Option(help="Of --weak-model; 1 is without, 2 by default.", callback=in_range("weak_guidance_scale", 0)),
    ] = None,
    batch_size: options.BatchSize = 16,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Generate pictures: one PNG each, and a grid of them."""
    size = Geometry(height, width, tile_size, tile_overlap).size
    labels = label or []
    with named("class"):
        check_classes(model, labels)
    if guidance_scale != 1 and not labels:
        raise typer.BadParameter(f"must be 1 without --class, got {guidance_scale:g}", param_hint="--guidance-scale")
    if weak_guidance_scale is not None and weak_model is None:
        raise typer.BadParameter("must not be given without --weak-model", param_hint="--weak-guidance-scale")

    def prepare(pipe: Any, work: Work) -> Any:
        settings: dict[str, Any] = {"num_inference_steps": steps, "callback_on_step_end": work.step, **size}
        settings |= set_sampler(pipe, sampler)
        settings["weak_guidance_scale"] = weak_guidance_scale
        if weak_model is not None:
            settings["weak_unet"] = load_weak(weak_model, pipe)

        def call(indices: range, generators: list[Any]) -> Any:
            if not labels:
                return pipe(batch_size=len(indices), generator=generators, **settings)
            classes = Classes(pipe.labels, pipe.num_classes)
            numbers = classes.numbered([labels[k // num_images] for k in indices])
            return pipe(class_labels=numbers, guidance_scale=guidance_scale, generator=generators, **settings)

        return call

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    if labels:
        run("ScoreSdeClassConditionalPipeline", num_images * len(labels), prepare, num_images)
    else:
        run("ScoreSdePipeline", num_images, prepare)
