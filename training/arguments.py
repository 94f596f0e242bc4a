"""Command-line arguments of both training scripts, named as in diffusers' unconditional example wherever it has them."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .argument_groups import (
    RECIPES,
    add_averages,
    add_classes,
    add_data,
    add_evaluation,
    add_hub,
    add_model,
    add_objective,
    add_optimization,
    add_run,
    add_samples,
)
from .interruption import EXIT_CODES
from .run_config import config_words


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the arguments of `train_unconditional`.

    Raises:
        SystemExit: an argument is unknown, malformed or out of range (argparse prints which).
    """
    parser = _parser()
    args = parse(parser, argv)
    _check(parser, args)
    return args


def default_arguments() -> dict[str, Any]:
    """Every argument with its default."""
    args = _parser().parse_args([])
    return {name: value for name, value in vars(args).items() if name not in DEPRECATED}


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("Train or fine-tune a score-based generative model (Song et al. 2021) on images.")
    for add_group in (add_data, add_classes, add_model, add_objective, add_optimization, add_averages, add_run,
                      add_samples, add_evaluation, add_hub):  # fmt: skip
        add_group(parser)
    return parser


# ------------------------------------------------------------------ what both scripts share


def make_parser(description: str) -> argparse.ArgumentParser:
    """An empty parser whose help shows defaults, with `--config`."""
    parser = argparse.ArgumentParser(
        description=description,
        usage="%(prog)s (--train_data_dir DIR | --dataset_name NAME) [options]",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
        epilog=EXIT_CODES,
    )
    parser.add_argument("--config", help="YAML file with arguments by name; those of the command line win")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line after the words of `--config`, and replaces deprecated arguments.

    Raises:
        SystemExit: see `parse_args`.
    """
    args = parser.parse_args(argv)
    if args.config is not None:
        try:
            words = config_words(parser, args.config)
        except ValueError as error:
            parser.error(str(error))
        args = parser.parse_args([*words, *(sys.argv[1:] if argv is None else argv)])
    _replace_deprecated(parser, args)
    _check_shared(parser, args)
    return args


# ------------------------------------------------------------------ checks

DEPRECATED = ("logger", "likelihood_weighting", "importance_sampling")
AT_LEAST_ONE = (
    "train_batch_size", "gradient_accumulation_steps", "num_epochs", "max_train_steps", "layers_per_block", "width",
    "checkpointing_steps", "checkpoints_total_limit", "sample_steps", "save_images_epochs", "save_model_epochs",
    "num_inference_steps", "logging_steps", "ema_snapshots", "eval_steps", "validation_num_images",
)  # fmt: skip
AT_LEAST_ZERO = ("eval_batch_size", "lr_warmup_steps", "seed", "max_grad_norm", "dataloader_num_workers", "dropout")


def _replace_deprecated(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.logger is not None:
        warnings.warn("--logger is deprecated: use --report_to", FutureWarning, stacklevel=3)
        args.report_to = args.logger
    for flag, name in (("likelihood_weighting", "likelihood"), ("importance_sampling", "likelihood_importance")):
        if getattr(args, flag, False):
            if args.objective is not None:
                parser.error(f"--{flag} is deprecated and means --objective {name}; give only one objective")
            warnings.warn(f"--{flag} is deprecated: use --objective {name}", FutureWarning, stacklevel=3)
            args.objective = name
    for name in DEPRECATED:
        vars(args).pop(name, None)


def _check_shared(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for names, least in ((AT_LEAST_ONE, 1), (AT_LEAST_ZERO, 0)):
        for name in names:
            value = getattr(args, name, None)
            if value is not None and value < least:
                parser.error(f"--{name} must be at least {least}, got {value}")
    if args.resolution is not None:
        if len(args.resolution) > 2 or min(args.resolution) < 1:
            parser.error(f"--resolution must be one or two numbers of at least 1, got {args.resolution}")
        args.resolution = args.resolution[0] if len(args.resolution) == 1 else tuple(args.resolution)
    if (args.dataset_name is None) == (args.train_data_dir is None):
        parser.error("give either --dataset_name (a data set on the Hub) or --train_data_dir (a local folder)")
    if (args.lr_scheduler == "piecewise_constant") != (args.lr_step_rules is not None):
        parser.error("--lr_scheduler piecewise_constant and --lr_step_rules belong together")


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program with a message that names the argument where values are out of range or contradict."""
    for name, value in RECIPES.get(args.recipe, {}).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if not 0 <= args.label_dropout < 1:
        parser.error(f"--label_dropout must be in [0, 1), got {args.label_dropout}")
    if args.class_sampling == "balanced" and not args.class_conditional:
        parser.error("--class_sampling balanced needs --class_conditional")
    for width in args.ema_widths or ():
        if not 0 < width < 0.28:
            parser.error(f"--ema_widths must be between 0 and 0.28, got {width}")
    _check_evaluation(parser, args)
    if args.pretrained_model_name_or_path is not None:
        for name in ("network", "model_config_name_or_path", "block_out_channels", "layers_per_block",
                     "attention_resolutions", "dropout", "prediction_type", "sigma_data", "data_mean"):  # fmt: skip
            if getattr(args, name) is not None:
                parser.error(f"--{name} describes a new network; --pretrained_model_name_or_path brings its own")
    for name in ("sigma_min", "sigma_max"):
        if getattr(args, name) is not None and args.sde in (None, "vp", "subvp"):
            parser.error(f"--{name} belongs to --sde ve")
    for name in ("sigma_data", "data_mean"):
        if getattr(args, name) is not None and args.prediction_type != "edm":
            parser.error(f"--{name} belongs to --prediction_type edm")


def _check_evaluation(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.validation_fraction is not None:
        if not 0 < args.validation_fraction < 1:
            parser.error(f"--validation_fraction must be between 0 and 1, got {args.validation_fraction}")
        if args.validation_split is not None:
            parser.error("give either --validation_split or --validation_fraction")
    if args.eval_num_images < 3:
        parser.error(f"--eval_num_images must be at least 3, got {args.eval_num_images}")
    if measures_nothing(args):
        for name in ("eval_steps", "keep_best"):
            if getattr(args, name):
                parser.error(f"--{name} needs --validation_split, --validation_fraction or --eval_features")


def measures_nothing(args: argparse.Namespace) -> bool:
    """Whether no measurement while training is asked for."""
    return args.validation_split is None and args.validation_fraction is None and args.eval_features is None
