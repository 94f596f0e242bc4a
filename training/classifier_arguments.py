"""Command-line arguments of `train_classifier`, named as in `train_unconditional` wherever it has them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .arguments import SDE_NAMES
from .interruption import EXIT_CODES
from .run_settings import add_resume_arguments


def parse_classifier_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments.

    Raises:
        SystemExit: an argument is unknown, malformed or out of range (argparse prints which).
    """
    parser = argparse.ArgumentParser(
        description="Train a noise-conditional classifier for class-conditional generation (Song et al. 2021, section 5).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog=EXIT_CODES,
    )
    for add_group in (_data, _model, _optimization, _run):
        add_group(parser)
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_name", help="data set on the Hub, or a local folder that `datasets` understands")
    group.add_argument("--dataset_config_name", help="configuration of that data set")
    group.add_argument("--train_data_dir", help="a folder of images or parquet files, or one parquet file")
    group.add_argument("--split", default="train", help="split to train on")
    group.add_argument("--validation_split", help="split whose accuracy is logged at the end; default: none")
    group.add_argument("--cache_dir", help="where downloaded data sets are kept")
    group.add_argument("--image_column", help="column with the images; found by itself where there is one")
    group.add_argument("--label_column", default="label", help="column with the classes, integers from 0")
    group.add_argument("--resolution", type=int, default=32, help="side of the images in pixels, divisible by 4")
    group.add_argument("--channels", type=int, choices=(1, 3, 4), default=3, help="channels of the images")
    group.add_argument("--image_fit", choices=("crop", "pad"), default="crop",
                       help="crop: resize and crop the centre; pad: put smaller images on a background")  # fmt: skip
    group.add_argument("--pad_value", type=int, default=0, help="gray value of that background, 0 to 255")
    group.add_argument("--random_flip", action="store_true", help="mirror images at random")
    group.add_argument(
        "--max_cached_gb", type=float, default=4.0, help="decode the images into memory up to this size"
    )


def _model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--sde", choices=SDE_NAMES, default="vp", help="whose noise levels it learns")
    group.add_argument("--sigma_min", type=float, default=0.01, help="smallest noise of the VE SDE")
    group.add_argument("--sigma_max", type=float, default=50.0, help="largest noise of the VE SDE")
    group.add_argument("--depth", type=int, default=28, help="of the wide ResNet, 6 n + 4")
    group.add_argument("--width", type=int, default=10, help="of the wide ResNet, times 16, 32, 64 channels")
    group.add_argument("--dropout", type=float, default=0.0, help="dropout inside the residual blocks")
    group.add_argument("--training_eps", type=float, default=1e-5, help="smallest time that is trained")


def _optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization")
    group.add_argument("--train_batch_size", type=int, default=128, help="images per step and device")
    group.add_argument("--max_train_steps", type=int, default=20_000, help="number of updates")
    group.add_argument("--learning_rate", type=float, default=3e-4)
    group.add_argument("--lr_scheduler", default="cosine", choices=("cosine", "linear", "constant_with_warmup"))
    group.add_argument("--lr_warmup_steps", type=int, default=500)
    group.add_argument("--adam_weight_decay", type=float, default=1e-2)
    group.add_argument("--max_grad_norm", type=float, default=1.0, help="gradient clipping; 0 turns it off")
    group.add_argument("--ema_max_decay", type=float, default=0.999, help="of the averaged weights, which are saved")


def _run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--output_dir", default="classifier", help="the classifier, checkpoints and logs go here")
    group.add_argument("--seed", type=int, default=0, help="fixes weights, data order, times and noise")
    group.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"),
                       help="precision inside the network; noise stays float32; default: accelerate's")  # fmt: skip
    group.add_argument("--cpu", action="store_true", help="train on the CPU even where there is a GPU")
    group.add_argument("--checkpointing_steps", type=int, default=1000, help="updates between two checkpoints")
    group.add_argument("--checkpoints_total_limit", type=int, help="how many checkpoints are kept; default: all")
    add_resume_arguments(group)
    group.add_argument("--logger", choices=("tensorboard", "wandb", "none"), default="tensorboard")
    group.add_argument("--logging_dir", default="logs", help="folder for TensorBoard, inside output_dir")
    group.add_argument("--logging_steps", type=int, default=50, help="updates between two logged losses")


AT_LEAST_ONE = (
    "resolution", "train_batch_size", "max_train_steps", "width", "checkpointing_steps", "checkpoints_total_limit",
    "logging_steps",
)  # fmt: skip


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for name in AT_LEAST_ONE:
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}, expected at least 1")
    if args.resolution % 4:
        parser.error(f"--resolution is {args.resolution}, expected a multiple of 4")
    if (args.dataset_name is None) == (args.train_data_dir is None):
        parser.error("give either --dataset_name (a data set on the Hub) or --train_data_dir (a local folder)")
