"""The arguments of the training scripts, in groups: named as in diffusers' unconditional example wherever it has them."""

import argparse
from typing import Any

from .argument_choices import (
    BEST_METRICS,
    LR_SCHEDULERS,
    NETWORKS,
    OBJECTIVES,
    OPTIMIZERS,
    PREDICTION_TYPES,
    RECIPES,
    SDES,
    TRACKERS,
)


# ------------------------------------------------------------------ of both scripts


def _switch(group: Any, name: str, text: str, default: bool = False) -> None:
    """An option that is on or off: `--name`, `--no-name`."""
    group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=default, help=text)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Where the images come from and what is done to them."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_name", help="data set on the Hub, or a local folder that `datasets` understands")
    group.add_argument("--dataset_config_name", help="configuration of that data set")
    group.add_argument("--train_data_dir", help="a folder of images or parquet files, or one parquet file")
    group.add_argument("--split", default="train", help="split to train on")
    group.add_argument("--cache_dir", help="where downloaded models and data sets are kept")
    group.add_argument("--image_column", help="column with the images; found by itself where there is one")
    group.add_argument("--label_column", help="column with the classes; found by itself where there is one")
    group.add_argument("--resolution", type=int, nargs="+", metavar="PIXELS",
                       help="side of the images, or height and width; default: the network's, else 64")  # fmt: skip
    group.add_argument("--channels", type=int, choices=(1, 3, 4),
                       help="default: the network's, else 3 where an image has color, and 1 where none has")  # fmt: skip
    group.add_argument("--image_fit", choices=("crop", "pad"), default="crop",
                       help="crop: resize and crop the centre; pad: put smaller images on a background")  # fmt: skip
    group.add_argument("--pad_value", type=int, default=0, help="gray value of that background, 0 to 255")
    _switch(group, "center_crop", "accepted for compatibility: crops are always central")
    _switch(group, "random_flip", "mirror images at random")
    _switch(group, "skip_broken_images", "leave out images that cannot be decoded instead of stopping")
    group.add_argument(
        "--max_cached_gb", type=float, default=4.0, help="decode the images into memory up to this size"
    )
    group.add_argument("--dataloader_num_workers", type=int, default=0,
                       help="processes that decode images; with --streaming threads")  # fmt: skip
    _switch(group, "streaming", "read the data set while training and never hold it in memory: a Hub id, or a folder of "
            "parquet files, of tar files (WebDataset) or of images; needs --max_train_steps")  # fmt: skip
    group.add_argument("--shuffle_buffer", type=int, default=4096, help="with --streaming: examples that are permuted "
                       "together and held in memory, encoded as they are in the files")  # fmt: skip
    group.add_argument("--class_names", nargs="+", metavar="NAME",
                       help="with --streaming: names of all classes in the order of the labels from 0, or one text file "
                       "with a name a line; needed where the data set holds no names")  # fmt: skip


