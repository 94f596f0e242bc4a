"""Command-line arguments of the training script, named as in diffusers' unconditional example wherever it has them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .interruption import EXIT_CODES
from .run_settings import add_resume_arguments


SDE_NAMES = ("ve", "vp", "subvp")
NETWORK_NAMES = ("ncsnpp", "ddpmpp")
LR_SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "piecewise_constant",
)  # fmt: skip


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments.

    Raises:
        SystemExit: an argument is unknown, malformed or out of range (argparse prints which).
    """
    parser = _parser()
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def default_arguments() -> dict[str, Any]:
    """Every argument with its default."""
    return vars(_parser().parse_args([]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train or fine-tune a score-based generative model (Song et al. 2021) on images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog=EXIT_CODES,
    )
    for add_group in (_data, _model, _objective, _optimization, _run, _hub):
        add_group(parser)
    return parser


def _data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_name", help="data set on the Hub, or a local folder that `datasets` understands")
    group.add_argument("--dataset_config_name", help="configuration of that data set")
    group.add_argument("--train_data_dir", help="a folder of images or parquet files, or one parquet file")
    group.add_argument("--split", default="train", help="split to train on")
    group.add_argument("--cache_dir", help="where downloaded models and data sets are kept")
    group.add_argument("--image_column", help="column with the images; found by itself where there is one")
    group.add_argument("--resolution", type=int, help="side of the images in pixels; default: the network's, else 64")
    group.add_argument(
        "--channels", type=int, choices=(1, 3, 4), help="default: the network's, else the first image's"
    )
    group.add_argument("--image_fit", choices=("crop", "pad"), default="crop",
                       help="crop: resize and crop the centre; pad: put smaller images on a background")  # fmt: skip
    group.add_argument("--pad_value", type=int, default=0, help="gray value of that background, 0 to 255")
    group.add_argument(
        "--center_crop", action="store_true", help="accepted for compatibility: crops are always central"
    )
    group.add_argument("--random_flip", action="store_true", help="mirror images at random")
    group.add_argument(
        "--max_cached_gb", type=float, default=4.0, help="decode the images into memory up to this size"
    )
    group.add_argument("--dataloader_num_workers", type=int, default=0, help="processes that decode images")


def _model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--pretrained_model_name_or_path", help="pipeline to fine-tune: a folder or Hub id")
    group.add_argument("--model_config_name_or_path", help="config.json of the network, or its folder")
    group.add_argument("--network", choices=NETWORK_NAMES, help="default: ncsnpp for ve, else ddpmpp")
    group.add_argument("--block_out_channels", type=int, nargs="+", help="channels at each resolution")
    group.add_argument("--layers_per_block", type=int, help="residual blocks at each resolution")
    group.add_argument("--attention_resolutions", type=int, nargs="*", help="resolutions with self-attention")
    group.add_argument("--dropout", type=float, help="dropout inside the residual blocks")
    group.add_argument("--sde", choices=SDE_NAMES, help="default: vp, or the SDE of the pretrained pipeline")
    group.add_argument("--prediction_type", choices=("epsilon", "score", "sample", "v_prediction"),
                       help="what the network's output means; default: the SDE's in the paper")  # fmt: skip
    group.add_argument("--sigma_min", type=float, help="smallest noise of the VE SDE")
    group.add_argument("--sigma_max", type=float, help="largest noise of the VE SDE")
    group.add_argument("--predictor", help="predictor that the saved scheduler uses")
    group.add_argument("--corrector", help="corrector that the saved scheduler uses")
    group.add_argument("--snr", type=float, help="signal-to-noise ratio of the Langevin corrector")


def _objective(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("objective")
    group.add_argument("--likelihood_weighting", action="store_true", help="weight with g^2 instead of sigma^2")
    group.add_argument("--importance_sampling", action="store_true",
                       help="the likelihood-weighted loss with times drawn in proportion to its weight")  # fmt: skip
    group.add_argument("--time_sampling", choices=("stratified", "uniform"), default="stratified",
                       help="how a batch covers the times")  # fmt: skip
    group.add_argument("--training_eps", type=float, default=1e-5, help="smallest time that is trained")
    group.add_argument("--sum_loss", action="store_true", help="half the sum over pixels instead of their mean")


def _optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization")
    group.add_argument("--train_batch_size", type=int, default=16, help="images per step and device")
    group.add_argument("--gradient_accumulation_steps", type=int, default=1, help="batches per update")
    group.add_argument("--num_epochs", type=int, default=100)
    group.add_argument("--max_train_steps", type=int, help="number of updates; overrides num_epochs")
    group.add_argument("--learning_rate", type=float, default=2e-4)
    group.add_argument("--lr_scheduler", choices=LR_SCHEDULERS, default="constant_with_warmup")
    group.add_argument("--lr_warmup_steps", type=int, default=500)
    group.add_argument("--adam_beta1", type=float, default=0.9)
    group.add_argument("--adam_beta2", type=float, default=0.999)
    group.add_argument("--adam_weight_decay", type=float, default=0.0)
    group.add_argument("--adam_epsilon", type=float, default=1e-8)
    group.add_argument("--max_grad_norm", type=float, default=1.0, help="gradient clipping; 0 turns it off")
    group.add_argument("--use_ema", action=argparse.BooleanOptionalAction, default=True,
                       help="average the weights; the average is what is saved and sampled")  # fmt: skip
    group.add_argument("--ema_max_decay", type=float, default=0.9999)
    group.add_argument(
        "--ema_power", type=float, help="warm up as 1 - (1 + n / inv_gamma)^-power; default: the paper's"
    )
    group.add_argument("--ema_inv_gamma", type=float, default=1.0)


def _run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--output_dir", default="score-model", help="the pipeline, checkpoints, samples and logs go here"
    )
    group.add_argument("--seed", type=int, default=0, help="fixes weights, data order, times and noise")
    group.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"),
                       help="of the network; noise and targets are float32; default: accelerate's")  # fmt: skip
    group.add_argument("--channels_last", action="store_true", help="channels-last memory format, often faster")
    group.add_argument("--cpu", action="store_true", help="train on the CPU even where there is a GPU")
    group.add_argument("--checkpointing_steps", type=int, default=500, help="updates between two checkpoints")
    group.add_argument("--checkpoints_total_limit", type=int, help="how many checkpoints are kept; default: all")
    add_resume_arguments(group)
    group.add_argument(
        "--sample_steps", type=int, help="updates between two sample grids; overrides save_images_epochs"
    )
    group.add_argument("--save_images_epochs", type=int, default=10, help="epochs between two sample grids")
    group.add_argument("--save_model_epochs", type=int, default=10, help="epochs between two saved pipelines")
    group.add_argument("--eval_batch_size", type=int, default=16, help="images in a sample grid; 0 for none")
    group.add_argument("--num_inference_steps", type=int, default=200, help="sampling steps for the grids")
    group.add_argument("--logger", choices=("tensorboard", "wandb", "none"), default="tensorboard")
    group.add_argument("--logging_dir", default="logs", help="folder for TensorBoard, inside output_dir")
    group.add_argument("--logging_steps", type=int, default=50, help="updates between two logged losses")


