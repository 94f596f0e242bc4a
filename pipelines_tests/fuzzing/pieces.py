"""The names that a case's source text may use: the public API, torch and NumPy, and small objects to call it with."""

import contextlib
import importlib
import io
import json
import os
import random  # noqa: F401 - for the source text, as are the names below that this file does not use
import tempfile
from decimal import Decimal  # noqa: F401
from fractions import Fraction  # noqa: F401
from functools import cache
from math import inf, nan  # noqa: F401
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import (  # noqa: F401
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from PIL import Image
from torch import Tensor

import scoresde_pipelines
from scoresde_pipelines import models, schedulers
from scoresde_pipelines.cli import app
from scoresde_pipelines.schedulers import ODEError  # noqa: F401
from scoresde_pipelines.schedulers.operators import LinearOperator


diffusers.utils.logging.set_verbosity_error()
os.environ["COLUMNS"] = "400"  # the command line's messages must not be broken into lines

for _module in (models, schedulers, scoresde_pipelines):
    globals().update({name: getattr(_module, name) for name in _module.__all__})

# Public functions outside of the three lists; a name is looked for in these modules, wherever it lies today.
_MODULES = (
    "arguments",
    "classifier_arguments",
    "checkpoints",
    "data",
    "ema",
    "losses",
    "sampling",
    "seeding",
    "time_sampling",
    "objectives",
    "time_densities",
    "image_reader",
    "image_sources",
    "image_format",
    "evaluation",
)
_MORE = (
    "OBJECTIVES",
    "EDMWeighting",
    "ImportanceTimes",
    "IndexTimes",
    "LogNormalTimes",
    "MinSNR",
    "ObjectiveOptions",
    "UniformTimes",
    "denoising_loss",
    "make_objective",
    "ExponentialMovingAverage",
    "ImageFormat",
    "ImageStore",
    "ShuffledBatches",
    "TimeSampler",
    "combined_seed",
    "ddpm_loss",
    "find_checkpoint",
    "frechet_distance",
    "image_grid",
    "likelihood_ratio",
    "load_images",
    "moments",
    "parse_args",
    "parse_classifier_args",
    "random_flip",
    "rotate",
    "score_matching_loss",
    "smld_loss",
    "to_data_range",
    "to_uint8",
)
for _name in _MODULES:
    with contextlib.suppress(ModuleNotFoundError):
        _module = importlib.import_module(f"scoresde_pipelines.training.{_name}")
        globals().update({name: getattr(_module, name) for name in _MORE if hasattr(_module, name)})
with contextlib.suppress(ModuleNotFoundError):
    to_sde_scheduler = importlib.import_module("scoresde_pipelines.scheduler_coercion").to_sde_scheduler
with contextlib.suppress(ModuleNotFoundError, AttributeError):
    to_sde_scheduler = importlib.import_module("scoresde_pipelines.schedulers.scheduling_conversion").to_sde_scheduler


class Refused(ValueError):
    """A command line ended with a message and an exit code that is not 0."""


# ------------------------------------------------------------------ models and pipelines


def scheduler(kind: str = "vp", **options: Any) -> Any:
    """A scheduler by the short name of its SDE; "table" is the VP scheduler of a trained table."""
    makers = {
        "ve": lambda: schedulers.VESDEScheduler(**{"sigma_max": 20.0, "num_train_timesteps": 50} | options),
        "vp": lambda: schedulers.VPSDEScheduler(**{"continuous": True, "num_train_timesteps": 50} | options),
        "subvp": lambda: schedulers.SubVPSDEScheduler(**{"num_train_timesteps": 50} | options),
        "table": lambda: schedulers.VPSDEScheduler(**options),
    }
    return makers[kind]()


def sde(kind: str = "vp") -> Any:
    """An SDE by its short name."""
    return {"ve": lambda: schedulers.VESDE(0.01, 20.0), "vp": schedulers.VPSDE, "subvp": schedulers.SubVPSDE}[kind]()


def gaussian(channels: int = 1, size: int = 4) -> Any:
    """Independent pixels N(0.1, 0.2)."""
    return models.GaussianScoreModel(torch.full((channels, size, size), 0.1, dtype=torch.float64), 0.2)


def mixture() -> Any:
    """Two components in two dimensions."""
    return models.GaussianMixtureScoreModel([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.1, 0.2])


def network(kind: str = "vp", channels: int = 1, size: int = 4) -> Any:
    """The exact network of `gaussian` for a scheduler."""
    return gaussian(channels, size).network(scheduler(kind))


SMALL = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (4, 4),
    "layers_per_block": 1,
    "attention_resolutions": (4,),
    "dropout": 0.0,
}


def unet(**options: Any) -> Any:
    """An NCSN++ (for the VE SDE) of a few thousand weights on gray 8 x 8 images."""
    return models.NCSNpp(**SMALL | options).eval()


