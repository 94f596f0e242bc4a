"""Command-line arguments of both training scripts, named as in diffusers' unconditional example wherever it has them.

Nothing here imports torch before a command line has been parsed: `--help` and a word that is no argument end before.
"""

import argparse
import math
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .argument_choices import BEST_METRICS, OBJECTIVES, RECIPES, SDES
from .argument_groups import (
    add_augmentation,
    add_averages,
    add_classes,
    add_data,
    add_evaluation,
    add_hub,
    add_model,
    add_objective,
    add_optimization,
    add_optimizer,
    add_run,
    add_samples,
)
from .argument_ranges import check_integer_range, check_number_range
from .destinations import check_writable
from .script import EXIT_CODES, check_sources


def parse_args(
    argv: Sequence[str] | None = None, prog: str | None = None, *, sources_exist: bool = False
) -> argparse.Namespace:
    """Parses and checks the arguments of `train_unconditional`, which messages call `prog`.

    Args:
        sources_exist: whether the folder of the data and the pretrained model are looked for as well.

    Raises:
        SystemExit: an argument is unknown, malformed or out of range (argparse prints which).
    """
    parser = _parser(prog)
    args = parse(parser, argv, sources_exist)
    _check(parser, args)
    return args


def default_arguments() -> dict[str, Any]:
    """Every argument with its default."""
    args = _parser().parse_args([])
    return {name: value for name, value in vars(args).items() if name not in DEPRECATED}


def _parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = make_parser("Train or fine-tune a score-based generative model (Song et al. 2021) on images.", prog)
    for add_group in (add_data, add_augmentation, add_classes, add_model, add_objective, add_optimization, add_optimizer,
                      add_averages, add_run, add_samples, add_evaluation, add_hub):  # fmt: skip
        add_group(parser)
    return parser


# ------------------------------------------------------------------ what both scripts share


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that are values: of the other options the help says what happens without them."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def make_parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """An empty parser whose help shows defaults, with `--config`."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        usage="%(prog)s (--train_data_dir DIR | --dataset_name NAME) [options]",
        formatter_class=_Defaults,
        allow_abbrev=False,
        epilog=EXIT_CODES,
    )
    parser.add_argument("--config", help="YAML file with arguments by name; those of the command line win")
    return parser


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, sources_exist: bool = False
) -> argparse.Namespace:
    """Parses the command line after the words of `--config`, and replaces deprecated arguments.

    Raises:
        SystemExit: see `parse_args`.
    """
    args = parser.parse_args(argv)
    if args.config is not None:
        from .run_config import config_words

        try:
            words = config_words(parser, args.config)
        except ValueError as error:
            parser.error(str(error))
        args = parser.parse_args([*words, *(sys.argv[1:] if argv is None else argv)])
    _replace_deprecated(parser, args)
    _check_shared(parser, args)
    if sources_exist:
        check_sources(args, parser.prog)
    return args


# ------------------------------------------------------------------ checks

DEPRECATED = ("logger", "likelihood_weighting", "importance_sampling")
INTEGERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ("train_batch_size", "gradient_accumulation_steps", "num_epochs", "max_train_steps", "layers_per_block", "width",
         "checkpointing_steps", "checkpoints_total_limit", "sample_steps", "save_images_epochs", "save_model_epochs",
         "num_inference_steps", "logging_steps", "ema_snapshots", "eval_steps", "validation_num_images",
         "eval_num_bpd_images", "block_out_channels", "attention_resolutions", "resolution", "shuffle_buffer"),
        (1,),
    ),
    **dict.fromkeys(("eval_batch_size", "lr_warmup_steps", "dataloader_num_workers"), (0,)),
    "seed": (0, 2**63 - 1), "pad_value": (0, 255), "eval_num_images": (3,),
}  # fmt: skip
POSITIVE, NOT_NEGATIVE, SHARE = (0, math.inf, "()"), (0, math.inf, "[)"), (0, 1, "[)")
NUMBERS = {
    **dict.fromkeys(("ema_inv_gamma", "snr", "sigma_data", "sigma_min", "sigma_max", "P_std",
                     "snr_gamma"), POSITIVE),
    **dict.fromkeys(("learning_rate", "max_grad_norm", "max_cached_gb", "adam_weight_decay", "adam_epsilon",
                     "ema_power"), NOT_NEGATIVE),
    **dict.fromkeys(("dropout", "adam_beta1", "adam_beta2", "label_dropout", "augment_prob"), SHARE),
    **dict.fromkeys(("training_eps", "validation_fraction"), (0, 1, "()")),
    "ema_max_decay": (0, 1, "[]"), "ema_widths": (0, 0.28, "()"),
    **dict.fromkeys(("P_mean", "data_mean"), (-math.inf, math.inf, "()")),
}  # fmt: skip


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
    try:
        for name, value in vars(args).items():
            check_value(name, value)
        if args.resolution is not None and len(args.resolution) > 2:
            raise ValueError(f"resolution must be one or two numbers of at least 1, got {args.resolution}")
        low, high = getattr(args, "sigma_min", None), getattr(args, "sigma_max", None)
        if low is not None and high is not None and not low < high:
            raise ValueError(f"sigma_max must be greater than --sigma_min, {low}, got {high}")
        check_writable("output_dir", args.output_dir)
        for data in filter(None, (args.train_data_dir, args.dataset_name)):
            if os.path.realpath(args.output_dir) == os.path.realpath(data):  # a folder in it is not read as data
                raise ValueError(f"output_dir must be another folder than that of the data, got {args.output_dir!r}")
    except (TypeError, ValueError) as error:
        parser.error(f"--{error}")
    if args.resolution is not None:
        args.resolution = args.resolution[0] if len(args.resolution) == 1 else tuple(args.resolution)
    if (args.dataset_name is None) == (args.train_data_dir is None):
        parser.error("give either --dataset_name (a data set on the Hub) or --train_data_dir (a local folder)")
    if (args.lr_scheduler == "piecewise_constant") != (args.lr_step_rules is not None):
        parser.error("--lr_scheduler piecewise_constant and --lr_step_rules belong together")
    _check_streaming(parser, args)