def _hub(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("hub")
    group.add_argument("--push_to_hub", action="store_true", help="publish the finished pipeline")
    group.add_argument("--hub_model_id", help="repository; default: the name of output_dir")
    group.add_argument("--hub_private_repo", action="store_true", help="create it as a private repository")
    group.add_argument("--hub_token", help="token; default: the one `hf auth login` stored")


AT_LEAST_ONE = (
    "resolution", "train_batch_size", "gradient_accumulation_steps", "num_epochs", "max_train_steps",
    "layers_per_block", "checkpointing_steps", "checkpoints_total_limit", "sample_steps", "save_images_epochs",
    "save_model_epochs", "num_inference_steps", "logging_steps",
)  # fmt: skip
AT_LEAST_ZERO = ("eval_batch_size", "lr_warmup_steps", "seed", "max_grad_norm", "dataloader_num_workers", "dropout")


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program with a message that names the argument where values are out of range or contradict."""
    for names, least in ((AT_LEAST_ONE, 1), (AT_LEAST_ZERO, 0)):
        for name in names:
            value = getattr(args, name)
            if value is not None and value < least:
                parser.error(f"--{name} is {value}, expected at least {least}")
    if (args.dataset_name is None) == (args.train_data_dir is None):
        parser.error("give either --dataset_name (a data set on the Hub) or --train_data_dir (a local folder)")
    if args.pretrained_model_name_or_path is not None:
        for name in ("network", "model_config_name_or_path", "block_out_channels", "layers_per_block",
                     "attention_resolutions", "dropout", "prediction_type"):  # fmt: skip
            if getattr(args, name) is not None:
                parser.error(f"--{name} describes a new network; --pretrained_model_name_or_path brings its own")
    for name in ("sigma_min", "sigma_max"):
        if getattr(args, name) is not None and args.sde != "ve":
            parser.error(f"--{name} belongs to --sde ve")
    if args.likelihood_weighting and args.importance_sampling:
        parser.error("--importance_sampling already weights by the likelihood; leave out --likelihood_weighting")
