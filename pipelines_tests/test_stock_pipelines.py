"""Unmodified stock pipelines with our schedulers, and an exact Gaussian denoiser in place of their network.

The latents must have the data's mean and standard deviation, the network is called `order` times per step, and the progress
bar ends at n of n. `docs/diffusers.md` lists what is tested here.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from PIL import Image

from scoresde_pipelines import GaussianScoreModel, VPSDEScheduler


MEAN, STD, STEPS = 0.3, 0.5, 24
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SAMPLERS: dict[str, dict[str, Any]] = {
    "multistep": {"predictor": "exponential_multistep", "timestep_spacing": "log_snr"},
    "predictor-corrector": {
        "predictor": "exponential",
        "corrector": "langevin",
        "snr": 0.1,
        "timestep_spacing": "karras",
    },
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "out_channels": 4,
    "block_out_channels": (32, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}
XL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
}


class ExactUNet(UNet2DConditionModel):
    """Returns the exact noise prediction of Gaussian latents; further input channels and all conditions are ignored."""

    def tell(self, scheduler: VPSDEScheduler) -> "ExactUNet":
        data = GaussianScoreModel(torch.full((4, 8, 8), MEAN), STD**2)
        object.__setattr__(self, "exact", data.network(scheduler))
        self.calls = 0
        return self

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        noise = self.exact(sample[:, :4], timestep).sample
        return UNet2DConditionOutput(noise) if kwargs.get("return_dict", True) else (noise,)


class Bar:
    """In the place of a pipeline's progress bar."""

    def __init__(self) -> None:
        self.total, self.count = 0, 0

    def __call__(self, iterable: Any = None, total: int | None = None) -> Any:
        self.total = total if iterable is None else len(iterable)
        return self if iterable is None else self._through(iterable)

    def _through(self, iterable: Any) -> Any:
        for item in iterable:
            yield item
            self.count += 1

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *args: Any) -> None:
        pass

    def update(self, count: int = 1) -> None:
        self.count += count


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )


def controlnet(**more: Any) -> ControlNetModel:
    shared = {
        key: value for key, value in UNET.items() if key not in ("sample_size", "out_channels", "up_block_types")
    }
    return ControlNetModel(in_channels=4, conditioning_embedding_out_channels=(16, 32), **shared, **more)


def parts(scheduler: Any, channels: int = 4, **unet: Any) -> dict[str, Any]:
    """Components of Stable Diffusion; the text encoder is left out, as embeddings are passed."""
    network = ExactUNet(**UNET, in_channels=channels, **unet).tell(scheduler)
    return {"vae": vae(), "text_encoder": None, "tokenizer": None, "unet": network, "scheduler": scheduler}


CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
ENCODERS = {"text_encoder_2": None, "tokenizer_2": None}
IMAGE, MASK = Image.new("RGB", (16, 16), (90, 120, 40)), Image.new("L", (16, 16), 255)
TEXT = {"prompt_embeds": torch.zeros(8, 7, 32), "negative_prompt_embeds": torch.zeros(8, 7, 32)}
POOLED = {"pooled_prompt_embeds": torch.zeros(8, 32), "negative_pooled_prompt_embeds": torch.zeros(8, 32)}
SIZE = {"height": 16, "width": 16}
IMAGES = {"image": [IMAGE] * 8}
# The share of the steps that is made: an image-to-image pipeline starts at strength 0.8 in the middle.
STRENGTH = {"strength": 0.8}

