"""The README of a trained pipeline: what it is, how to use it, how it was made."""

import argparse
import platform
import shlex
from pathlib import Path
from typing import Any

import diffusers
import torch

from ..models import NCSNpp
from ..models.config_checks import height_and_width
from .arguments import default_arguments
from .pipeline_folder import SCHEDULERS, Components
from .run_config import NOT_SAVED, argument_words


CARD = """---
library_name: diffusers
tags: [{tag}, diffusers, score-based-generative-modeling, scoresde_pipelines]
---

# {title}

A {network} ({parameters:.2f} M parameters) for {shape} images, trained on {data} by score matching (*Score-Based
Generative Modeling through Stochastic Differential Equations*, Song et al., ICLR 2021) with a
`{scheduler}`{meaning}.

```python
{usage}
```
{classes}
## Training

{rows}

```
{command}
```
"""
UNCONDITIONAL = """from scoresde_pipelines import ScoreSdePipeline

pipeline = ScoreSdePipeline.from_pretrained("{location}")
images = pipeline(batch_size=4).images"""
CONDITIONAL = """from scoresde_pipelines import ScoreSdeClassConditionalPipeline

pipeline = ScoreSdeClassConditionalPipeline.from_pretrained("{location}")
images = pipeline(class_labels={labels}, guidance_scale={guidance}).images"""
CLASSES = """
Classes: {names}. `ScoreSdePipeline` samples the same network without a class.
"""


def model_card(args: argparse.Namespace, components: Components, location: str, progress: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        args: arguments of the run.
        components: what was trained.
        location: what `from_pretrained` is to be given (a folder name or Hub id).
        progress: measured facts, shown as a list ("updates": "1000 ...").
    """
    unet, names = components.unet, components.class_names
    data = args.dataset_name or args.train_data_dir.rstrip("/").split("/")[-1]
    facts = {
        **progress,
        "weights": f"exponential moving average, decay {args.ema_max_decay}" if args.use_ema else "last update",
        "seed": args.seed,
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}, Python {platform.python_version()}",
    }
    usage = UNCONDITIONAL if names is None else CONDITIONAL
    height, width = height_and_width(unet.config["sample_size"])
    labels = None if names is None else list(names[:2])
    guidance = 2.0 if isinstance(unet, NCSNpp) else 1.0  # other networks have no label "no class"
    return CARD.format(
        tag="unconditional-image-generation" if names is None else "class-conditional-image-generation",
        title=location.rstrip("/").split("/")[-1],
        network=type(unet).__name__,
        parameters=sum(p.numel() for p in unet.parameters()) / 1e6,
        shape=f"{unet.config.in_channels} x {height} x {width}",
        data=data,
        scheduler=type(components.scheduler).__name__,
        meaning=_meaning(components.scheduler.config),
        usage=_imports(components.scheduler) + usage.format(location=location, labels=labels, guidance=guidance),
        classes="" if names is None else CLASSES.format(names=", ".join(names)),
        rows="\n".join(f"- {name}: {value}" for name, value in facts.items()),
        command=command_line(args, data),
    )


def _imports(scheduler: Any) -> str:
    """What the reader imports first: the module of a scheduler that is not of this package."""
    cls = type(scheduler)
    return "" if cls in SCHEDULERS.values() else f"import {cls.__module__}  # defines {cls.__name__}\n"


def _meaning(config: Any) -> str:
    if config.prediction_type != "edm":
        return f"; it predicts `{config.prediction_type}`"
    return f"; preconditioned as by Karras et al. 2022 with sigma_data {config.sigma_data}, mean {config.data_mean}"


def command_line(args: argparse.Namespace, data: str) -> str:
    """The command that repeats the run: its non-default arguments, without secrets and paths of one machine."""
    defaults, words = default_arguments(), ["accelerate launch -m scoresde_pipelines.training.train_unconditional"]
    for name, value in vars(args).items():
        if value == defaults.get(name) or name in ("output_dir", "cache_dir", *NOT_SAVED):
            continue
        if name == "pretrained_model_name_or_path" and Path(value).is_dir():
            value = Path(value).name
        words.append(" ".join(map(shlex.quote, argument_words(name, data if name == "train_data_dir" else value))))
    return " \\\n    ".join(words)