def add_optimization(parser: argparse.ArgumentParser) -> None:
    """Batches, optimizer, learning rate and the moving average."""
    group = parser.add_argument_group("optimization")
    group.add_argument("--train_batch_size", type=int, default=16, help="images per step and device")
    group.add_argument("--gradient_accumulation_steps", type=int, default=1, help="batches per update")
    group.add_argument("--num_epochs", type=int, default=100, help="passes through the data")
    group.add_argument("--max_train_steps", type=int, help="number of updates; overrides num_epochs")
    group.add_argument("--learning_rate", type=float, default=2e-4, help="after warming up")
    group.add_argument("--lr_scheduler", choices=LR_SCHEDULERS, metavar="NAME", default="constant_with_warmup",
                       help=f"course of the learning rate: {', '.join(LR_SCHEDULERS)}")  # fmt: skip
    group.add_argument("--lr_warmup_steps", type=int, help="default: a tenth of the updates, at most 500")
    group.add_argument("--lr_step_rules", help="for piecewise_constant: '1:1000,0.1:2000,0.01' is the factor 1 "
                       "before update 1000, 0.1 before 2000, then 0.01")  # fmt: skip
    group.add_argument("--adam_beta1", type=float, default=0.9, help="decay of the first moment")
    group.add_argument("--adam_beta2", type=float, default=0.999, help="decay of the second moment")
    group.add_argument("--adam_weight_decay", type=float, default=0.0, help="decoupled weight decay")
    group.add_argument("--adam_epsilon", type=float, default=1e-8, help="added to the denominator")
    group.add_argument("--max_grad_norm", type=float, default=1.0, help="gradient clipping; 0 turns it off")
    _switch(group, "use_ema", "average the weights; the average is what is saved and sampled", default=True)
    group.add_argument("--ema_max_decay", type=float, default=0.9999, help="of the averaged weights")
    group.add_argument(
        "--ema_power", type=float, help="warm up as 1 - (1 + n / inv_gamma)^-power; default: the paper's"
    )
    group.add_argument("--ema_inv_gamma", type=float, default=1.0, help="see --ema_power")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Output, precision, checkpoints and logs."""
    group = parser.add_argument_group("run")
    group.add_argument("--output_dir", default="score-model", help="everything that is saved goes here")
    group.add_argument("--seed", type=int, default=0, help="fixes weights, data order, times and noise")
    group.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"),
                       help="precision inside the network, noise and targets stay float32; default: the choice of "
                       "`accelerate config`, else no")  # fmt: skip
    _switch(group, "channels_last", "channels-last memory format, often faster")
    _switch(group, "gradient_checkpointing", "keep fewer activations and compute them again in the backward pass: the same "
            "loss with less memory, in more time")  # fmt: skip
    _switch(group, "compile", "compile the trained network with torch.compile, by the backend of `accelerate config` or "
            "else inductor, which needs a C++ compiler on a CPU")  # fmt: skip
    _switch(group, "cpu", "train on the CPU even where there is a GPU")
    group.add_argument("--checkpointing_steps", type=int, default=500, help="updates between two checkpoints")
    group.add_argument("--checkpoints_total_limit", type=int, help="how many checkpoints are kept; default: all")
    group.add_argument("--resume_from_checkpoint", help="a checkpoint, or 'latest' (from the start where none is)")
    group.add_argument(
        "--overwrite_output_dir",
        action="store_true",
        help="start anew in an output_dir that holds a run; its checkpoints are deleted",
    )
    group.add_argument(
        "--allow_changed_settings",
        nargs="+",
        default=[],
        metavar="NAME",
        help="resume although these settings differ from the checkpoint's",
    )
    group.add_argument(
        "--report_to", choices=TRACKERS, help="where losses are logged; default: tensorboard, where it is installed"
    )
    group.add_argument("--logger", choices=TRACKERS, help="deprecated: --report_to")
    group.add_argument("--logging_dir", default="logs", help="folder for TensorBoard, inside output_dir")
    group.add_argument("--logging_steps", type=int, default=50, help="updates between two logged losses")


# ------------------------------------------------------------------ train_unconditional


def add_augmentation(parser: argparse.ArgumentParser) -> None:
    """Augmentation that does not leak."""
    group = parser.add_argument_group("augmentation")
    group.add_argument("--augment_prob", type=float, default=0.0,
                       help="augment images, each way with this probability (say 0.12), telling the network")  # fmt: skip


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Class-conditional training."""
    group = parser.add_argument_group("classes")
    _switch(group, "class_conditional", "train with class labels: a label column, or the names of folders")
    group.add_argument("--label_dropout", type=float, default=0.1,
                       help="share of images trained without their class, for classifier-free guidance")  # fmt: skip
    group.add_argument("--class_sampling", choices=("natural", "balanced"), default="natural",
                       help="balanced: every class equally often")  # fmt: skip


def add_model(parser: argparse.ArgumentParser) -> None:
    """The network, the SDE and its scheduler."""
    group = parser.add_argument_group("model")
    group.add_argument("--recipe", choices=tuple(RECIPES), help="edm: --prediction_type edm --objective edm")
    group.add_argument(
        "--pretrained_model_name_or_path",
        help="pipeline to fine-tune: folder, shipped name or Hub id",
    )
    group.add_argument(
        "--model_config_name_or_path",
        help="config.json of the network, its folder, or a model whose network to copy without weights",
    )
    group.add_argument("--network", choices=NETWORKS, help="default: ncsnpp if its timestep is sigma, else ddpmpp")
    group.add_argument("--block_out_channels", type=int, nargs="+", help="channels at each resolution")
    group.add_argument("--layers_per_block", type=int, help="residual blocks at each resolution")
    group.add_argument("--attention_resolutions", type=int, nargs="*", help="resolutions with self-attention")
    group.add_argument("--dropout", type=float, help="dropout inside the residual blocks")
    group.add_argument("--sde", help=f"one of {', '.join(SDES)}, or module:Class, an SDEScheduler of your own; "
                       "default: vp, or the SDE of the pretrained pipeline")  # fmt: skip
    group.add_argument("--scheduler_options", nargs="+", metavar="NAME=VALUE",
                       help="other entries of the scheduler's configuration, values as in JSON")  # fmt: skip
    group.add_argument("--prediction_type", choices=PREDICTION_TYPES,
                       help="what the network's output means; default: the SDE's in the paper")  # fmt: skip
    group.add_argument("--sigma_data", type=_auto_or_number,
                       help="standard deviation of the data for edm, or 'auto': measured")  # fmt: skip
    group.add_argument("--data_mean", type=_auto_or_number, help="mean of the data for edm, or 'auto': measured")
    group.add_argument("--sigma_min", type=float, help="smallest noise of the VE SDE")
    group.add_argument(
        "--sigma_max",
        type=float,
        help="largest noise of the VE SDE, about the largest distance "
        "of two images: 50 for 32 pixels a side, 1348 (the default) for 1024",
    )
    group.add_argument("--predictor", help="predictor that the saved scheduler uses")
    group.add_argument("--corrector", help="corrector that the saved scheduler uses")
    group.add_argument("--snr", type=float, help="signal-to-noise ratio of the Langevin corrector")