def vp_unet(**options: Any) -> Any:
    """A DDPM++ (for the VP SDE) of a few thousand weights on gray 8 x 8 images."""
    return models.DDPMpp(**SMALL | options).eval()


def stock_unet(**options: Any) -> Any:
    """A `UNet2DModel` of a few thousand weights on gray 8 x 8 images."""
    small = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (4, 4),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
    }
    return UNet2DModel(**small | options).eval()


def plain_ddpm() -> Any:
    """A DDPM++ that a `UNet2DModel` can express."""
    plain = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
    }
    return models.DDPMpp(**plain, attention_resolutions=(), resnet_type="ddpm", norm_num_groups=32, skip_rescale=False)


def filled(model: Any, value: float) -> Any:
    """The network with this value in all weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def classifier() -> Any:
    """A noise-conditional classifier of three classes on gray 8 x 8 images."""
    return models.NoiseConditionalClassifier(
        in_channels=1, num_classes=3, depth=10, width=1, embedding_channels=8, sample_size=8
    ).eval()


def pipe(name: str = "", kind: str = "vp", channels: int = 1, size: int = 4, **modules: Any) -> Any:
    """A pipeline `ScoreSde<name>Pipeline` around an exact network, without a progress bar."""
    modules = {
        "unet": modules.pop("unet", None) or network(kind, channels, size),
        "scheduler": scheduler(kind),
    } | modules
    made = getattr(scoresde_pipelines, f"ScoreSde{name}Pipeline")(**modules)
    made.set_progress_bar_config(disable=True)
    return made


class Outputs(torch.nn.Module):
    """A network whose output is a function of its input: what a broken network returns."""

    def __init__(self, function: Any):
        super().__init__()
        self.function, self.config = function, network().config
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Any = None, return_dict: bool = True) -> Any:
        """The function's value as `.sample`."""
        return type("Output", (), {"sample": self.function(sample)})()


# ------------------------------------------------------------------ what a user does with a result


def sampled(made: Any) -> Tensor:
    """Three levels of sampling toy data with a scheduler."""
    made.set_timesteps(3)
    model, x = gaussian().network(made), torch.randn(2, 1, 4, 4) * made.init_noise_sigma
    for timestep in made.timesteps:
        x = made.step(model(x, timestep).sample, timestep, x, return_dict=False)[0]
    return x


def sampled_with(kind: str = "vp", **attributes: Any) -> Tensor:
    """`sampled` after attributes of a scheduler were replaced."""
    made = scheduler(kind)
    for name, value in attributes.items():
        setattr(made, name, value)
    return sampled(made)


def coefficients(made: Any) -> list:
    """Everything that an SDE computes, at three times."""
    t, x = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    return [
        made.alpha(t),
        made.sigma(t),
        made.diffusion(t),
        made.drift(x, t),
        made.log_snr(t),
        made.prior_std,
        made.t_from_log_snr(made.log_snr(t)),
        *made.marginal(x, t),
        *made.transition(t, t / 2),
    ]


def forwarded(made: Any) -> Tensor:
    """One call of a network with the input that its configuration asks for."""
    size = made.config.sample_size or 8
    height, width = (size, size) if isinstance(size, int) else size
    return made.eval()(torch.randn(2, made.config.in_channels, height, width), torch.tensor(0.5))[0]


def images_of(made: Any) -> Any:
    """Images of a pipeline in two steps."""
    made.set_progress_bar_config(disable=True)
    return made(num_inference_steps=2, output_type="pt").images


def likelihood_of(made: Any) -> Any:
    """Bits/dim of one image."""
    height, width = made.sample_shape[1:]
    return made(np.full((1, height, width, 1), 7, np.uint8), tolerance=0.05).bits_per_dim


def applied(made: Any) -> tuple:
    """A measurement of an image of three channels, and its adjoint."""
    y = made.A(torch.rand(2, 3, 4, 4))
    return y, made.At(y)


def entered(manager: Any) -> None:
    """Enters and leaves a context manager."""
    with manager:
        pass


def read_all(store: Any) -> list:
    """Every image of a store."""
    return [store[i] for i in range(len(store))]


def first_three(batches: Any) -> list:
    """The first three values of an iterator."""
    return [batch for _, batch in zip(range(3), batches)]


# ------------------------------------------------------------------ odd values


def one_nan(value: Tensor) -> Tensor:
    """A tensor with one NaN in it."""
    value = value.clone()
    value.view(-1)[-1] = nan
    return value


def wrong_adjoint() -> Any:
    """An operator whose `At` is not the adjoint of its `A`."""
    return type("WrongAdjoint", (LinearOperator,), {"A": lambda self, x: x, "At": lambda self, y: 2 * y})()


def returning(value: Any) -> Any:
    """An operator that returns this value."""
    return type("Returning", (LinearOperator,), {"A": lambda self, x: value, "At": lambda self, y: value})()


# ------------------------------------------------------------------ files and command lines


