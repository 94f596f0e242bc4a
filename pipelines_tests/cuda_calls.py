"""Every pipeline on a tiny network, as functions of a device and a generator: what tests on a GPU compare with the CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde_pipelines import (
    BlurOperator,
    DDPMpp,
    NCSNpp,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeColorizationPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    ScoreSdeSuperResolutionPipeline,
    VESDEScheduler,
    VPSDEScheduler,
)


SHAPE = (3, 8, 8)
COUNT = 2  # images of every call
SIZES: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "attention_resolutions": (4,),
    "dropout": 0.0,
    "init_scale": 0.5,
}
Generators = torch.Generator | list[torch.Generator] | None
Call = Callable[[torch.device, Generators], Tensor]


def pictures(count: int = COUNT, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Pictures of 8-bit values in [0, 1], on the CPU."""
    values = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(5))
    return values.float() / 255


def network(kind: str = "ve", seed: int = 0, **options: Any) -> torch.nn.Module:
    """A network of random weights that depend on the seed alone."""
    torch.manual_seed(seed)
    return (NCSNpp if kind == "ve" else DDPMpp)(**SIZES, **options).eval()


def make(cls: type, device: torch.device, kind: str = "ve", classes: int | None = None, **scheduler: Any) -> Any:
    """A pipeline on the device; preconditioned, so that its images are not all black or white."""
    settings = {"prediction_type": "edm", **scheduler}
    if kind == "ve":
        made: Any = VESDEScheduler(sigma_max=10.0, sigma_data=0.25, data_mean=[0.4, 0.5, 0.6], **settings)
    else:
        made = VPSDEScheduler(continuous=True, sigma_data=0.5, **settings)
    pipe = cls(network(kind, num_class_embeds=classes), made).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(output: Any) -> Tensor:
    """The images of an output, on the CPU."""
    return output.images.float().cpu()


def sample(kind: str = "ve", sampler: dict[str, Any] | None = None, **options: Any) -> Call:
    """Unconditional images."""

    def call(device: torch.device, generator: Generators) -> Tensor:
        pipe = make(ScoreSdePipeline, device, kind, **(sampler or {}))
        return images(pipe(COUNT, generator=generator, output_type="pt", **options))

    return call


def guided_by_a_weak_network(device: torch.device, generator: Generators) -> Tensor:
    pipe = make(ScoreSdePipeline, device)
    weak = network("ve", 1).to(device)
    options: dict[str, Any] = {"weak_unet": weak, "weak_guidance_scale": 1.5, "output_type": "pt"}
    return images(pipe(COUNT, 8, generator=generator, **options))


def of_a_class(device: torch.device, generator: Generators) -> Tensor:
    pipe = make(ScoreSdeClassConditionalPipeline, device, classes=3)
    return images(pipe([2, 0], 2.0, 8, generator=generator, output_type="pt", guidance_interval=(0.05, 5.0)))


def restored(cls: type, *arguments: Any, **options: Any) -> Call:
    """Images given a measurement."""

    def call(device: torch.device, generator: Generators) -> Tensor:
        pipe = make(cls, device)
        settings = {"num_inference_steps": 8, "output_type": "pt", **options}
        return images(pipe(*arguments, generator=generator, **settings))

    return call


def likelihood(device: torch.device, generator: Generators) -> Tensor:
    """Bits per dimension of two pictures."""
    pipe = make(ScoreSdeLikelihoodPipeline, device, "vp")
    found = pipe(pictures(), tolerance=1e-2, sampling_eps=1e-2, generator=generator)
    return found.bits_per_dim.float().cpu()


MASK = torch.ones(8, 8)
MASK[:, 4:] = 0
PREDICTOR_CORRECTOR = {"predictor": "reverse_diffusion", "corrector": "langevin", "correct_steps": 2}
METROPOLIS = {"predictor": "exponential", "corrector": "metropolis_langevin"}
CALLS: dict[str, Call] = {
    "default": sample(num_inference_steps=20, quality="default"),
    "default, VP": sample("vp", num_inference_steps=20, quality="default"),
    "multistep": sample(sampler={"predictor": "exponential_multistep"}, num_inference_steps=10),
    "ancestral": sample("vp", {"predictor": "ancestral"}, num_inference_steps=10),
    "predictor-corrector": sample(sampler=PREDICTOR_CORRECTOR, num_inference_steps=8),
    "metropolis": sample("vp", METROPOLIS, num_inference_steps=8),
    "ode": sample(ode_tolerance=1e-2),
    "ode with restarts": sample("vp", ode_tolerance=1e-2, num_restarts=1),
    "tiles": sample(num_inference_steps=8, height=12, width=16, tile_size=8, tile_overlap=4, tile_batch_size=3),
    "autoguidance": guided_by_a_weak_network,
    "classes": of_a_class,
    "inpaint": restored(ScoreSdeInpaintPipeline, pictures(), MASK),
    "inpaint by replacement": restored(ScoreSdeInpaintPipeline, pictures(), MASK, method="replacement"),
    "colorize": restored(ScoreSdeColorizationPipeline, pictures(shape=(1, 8, 8))),
    "super-resolution": restored(ScoreSdeSuperResolutionPipeline, pictures(shape=(3, 4, 4)), 2),
    "deblur": restored(ScoreSdeInverseProblemPipeline, pictures(), BlurOperator.gaussian(0.6, 5), noise_std=0.1),
    "likelihood": likelihood,
}


def tolerance(name: str) -> float:
    """How far a GPU and the CPU may differ in float32: values in [0, 1], or bits per dimension."""
    return 1e-4 if name == "likelihood" else 3e-3
