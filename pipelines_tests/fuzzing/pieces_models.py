"""Tiny models, schedulers and pipelines to call the package with, and what a user does with a result."""

from math import nan
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor

import scoresde_pipelines
from scoresde_pipelines import models, schedulers
from scoresde_pipelines.schedulers import LinearOperator


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
    """Two images of a pipeline in two steps."""
    made.set_progress_bar_config(disable=True)
    return made(batch_size=2, num_inference_steps=2, output_type="pt").images


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