# class: (further components, arguments of the call, input channels of the network, its options)
PIPELINES: dict[str, tuple[Callable[[], dict], dict[str, Any], int, dict]] = {
    "StableDiffusionPipeline": (lambda: CHECKER, TEXT | SIZE, 4, {}),
    "StableDiffusionImg2ImgPipeline": (lambda: CHECKER, TEXT | IMAGES | STRENGTH, 4, {}),
    "StableDiffusionInpaintPipeline": (
        lambda: CHECKER,
        TEXT | IMAGES | SIZE | {"mask_image": [MASK] * 8, "strength": 1.0},
        9,
        {},
    ),
    "StableDiffusionInstructPix2PixPipeline": (lambda: CHECKER, TEXT | IMAGES, 8, {}),
    "StableDiffusionControlNetPipeline": (lambda: CHECKER | {"controlnet": controlnet()}, TEXT | SIZE | IMAGES, 4, {}),
    "StableDiffusionControlNetImg2ImgPipeline": (
        lambda: CHECKER | {"controlnet": controlnet()},
        TEXT | IMAGES | STRENGTH | {"control_image": [IMAGE] * 8},
        4,
        {},
    ),
    "StableDiffusionXLPipeline": (lambda: ENCODERS, TEXT | POOLED | SIZE, 4, XL),
    "StableDiffusionXLImg2ImgPipeline": (lambda: ENCODERS, TEXT | POOLED | IMAGES | STRENGTH, 4, XL),
    "StableDiffusionXLInpaintPipeline": (
        lambda: ENCODERS,
        TEXT | POOLED | IMAGES | SIZE | {"mask_image": [MASK] * 8, "strength": 1.0},
        9,
        XL,
    ),
    "StableDiffusionXLControlNetPipeline": (
        lambda: ENCODERS | {"controlnet": controlnet(**XL)},
        TEXT | POOLED | SIZE | IMAGES,
        4,
        XL,
    ),
    "StableDiffusionPanoramaPipeline": (lambda: CHECKER, TEXT | SIZE, 4, {}),
    "StableDiffusionPAGPipeline": (lambda: CHECKER, TEXT | SIZE | {"pag_scale": 0.0}, 4, {}),
    "StableDiffusionDepth2ImgPipeline": (
        lambda: {"depth_estimator": None, "feature_extractor": None},
        TEXT | IMAGES | STRENGTH | {"depth_map": torch.zeros(8, 16, 16)},
        5,
        {},
    ),
    "StableDiffusionUpscalePipeline": (
        lambda: {"low_res_scheduler": DDPMScheduler()},
        TEXT | {"image": [IMAGE.resize((8, 8))] * 8},
        7,
        {"num_class_embeds": 1000},
    ),
}  # fmt: skip


def ours(sampler: str) -> VPSDEScheduler:
    """Our scheduler from the configuration of Stable Diffusion's own."""
    stock = DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False, steps_offset=1)
    return VPSDEScheduler.from_config(stock.config, **SAMPLERS[sampler])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", PIPELINES)
def test_a_stock_pipeline_samples_the_data(name: str, sampler: str) -> None:
    extra, arguments, channels, options = PIPELINES[name]
    scheduler = ours(sampler)
    pipe = getattr(diffusers, name)(**parts(scheduler, channels, **options), **extra())
    bar = pipe.progress_bar = Bar()
    latents = pipe(
        **arguments,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images
    steps = round(STEPS * arguments.get("strength", 1.0))
    assert scheduler.order == (2 if sampler == "predictor-corrector" else 1)
    assert (pipe.unet.calls, bar.count, bar.total) == (steps * scheduler.order, steps, steps)
    assert float(latents.mean()) == pytest.approx(MEAN, abs=0.06)
    assert float(latents.std()) == pytest.approx(STD, rel=0.08)


@pytest.mark.parametrize(
    ("name", "more", "error", "reason"),
    [
        (
            "StableDiffusionSAGPipeline",
            TEXT | {"sag_scale": 0.0},
            ValueError,
            "does not support using a scheduler of type VPSDEScheduler",
        ),
        (
            "LatentConsistencyModelPipeline",
            {"prompt_embeds": TEXT["prompt_embeds"]},
            TypeError,
            "unexpected keyword argument 'original_inference_steps'",
        ),
    ],
)
def test_stock_pipelines_that_refuse(name: str, more: dict, error: Any, reason: str) -> None:
    scheduler = ours("multistep")
    pipe = getattr(diffusers, name)(**parts(scheduler), **CHECKER)
    with pytest.raises(error, match=reason):
        pipe(**more, **SIZE, num_inference_steps=5)


def test_the_page_lists_what_is_tested() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "diffusers.md"
    if not page.is_file():
        pytest.skip("needs the source tree")
    rows = set(re.findall(r"^\| `(\w+Pipeline)` \|.*\.py` \|$", page.read_text("utf-8"), re.MULTILINE))
    assert rows == {*PIPELINES, "DDPMPipeline", "DDIMPipeline"}
