"""`scoresde sample`: pictures from a model, of given classes or without."""

from typing import Annotated, Any

import typer

from .command_options import (
    BatchSize,
    Device,
    Dtype,
    Folder,
    Json,
    Model,
    NumImages,
    Overwrite,
    PictureRun,
    Sampler,
    Seed,
    Work,
    load_weak,
    set_sampler,
)


def sample(
    model: Model,
    output: Folder,
    num_images: NumImages = 4,
    steps: Annotated[int, typer.Option(min=1, help="Noise levels; 'ode' chooses its own.")] = 50,
    sampler: Sampler = "default",
    seed: Seed = 0,
    label: Annotated[
        list[str] | None, typer.Option("--class", help="Name or number; num-images of each. Repeat for more.")
    ] = None,
    guidance_scale: Annotated[float, typer.Option(min=0, help="Above 1: more typical, less varied.")] = 1.0,
    weak_model: Annotated[
        str | None, typer.Option(help="Autoguidance by this model: as --model, or a training checkpoint.")
    ] = None,
    weak_guidance_scale: Annotated[
        float | None, typer.Option(min=0, help="Of --weak-model; 1 is without, 2 by default.")
    ] = None,
    batch_size: BatchSize = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Generate pictures: one PNG each, and a grid of them."""
    labels = [] if label is None else [int(name) if name.isdigit() else name for name in label]

    def prepare(pipe: Any, work: Work) -> Any:
        options: dict[str, Any] = {"num_inference_steps": steps, "callback_on_step_end": work.step}
        options["ode_tolerance"] = set_sampler(pipe, sampler)
        options["weak_guidance_scale"] = weak_guidance_scale
        if weak_model is not None:
            options["weak_unet"] = load_weak(weak_model, pipe)

        def call(indices: range, generators: list[Any]) -> Any:
            if not labels:
                return pipe(batch_size=len(indices), generator=generators, **options)
            numbers = [_number(pipe, labels[k // num_images]) for k in indices]
            return pipe(class_labels=numbers, guidance_scale=guidance_scale, generator=generators, **options)

        return call

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    if labels:
        run("ScoreSdeClassConditionalPipeline", num_images * len(labels), prepare, num_images)
    else:
        run("ScoreSdePipeline", num_images, prepare)


def _number(pipe: Any, label: int | str) -> int:
    return label if isinstance(label, int) else pipe.get_label_ids(label)[0]
