"""The optimizer of a run and the course of its learning rate."""

import argparse
import math
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from .muon import MuonAdamW, hidden_and_others


WARMUP_UPDATES, WARMUP_SHARE = 500, 0.1


def warmup_updates(given: int | None, max_steps: int) -> int:
    """Updates of the learning rate's warm-up: as given, else a tenth of the run and at most 500."""
    return min(WARMUP_UPDATES, math.ceil(WARMUP_SHARE * max_steps)) if given is None else given


def make_optimizer(args: argparse.Namespace, network: nn.Module, max_steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer and the schedule of its learning rate over `max_steps` updates, by the arguments.

    Raises:
        ValueError: this torch has no Muon.
    """
    options: dict[str, Any] = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "weight_decay": args.adam_weight_decay,
        "eps": args.adam_epsilon,
    }
    optimizer: torch.optim.Optimizer
    if getattr(args, "optimizer", "adamw") == "muon":
        optimizer = MuonAdamW(*hidden_and_others(network), **options)
    else:
        optimizer = torch.optim.AdamW(network.parameters(), **options)
    schedule = get_scheduler(
        args.lr_scheduler,
        optimizer,
        step_rules=args.lr_step_rules,
        num_warmup_steps=warmup_updates(args.lr_warmup_steps, max_steps),
        num_training_steps=max_steps,
    )
    return optimizer, schedule
