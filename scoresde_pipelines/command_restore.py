"""`scoresde restore`: several sharp, noise-free pictures behind a blurred or noisy one."""

from typing import Annotated, Any

import typer

from .command_options import (
    TRAINED_NETWORK,
    BatchSize,
    Device,
    Dtype,
    Fit,
    Folder,
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
    picture_tensor,
    restoration,
)


def restore(
    model: Model,
    image: Picture,
    output: Folder,
    num_images: NumImages = 4,
    seed: Seed = 0,
    steps: Steps = None,
    sampler: Sampler = "default",
    method: Method = None,
    blur_std: Annotated[float, typer.Option(min=0, help="Of the Gaussian blur, in pixels; 0 for none.")] = 0.0,
    noise_std: NoiseStd = 0.02,
    fit: Fit = None,
    batch_size: BatchSize = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Remove Gaussian blur and noise from a picture, in several ways."""

    def problem(pipe: Any) -> dict[str, Any]:
        import torch

        from .schedulers import BlurOperator, MaskOperator

        if blur_std == 0 and noise_std == 0:
            raise ValueError("blur-std or noise-std must be positive, got 0 for both")
        # Without blur every pixel is measured.
        operator = (
            BlurOperator.gaussian(blur_std) if blur_std else MaskOperator(torch.ones(pipe.sample_shape[1:]).bool())
        )
        measurement = picture_tensor(image, pipe, fit)
        return {"measurement": measurement, "operator": operator, "noise_std": noise_std} | TRAINED_NETWORK

    run = PictureRun(model, output, seed, device, dtype, batch_size, overwrite, json)
    run("ScoreSdeInverseProblemPipeline", num_images, restoration(steps, sampler, method, problem))
