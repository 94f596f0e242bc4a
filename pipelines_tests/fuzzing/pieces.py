"""The names that a case's source text may use: the public API, torch and NumPy, and small objects to call it with."""

import importlib
import random
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from PIL import Image

import scoresde_pipelines
from scoresde_pipelines import models, schedulers
from scoresde_pipelines.schedulers import ODEError
from scoresde_pipelines.schedulers.checks import check_integer
from scoresde_pipelines.schedulers.scheduling_conversion import to_sde_scheduler

from . import pieces_files, pieces_models
from .pieces_files import Refused


diffusers.utils.logging.set_verbosity_error()

# Public functions of training, and where they lie.
TRAINING = {
    "checkpoints": "find_checkpoint rotate",
    "data": "ImageFormat ImageStore ShuffledBatches load_images to_data_range to_uint8",
    "ema": "ExponentialMovingAverage",
    "evaluation": "frechet_distance",
    "losses": "ddpm_loss denoising_loss score_matching_loss smld_loss",
    "objectives": "OBJECTIVES EDMWeighting ImportanceTimes IndexTimes LogNormalTimes MinSNR ObjectiveOptions UniformTimes "
    "make_objective",
    "sampling": "image_grid",
}
_ALWAYS = (
    Decimal,
    Fraction,
    Image,
    Path,
    Refused,
    ODEError,
    check_integer,
    inf,
    nan,
    np,
    random,
    torch,
    to_sde_scheduler,
)
_STOCK = (DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, ScoreSdeVeScheduler)

NAMESPACE = {
    **{
        name: value
        for name, value in globals().items()
        if any(value is item for item in (*_ALWAYS, *_STOCK, UNet2DModel))
    },
    **{name: getattr(module, name) for module in (models, schedulers, scoresde_pipelines) for name in module.__all__},
    **{
        name: getattr(importlib.import_module(f"scoresde_pipelines.training.{module}"), name)
        for module, names in TRAINING.items()
        for name in names.split()
    },
    **{
        name: value
        for module in (pieces_models, pieces_files)
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    },
}