OFFICIAL_CONFIG = {
    "data": {"image_size": 8, "num_channels": 1, "centered": True},
    "model": {
        "name": "ncsnpp",
        "nf": 4,
        "ch_mult": (1, 1),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
        "dropout": 0.0,
        "resamp_with_conv": True,
        "conditional": True,
        "scale_by_sigma": True,
        "num_scales": 1000,
        "embedding_type": "fourier",
        "resblock_type": "biggan",
        "fir": True,
        "progressive_input": "residual",
        "progressive": "none",
        "progressive_combine": "sum",
        "skip_rescale": True,
    },
    "training": {"sde": "vesde", "continuous": True},
}


@cache
def workspace() -> Path:
    """A temporary folder with images (`data`), a pipeline (`model`) and an official checkpoint (`official.pth`)."""
    root = Path(_FOLDER.name)
    (root / "data").mkdir()
    for i in range(4):
        Image.new("L", (8, 8), 50 * i + 20).save(root / "data" / f"{i}.png")
    (root / "empty").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "a.png").write_bytes((root / "data" / "0.png").read_bytes()[:30])
    (root / "config.json").write_text(json.dumps(OFFICIAL_CONFIG), "utf-8")
    (root / "text.txt").write_text("no checkpoint")
    small = unet(sample_size=4, block_out_channels=(4,), attention_resolutions=())
    pipe(unet=small, kind="ve").save_pretrained(root / "model")
    to_official = importlib.import_module(_official_keys()).to_official
    state = to_official(unet(center_input_sample=False))
    content = {
        "model": {f"module.{key}": value for key, value in state.items()},
        "ema": {"decay": 0.999, "num_updates": 5, "shadow_params": list(state.values())},
        "optimizer": {},
        "step": 5,
    }
    torch.save(content, root / "official.pth")
    return root


_FOLDER = tempfile.TemporaryDirectory(prefix="fuzzing-")


def _official_keys() -> str:
    old, new = "scoresde_pipelines.models.official_keys", "scoresde_pipelines.models.official.keys"
    return old if importlib.util.find_spec(old) else new


def file(name: str) -> str:
    """A file or folder of `workspace`."""
    return str(workspace() / name)


def fresh(name: str) -> str:
    """A path in an empty folder, for what a call writes."""
    return str(Path(tempfile.mkdtemp(dir=workspace())) / name)


def damaged(how: str, value: int = 0) -> str:
    """The official checkpoint with one damage: "cut" or "flip" at a byte, or a change of its content."""
    data = bytearray(Path(file("official.pth")).read_bytes())
    target = Path(fresh("damaged.pth"))
    if how == "cut":
        data = data[: value % len(data)]
    elif how == "flip":
        data[value % len(data)] ^= 1 << value % 8
    if how in ("cut", "flip"):
        target.write_bytes(data)
        return str(target)
    content = torch.load(file("official.pth"), weights_only=True)
    torch.save(_changed(content, how, value), target)
    return str(target)


def _changed(content: Any, how: str, value: int) -> Any:
    keys = sorted(content["model"])
    key, part = keys[value % len(keys)], sorted(content)[value % len(content)]
    changes = {
        "no tensor": lambda: content["model"].pop(key),
        "bool": lambda: content["model"].update({key: content["model"][key].bool()}),
        "int8": lambda: content["model"].update({key: content["model"][key].to(torch.int8)}),
        "nan": lambda: content["model"].update({key: content["model"][key] * nan}),
        "shape": lambda: content["model"].update({key: content["model"][key][None]}),
        "extra": lambda: content["model"].update({"module.extra": torch.zeros(2)}),
        "short": lambda: content["ema"]["shadow_params"].pop(),
        "no part": lambda: content.pop(part),
        "part": lambda: content.update({part: [1, "a"]}),
        "keys": lambda: content["model"].update({3: torch.zeros(1)}),
    }
    changes[how]()
    return content


def command(name: str, *arguments: str, **options: str) -> str:
    """The output of `scoresde <name>`."""
    from typer.testing import CliRunner

    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items() if not isinstance(value, bool)]
    words += [f"--{key.replace('_', '-')}" for key, value in options.items() if value is True]
    result = CliRunner().invoke(app, [name, *words, *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        raise Refused(" ".join(result.output.split()))
    return result.output


def likelihood_command(**options: str) -> str:
    """`scoresde likelihood`."""
    return command("likelihood", **options)


def convert_command(checkpoint: str, folder: str, **options: str) -> str:
    """`scoresde convert`."""
    return (
        command("convert", "--", checkpoint, folder)
        if not options
        else command("convert", checkpoint, folder, **options)
    )


def parsed(parser: str, **options: str | bool) -> dict:
    """The arguments that a training script reads from a command line."""
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return vars(globals()[parser](words))
    except SystemExit as end:
        if end.code != 2:
            raise RuntimeError(f"exit code {end.code}") from end
        raise Refused(" ".join(messages.getvalue().partition("error:")[2].split())) from end