def _check_streaming(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not args.streaming:
        if args.class_names is not None:
            parser.error(
                "--class_names belongs to --streaming: other data sets are read for the names of their classes"
            )
        return
    if args.max_train_steps is None:
        parser.error("--streaming needs --max_train_steps: the number of images is not known, so that --num_epochs does "
                     "not say how long to train")  # fmt: skip
    if "[" in args.split or "[" in (args.validation_split or ""):
        parser.error("--split and --validation_split must be names of splits with --streaming, not parts of one")
    if getattr(args, "validation_fraction", None) is not None:
        parser.error("--validation_fraction cannot be held out of a stream; name a split with --validation_split")
    if getattr(args, "class_sampling", "natural") == "balanced":
        parser.error("--class_sampling must be natural with --streaming, got balanced")
    if getattr(args, "eval_features", None) is not None and args.validation_split is None:
        parser.error("--eval_features needs --validation_split with --streaming: there are no other real images")


def check_value(name: str, value: Any) -> None:
    """Raises ValueError where one argument, or a part of it, is an empty text or out of its range."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, str) and not part.strip():
            raise ValueError(f"{name} must not be empty, got {part!r}")
        if name in INTEGERS and part is not None:
            check_integer_range(name, part, *INTEGERS[name])
        if name in NUMBERS and part is not None:
            check_number_range(name, part, *NUMBERS[name])


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program with a message that names the argument where values contradict."""
    for name, value in RECIPES.get(args.recipe, {}).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.class_sampling == "balanced" and not args.class_conditional:
        parser.error("--class_sampling balanced needs --class_conditional")
    for name, known in (("objective", OBJECTIVES), ("sde", SDES)):
        value = getattr(args, name)
        if value is not None and value not in known and ":" not in value:
            parser.error(f"--{name} must be one of {', '.join(known)}, or module:name, got {value!r}")
    _check_evaluation(parser, args)
    for name in ("sigma_min", "sigma_max"):
        if getattr(args, name) is not None and args.sde in (None, "vp", "subvp"):
            parser.error(f"--{name} belongs to --sde ve")
    if args.pretrained_model_name_or_path is not None:
        if args.model_config_name_or_path is not None:
            parser.error("--model_config_name_or_path describes a new network; the pretrained one brings its own")
        return
    for name in ("sigma_data", "data_mean"):
        if getattr(args, name) is not None and args.prediction_type != "edm":
            parser.error(f"--{name} belongs to --prediction_type edm")
    if args.sde is None or args.sde in SDES:
        _check_scheduler(parser, args)


def _check_scheduler(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    from .components import new_scheduler

    options = args.scheduler_options
    try:
        new_scheduler(argparse.Namespace(**{**vars(args), "scheduler_options": None}))
    except (TypeError, ValueError) as error:
        parser.error(f"--{error}")
    if options:
        try:
            new_scheduler(args)
        except (TypeError, ValueError) as error:
            parser.error(f"--scheduler_options must be settings of the scheduler, got {options}: {error}")


def _check_evaluation(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.validation_fraction is not None and args.validation_split is not None:
        parser.error("give either --validation_split or --validation_fraction")
    if measures_nothing(args):
        for name in ("eval_steps", "keep_best"):
            if getattr(args, name):
                parser.error(f"--{name} needs --validation_split, --validation_fraction or --eval_features")

    held_out = args.validation_split is not None or args.validation_fraction is not None
    if args.eval_num_bpd_images is not None and not held_out:
        parser.error("--eval_num_bpd_images needs --validation_split or --validation_fraction")
    if args.eval_num_bpd_images is not None and args.class_conditional and args.label_dropout == 0:
        parser.error("--eval_num_bpd_images needs a --label_dropout above 0: it is the likelihood given no class")
    if args.best_metric is not None:
        if not args.keep_best:
            parser.error("--best_metric belongs to --keep_best")
        if all(getattr(args, name) is None for name in BEST_METRICS[args.best_metric]):
            needed = " or ".join(f"--{name}" for name in BEST_METRICS[args.best_metric])
            parser.error(f"--best_metric {args.best_metric} needs {needed}")


def measures_nothing(args: argparse.Namespace) -> bool:
    """Whether no measurement while training is asked for."""
    return args.validation_split is None and args.validation_fraction is None and args.eval_features is None
