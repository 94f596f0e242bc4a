"""ScoreSdePipeline: what a call accepts and returns."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)
from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler
from PIL import Image

from scoresde_pipelines import (
    DDPMpp,
    GaussianScoreModel,
    NCSNpp,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)


TINY = {
    "sample_size": 8,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "attention_resolutions": (4,),
    "dropout": 0.0,
}


def tiny_unet(channels: int = 3, **options) -> UNet2DModel:
    config = {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DModel(**config | options).eval()


def pipeline(kind: str = "vp", channels: int = 3) -> ScoreSdePipeline:
    torch.manual_seed(0)
    shape = {"in_channels": channels, "out_channels": channels}
    pipes = {
        "ve": lambda: ScoreSdePipeline(NCSNpp(**TINY, **shape).eval(), VESDEScheduler(sigma_max=50.0)),
        "vp": lambda: ScoreSdePipeline(DDPMpp(**TINY, **shape).eval(), VPSDEScheduler(continuous=True)),
        "subvp": lambda: ScoreSdePipeline(DDPMpp(**TINY, **shape).eval(), SubVPSDEScheduler(corrector="langevin")),
        "unet": lambda: ScoreSdePipeline(tiny_unet(channels), VPSDEScheduler()),
    }
    pipe = pipes[kind]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def analytic(scheduler, mean, variance, **options) -> ScoreSdePipeline:
    pipe = ScoreSdePipeline(GaussianScoreModel(mean, variance).network(scheduler), scheduler, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------- randomness


@pytest.mark.parametrize("kind", ["ve", "vp", "subvp", "unet"])
def test_an_image_is_its_seed_s_whatever_the_batch(kind):
    pipe = pipeline(kind)

    def run(seeds):
        return pipe(len(seeds), 3, generator=[seeded(s) for s in seeds], output_type="latent").images

    alone = torch.cat([run([0]), run([1])])
    scale = float(alone.abs().max())
    for seeds, places in (([5, 1, 3, 9, 0, 7, 8], (4, 1)), ([*range(10, 72), 1, 0], (63, 62))):
        torch.testing.assert_close(run(seeds)[list(places)], alone, rtol=0, atol=1e-6 * max(1.0, scale))


def test_a_generator_repeats_and_another_seed_differs():
    pipe = pipeline("subvp")
    a, b, c = (pipe(2, 2, generator=seeded(s), output_type="pt").images for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_latents_are_the_unit_noise_of_the_start(kind):
    pipe, generator = pipeline(kind), seeded(3)
    noise = torch.randn(2, 3, 8, 8, generator=generator)
    given = pipe(2, 2, generator=generator, latents=noise, output_type="latent").images
    drawn = pipe(2, 2, generator=seeded(3), output_type="latent").images
    assert torch.equal(given, drawn)
    assert torch.equal(pipe.prepare_latents(2, None, noise), noise * (50.0 if kind == "ve" else 1.0))


# ---------------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    "scheduler, low", [(VESDEScheduler(sigma_max=50.0), 0.0), (VPSDEScheduler(continuous=True), -1.0)]
)
def test_output_types_hold_the_same_picture(scheduler, low):
    # Data at one point, drawn exactly by denoising at once: half-way, above white and at a quarter of the range.
    data = torch.stack([torch.full((4, 6), low + part * (1 - low)) for part in (0.5, 1.3, 0.25)])
    pipe = analytic(scheduler, data, 0.0)
    assert (pipe.config.data_min, pipe.config.data_max) == (low, 1.0)
    results = {kind: pipe(2, 1, output_type=kind).images for kind in ("pil", "np", "pt", "latent")}
    torch.testing.assert_close(results["latent"], data.expand(2, 3, 4, 6), rtol=1e-4, atol=1e-4)
    expected = torch.tensor([0.5, 1.0, 0.25]).reshape(3, 1, 1).expand(2, 3, 4, 6)
    torch.testing.assert_close(results["pt"], expected, rtol=1e-4, atol=1e-4)
    assert results["np"].shape == (2, 4, 6, 3)
    np.testing.assert_allclose(results["np"], expected.permute(0, 2, 3, 1), atol=1e-4)
    assert all(isinstance(image, Image.Image) and image.size == (6, 4) for image in results["pil"])
    assert results["pil"][0].getpixel((0, 0)) in {(127, 255, 64), (128, 255, 64)}


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pil_modes_follow_the_channels(channels, mode):
    assert pipeline("vp", channels)(1, 1).images[0].mode == mode


@pytest.mark.parametrize("kind", ["ve", "vp", "unet"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels(kind, channels):
    pipe = pipeline(kind, channels)
    images = pipe(2, 2, generator=seeded(0), output_type="pt").images
    assert images.shape == (2, channels, 8, 8) and bool(torch.isfinite(images).all())
    if channels in (2, 5):
        with pytest.raises(ValueError, match="output_type 'pil'"):
            pipe(2, 2)


def test_the_data_range_can_be_one_s_own():
    pipe = analytic(VPSDEScheduler(continuous=True), torch.full((1, 2, 2), 64.0), 0.0, data_min=0.0, data_max=255.0)
    torch.testing.assert_close(
        pipe(1, 1, output_type="pt").images, torch.full((1, 1, 2, 2), 64 / 255), rtol=1e-3, atol=1e-3
    )


def test_tuples_and_outputs_agree():
    pipe = pipeline()
    images, nfe = pipe(1, 3, generator=seeded(0), output_type="pt", return_dict=False)
    result = pipe(1, 3, generator=seeded(0), output_type="pt")
    assert torch.equal(images, result.images) and nfe == result.nfe == 3


@pytest.mark.parametrize(
    "scheduler, nfe",
    [
        (VPSDEScheduler(continuous=True), 5),
        (VPSDEScheduler(continuous=True, corrector="langevin"), 10),
        (VESDEScheduler(correct_steps=3), 20),
        (SubVPSDEScheduler(predictor=None, corrector="langevin", correct_steps=2), 10),
    ],
)
def test_nfe_counts_the_network_s_calls(scheduler, nfe):
    pipe, calls = analytic(scheduler, torch.zeros(3, 4, 4), 1.0), []
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    assert pipe(2, 5, output_type="latent").nfe == len(calls) == nfe == pipe.num_timesteps


# ---------------------------------------------------------------------- callbacks, progress


def test_callbacks_see_every_step_and_may_replace_the_state():
    pipe, seen = pipeline("subvp"), []

    def callback(pipe, i, timestep, tensors):
        seen.append((i, float(timestep), tensors["latents"].shape))
        return {"latents": torch.zeros_like(tensors["latents"])} if i == pipe.num_timesteps - 1 else {}

    images = pipe(2, 3, output_type="latent", callback_on_step_end=callback).images
    assert [i for i, _, _ in seen] == list(range(6)) and bool((images == 0).all())
    assert [t for _, t, _ in seen] == pipe.scheduler.timesteps.tolist()
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        pipe(1, 1, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_progress_bar_counts_network_calls(capfd):
    pipe = pipeline("subvp")
    pipe.set_progress_bar_config(disable=False)
    pipe(1, 4, output_type="latent")
    assert "8/8" in capfd.readouterr().err


# ---------------------------------------------------------------------- schedulers of other kinds


STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(
    "stock, predictor",
    [
        (DDPMScheduler(**STABLE_DIFFUSION, prediction_type="v_prediction"), "ancestral"),
        (DDIMScheduler(**STABLE_DIFFUSION), "exponential"),
        (EulerDiscreteScheduler(**STABLE_DIFFUSION), "ancestral"),
        # Its own defaults, 0.00085 to 0.012, are not DDPM's, and a plain from_config would drop them.
        (HeunDiscreteScheduler(), "ancestral"),
        (DDPMScheduler(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3), "ancestral"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_stock_schedulers_are_converted_with_their_noise_schedule(stock, predictor):
    scheduler = ScoreSdePipeline(tiny_unet(), stock).scheduler
    assert type(scheduler) is VPSDEScheduler and scheduler.config.predictor == predictor
    assert scheduler.config.prediction_type == stock.config.prediction_type
    torch.testing.assert_close(scheduler.alphas_cumprod, stock.alphas_cumprod, rtol=1e-5, atol=0)
    n = len(stock.alphas_cumprod)
    alpha = scheduler.sde.alpha(torch.arange(1, n + 1, dtype=torch.float64) / n)
    torch.testing.assert_close(alpha**2, stock.alphas_cumprod.double(), rtol=2e-5, atol=0)


def test_score_sde_schedulers_are_converted():
    ve = ScoreSdePipeline(
        tiny_unet(time_embedding_type="fourier"),
        ScoreSdeVeScheduler(sigma_max=380.0, snr=0.075, num_train_timesteps=1500),
    ).scheduler
    assert type(ve) is VESDEScheduler and ve.config.num_train_timesteps == 1500
    assert (ve.sde.sigma_min, ve.sde.sigma_max, ve.config.snr, ve.config.corrector) == (0.01, 380.0, 0.075, "langevin")
    vp = ScoreSdePipeline(
        tiny_unet(), ScoreSdeVpScheduler(num_train_timesteps=500, beta_min=0.2, beta_max=15)
    ).scheduler
    assert type(vp) is VPSDEScheduler and vp.config.continuous
    assert (vp.sde.beta_min, vp.sde.beta_max) == (pytest.approx(0.2), pytest.approx(15.0))


@pytest.mark.parametrize(
    "stock", [EDMEulerScheduler(), FlowMatchEulerDiscreteScheduler()], ids=lambda x: type(x).__name__
)
def test_schedulers_without_an_sde_are_refused(stock):
    with pytest.raises(
        ValueError, match=f"scheduler must describe an SDE of this package, got {type(stock).__name__}: "
    ):
        ScoreSdePipeline(tiny_unet(), stock)
    with pytest.raises(TypeError, match="scheduler must be a diffusers scheduler"):
        ScoreSdePipeline(tiny_unet(), "ddpm")


# ---------------------------------------------------------------------- precision


@pytest.mark.parametrize("kind", ["ve", "vp", "unet"])
def test_half_precision_networks_run_on_a_single_precision_state(kind):
    pipe = pipeline(kind)
    exact = pipe(2, 3, generator=seeded(0), output_type="latent").images
    half = pipe.to(torch.bfloat16)(2, 3, generator=seeded(0), output_type="latent").images
    assert half.dtype == torch.float32
    assert float((half - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("state", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_scores_of_a_network_are_in_single_precision_at_least(state, weights):
    pipe, x = pipeline(), torch.randn(2, 3, 8, 8)
    exact = pipe.scheduler.score_fn(pipe.unet)(x, torch.tensor(0.5)).detach()
    score = pipe.scheduler.score_fn(pipe.unet.to(weights))(x.to(state), torch.tensor(0.5))
    assert score.dtype == (torch.float64 if state == torch.float64 else torch.float32)
    assert float((score - exact).norm() / exact.norm()) < (1e-5 if torch.bfloat16 not in (state, weights) else 0.05)


# ---------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be an integer"),
        ({"num_inference_steps": 0}, "num_inference_steps must be an integer"),
        ({"num_inference_steps": "ten"}, "num_inference_steps must be an integer"),
        ({"batch_size": 2, "generator": [torch.Generator()]}, "generator must hold one generator per image, 2, got 1"),
        ({"batch_size": 2, "latents": torch.zeros(1, 3, 8, 8)}, r"latents must have shape \(2, 3, 8, 8\)"),
        ({"output_type": "jpeg"}, "output_type must be one of"),
        ({"ode_tolerance": 0.0}, "ode_tolerance must be a finite number in .1e-12, 1., got 0.0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_arguments_are_named_before_any_work(arguments, message):
    pipe, calls = pipeline(), []
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)
    assert not calls


def test_bad_ranges_and_sizes_are_named():
    with pytest.raises(ValueError, match="data_min must be less than data_max"):
        ScoreSdePipeline(tiny_unet(), VPSDEScheduler(), data_min=1.0, data_max=0.0)
    with pytest.raises(ValueError, match=r"unet.config.sample_size must be"):
        ScoreSdePipeline(tiny_unet(sample_size=None), VPSDEScheduler())()
