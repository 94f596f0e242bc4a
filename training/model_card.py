"""The README of a trained pipeline: what it is, how to use it, how it was made."""

from __future__ import annotations

import argparse
import platform
import shlex
from typing import Any

import diffusers
import torch

from .arguments import default_arguments
from .pipeline_folder import Components, sde_name


CARD = """---
library_name: diffusers
tags: [unconditional-image-generation, diffusers, score-based-generative-modeling, scoresde_pipelines]
---

# {title}

A {network} ({parameters:.2f} M parameters) for {channels} x {resolution} x {resolution} images, trained on {data} with
the {sde} SDE of *Score-Based Generative Modeling through Stochastic Differential Equations* (Song et al., ICLR 2021).

```python
from scoresde_pipelines import ScoreSdePipeline

pipeline = ScoreSdePipeline.from_pretrained("{location}")
images = pipeline(batch_size=4).images
```

## Training

{rows}

```
{command}
```
"""
# Secrets, paths of one machine, and how this run went on from an earlier part.
UNREPEATED = (
    "hub_token", "output_dir", "cache_dir", "resume_from_checkpoint", "overwrite_output_dir", "allow_changed_settings",
)  # fmt: skip
SDE_TITLES = {"ve": "variance-exploding", "vp": "variance-preserving", "subvp": "sub-variance-preserving"}


def model_card(args: argparse.Namespace, components: Components, location: str, progress: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        args: arguments of the run.
        components: what was trained.
        location: what `from_pretrained` is to be given (a folder name or Hub id).
        progress: measured facts, shown as a list ("steps": 1000, ...).
    """
    unet, precision = components.unet, args.mixed_precision or "no"
    data = args.dataset_name or args.train_data_dir.rstrip("/").split("/")[-1]
    facts = {
        **progress,
        "weights": f"exponential moving average, decay {args.ema_max_decay}" if args.use_ema else "last update",
        "seed": args.seed,
        "precision": "float32" if precision == "no" else f"{precision} autocast, float32 noise",
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}, Python {platform.python_version()}",
    }
    return CARD.format(
        title=location.rstrip("/").split("/")[-1],
        network=type(unet).__name__,
        parameters=sum(p.numel() for p in unet.parameters()) / 1e6,
        channels=unet.config.in_channels,
        resolution=unet.config.get("sample_size"),
        data=data,
        sde=SDE_TITLES[sde_name(components.scheduler)],
        location=location,
        rows="\n".join(f"- {name}: {value}" for name, value in facts.items()),
        command=command_line(args, data),
    )


def command_line(args: argparse.Namespace, data: str) -> str:
    """The command that repeats the run: its non-default arguments, without secrets and paths of one machine."""
    defaults, words = default_arguments(), ["accelerate launch -m scoresde_pipelines.training.train_unconditional"]
    for name, value in vars(args).items():
        if value == defaults[name] or name in UNREPEATED:
            continue
        words.append(_word(name, data if name == "train_data_dir" else value))
    return " \\\n    ".join(words)


def _word(name: str, value: Any) -> str:
    """One argument as it is typed."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    values = value if isinstance(value, (list, tuple)) else [value]
    return " ".join([f"--{name}", *(shlex.quote(str(item)) for item in values)])
