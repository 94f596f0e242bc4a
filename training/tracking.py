"""Accelerate and its trackers (TensorBoard, Weights & Biases)."""

import argparse
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, is_tensorboard_available, is_wandb_available

from .durable_files import explain_disk_error


INSTALLED = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available, "none": lambda: True}


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    """Accelerate, with the tracker of `--report_to`, or a warning and none where it is not installed.

    By default that is TensorBoard, where it is installed: an extra that was not asked for is not missed.
    """
    default = "tensorboard" if INSTALLED["tensorboard"]() else "none"
    tracker = default if args.report_to is None else args.report_to
    if not INSTALLED[tracker]():
        warnings.warn(
            f"--report_to {tracker}: the package {tracker} is not installed, nothing is logged", stacklevel=2
        )
        tracker = "none"
    accelerator = Accelerator(
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        mixed_precision=args.mixed_precision,
        cpu=args.cpu,
        dynamo_backend=dynamo_backend(args),
        log_with=None if tracker == "none" else tracker,
        project_config=ProjectConfiguration(
            project_dir=args.output_dir, logging_dir=str(Path(args.output_dir) / args.logging_dir)
        ),
    )
    # Trackers take plain values only.
    config = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in vars(args).items()}
    config.pop("hub_token", None)
    with _disk_errors(accelerator):
        accelerator.init_trackers(Path(args.output_dir).name, config=config)
    return accelerator


def dynamo_backend(args: argparse.Namespace) -> str | None:
    """What compiles the network with `--compile`; None leaves it to the choice of `accelerate config`, else nothing does.

    Raises:
        ValueError: the choice of `accelerate config` would give wrong gradients.
    """
    configured = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if configured == "eager" and args.gradient_checkpointing:
        # It computes activations again with other dropout masks (seen with torch 2.13); aot_eager and inductor do not.
        raise ValueError("the dynamo backend must be another one with --gradient_checkpointing, got eager")
    return "inductor" if args.compile and configured == "no" else None


@contextmanager
def _disk_errors(accelerator: Accelerator) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_disk_error(error, "the logs", accelerator.logging_dir or "", "checkpoints are intact") from error


def log(accelerator: Accelerator, values: Mapping[str, float], step: int) -> None:
    """Sends numbers to every tracker.

    Raises:
        OSError: the logs cannot be written; the message says where, and whether the disk is full.
    """
    with _disk_errors(accelerator):
        accelerator.log(dict(values), step=step)


def end_logs(accelerator: Accelerator) -> None:
    """Writes what the trackers still hold and closes them; raises as `log`."""
    with _disk_errors(accelerator):
        accelerator.end_training()


def log_images(accelerator: Accelerator, images: torch.Tensor, step: int) -> None:
    """Sends uint8 images (B, C, H, W) to every tracker."""
    arrays = images.permute(0, 2, 3, 1).numpy()
    for tracker in accelerator.trackers:
        options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        with _disk_errors(accelerator):
            tracker.log_images({"samples": arrays}, step=step, **options)
