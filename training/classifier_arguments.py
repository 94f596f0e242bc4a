"""Command-line arguments of `train_classifier`: those of `train_unconditional` where both have them."""

import argparse
from collections.abc import Sequence

from .argument_choices import SDES, TIME_DENSITIES
from .argument_groups import add_data, add_optimization, add_run
from .arguments import make_parser, parse


DEFAULTS = {
    "resolution": [32],
    "channels": 3,
    "train_batch_size": 128,
    "max_train_steps": 20_000,
    "learning_rate": 3e-4,
    "lr_scheduler": "cosine",
    "adam_weight_decay": 1e-2,
    "ema_max_decay": 0.999,
    "output_dir": "classifier",
    "checkpointing_steps": 1000,
    "channels_last": True,
}


def parse_classifier_args(
    argv: Sequence[str] | None = None, prog: str | None = None, *, sources_exist: bool = False
) -> argparse.Namespace:
    """Parses and checks the arguments; messages call the program `prog`.

    Args:
        sources_exist: whether the folder of the data is looked for as well.

    Raises:
        SystemExit: an argument is unknown, malformed or out of range (argparse prints which).
    """
    parser = make_parser(
        "Train a noise-conditional classifier for class-conditional generation (Song et al. 2021, section 5).", prog
    )
    for add_group in (add_data, _add_model, add_optimization, add_run):
        add_group(parser)
    parser.set_defaults(**DEFAULTS)
    args = parse(parser, argv, sources_exist)
    if not isinstance(args.resolution, int) or args.resolution % 4:
        parser.error(f"--resolution must be one number, a multiple of 4, got {args.resolution}")
    if args.depth < 10 or (args.depth - 4) % 6:
        parser.error(f"--depth must be 6 n + 4 with n of at least 1 (10, 16, 22, 28, ...), got {args.depth}")
    return args


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("classifier")
    group.add_argument("--sde", choices=SDES, default="vp", help="whose noise levels it learns")
    group.add_argument("--sigma_min", type=float, default=0.01, help="smallest noise of the VE SDE")
    group.add_argument("--sigma_max", type=float, default=50.0, help="largest noise of the VE SDE")
    group.add_argument("--depth", type=int, default=28, help="of the wide ResNet, 6 n + 4")
    group.add_argument("--width", type=int, default=10, help="of the wide ResNet, times 16, 32, 64 channels")
    group.add_argument("--dropout", type=float, default=0.0, help="dropout inside the residual blocks")
    group.add_argument("--training_eps", type=float, default=1e-5, help="smallest time that is trained")
    group.add_argument("--time_density", choices=TIME_DENSITIES, default="uniform", help="uniform times (the paper's), "
                       "or log-normal noise-to-signal ratios, which train low noise more")  # fmt: skip
    group.add_argument("--P_mean", type=float, default=-1.5, help="mean of the log ratio (log_normal)")
    group.add_argument("--P_std", type=float, default=2.0, help="its standard deviation (log_normal)")
    group.add_argument("--validation_split", help="split whose accuracy is written at the end; default: none")
