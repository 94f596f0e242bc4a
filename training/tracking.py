"""Accelerate and its trackers (TensorBoard, Weights & Biases)."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, is_tensorboard_available, is_wandb_available


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    """Accelerate, with its tracker; checks that the tracker is installed."""
    installed = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available, "none": lambda: True}
    if not installed[args.logger]():
        raise ImportError(f"--logger {args.logger} needs the package {args.logger}; install it or use --logger none")
    accelerator = Accelerator(
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        mixed_precision=args.mixed_precision,
        cpu=args.cpu,
        log_with=None if args.logger == "none" else args.logger,
        project_config=ProjectConfiguration(
            project_dir=args.output_dir, logging_dir=str(Path(args.output_dir) / args.logging_dir)
        ),
    )
    # Trackers take plain values only.
    config = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in vars(args).items()}
    config.pop("hub_token")
    accelerator.init_trackers(Path(args.output_dir).name, config=config)
    return accelerator


def log_images(accelerator: Accelerator, images: torch.Tensor, step: int) -> None:
    """Sends uint8 images (B, C, H, W) to every tracker."""
    arrays = images.permute(0, 2, 3, 1).numpy()
    for tracker in accelerator.trackers:
        options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({"samples": arrays}, step=step, **options)