def _auto_or_number(text: str) -> float | None:
    return None if text == "auto" else float(text)


def add_objective(parser: argparse.ArgumentParser) -> None:
    """What is minimised."""
    group = parser.add_argument_group("objective")
    group.add_argument("--objective", help=f"one of {', '.join(OBJECTIVES)}, or module:name, an Objective of your own; "
                       "default: edm for a network of prediction type edm, else score_matching")  # fmt: skip
    group.add_argument("--P_mean", type=float, default=-1.2, help="mean of the log noise level (edm)")
    group.add_argument("--P_std", type=float, default=1.2, help="its standard deviation (edm)")
    group.add_argument("--snr_gamma", type=float, default=5.0, help="largest signal-to-noise ratio (min_snr)")
    group.add_argument("--time_sampling", choices=("stratified", "uniform"), default="stratified",
                       help="how a batch covers the times")  # fmt: skip
    group.add_argument("--training_eps", type=float, default=1e-5, help="smallest time that is trained")
    _switch(group, "sum_loss", "half the sum over pixels instead of their mean")
    _switch(group, "likelihood_weighting", "deprecated: --objective likelihood")
    _switch(group, "importance_sampling", "deprecated: --objective likelihood_importance")


def add_optimizer(parser: argparse.ArgumentParser) -> None:
    """The optimizer of a generative model."""
    group = parser.add_argument_group("optimizer")
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help="muon: Muon for the convolutions and "
                       "linear layers inside of the network, AdamW for the rest; needs torch 2.9")  # fmt: skip


def add_averages(parser: argparse.ArgumentParser) -> None:
    """Averages whose width is chosen after training."""
    group = parser.add_argument_group("averages to choose from after training, with `scoresde ema`")
    group.add_argument("--ema_widths", type=float, nargs="+", metavar="SIGMA_REL",
                       help="relative widths of power-function averages kept beside the moving average, as 0.05 0.1; "
                       "default: none")  # fmt: skip
    group.add_argument("--ema_snapshots", type=int, default=16, help="snapshots that are kept of each of them")


def add_samples(parser: argparse.ArgumentParser) -> None:
    """Sample grids and pipelines that are saved on the way."""
    group = parser.add_argument_group("samples")
    group.add_argument(
        "--sample_steps",
        type=int,
        help="updates between two sample grids; overrides save_images_epochs; with "
        "--streaming there is one at the end alone unless this is given",
    )
    group.add_argument("--save_images_epochs", type=int, default=10, help="epochs between two sample grids")
    group.add_argument("--save_model_epochs", type=int, default=10, help="epochs between two saved pipelines; "
                       "with --streaming one is saved with each checkpoint")  # fmt: skip
    group.add_argument("--eval_batch_size", type=int, default=16, help="images in a sample grid; 0 for none")
    group.add_argument("--num_inference_steps", type=int, default=200, help="sampling steps for the grids")


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Measurements of the averaged weights while training."""
    group = parser.add_argument_group(
        "evaluation while training",
        "The averaged weights are measured; the training itself stays the same to the bit. All figures go to the tracker "
        "and to output_dir/evaluation.jsonl.",
    )
    group.add_argument(
        "--validation_split", help="split whose loss is measured, per band of noise levels; default: none"
    )
    group.add_argument("--validation_fraction", type=float,
                       help="or hold out this share of the training images, fixed by the seed")  # fmt: skip
    group.add_argument("--validation_num_images", type=int, default=256,
                       help="held-out images whose loss is measured; cost: 4 network calls for each")  # fmt: skip
    group.add_argument("--eval_steps", type=int, help="updates between two measurements; default: checkpointing_steps")
    group.add_argument("--eval_features", help="features of the kernel distance (KID) of generated images to held-out "
                       "ones (training images where none are held out): efficientnet-lite0, the folder of a feature "
                       "classifier, or a folder or Hub id of a vision model; default: no KID")  # fmt: skip
    group.add_argument("--eval_num_images", type=int, default=200,
                       help="images generated for the KID; cost: num_inference_steps steps of the sampler for each, "
                       "and the features (17 ms an image for efficientnet-lite0 on a CPU)")  # fmt: skip
    group.add_argument("--eval_num_bpd_images", type=int, help="held-out images whose bits/dim are measured, told no "
                       "class; default: none; cost: about 220 network calls for each, half of "
                       "them with a gradient")  # fmt: skip
    _switch(
        group, "keep_best", "keep the averaged weights with the lowest --best_metric as the pipeline output_dir/best"
    )
    group.add_argument("--best_metric", choices=tuple(BEST_METRICS),
                       help="for --keep_best; default: kid, or validation_loss without --eval_features")  # fmt: skip


def add_hub(parser: argparse.ArgumentParser) -> None:
    """Publishing."""
    group = parser.add_argument_group("hub")
    _switch(group, "push_to_hub", "publish the finished pipeline")
    group.add_argument("--hub_model_id", help="repository; default: the name of output_dir")
    _switch(group, "hub_private_repo", "create it as a private repository")
    group.add_argument("--hub_token", help="token; default: the one `hf auth login` stored")
