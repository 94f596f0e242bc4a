"""The likelihood pipeline against closed-form probabilities of images, and its latent codes."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from PIL import Image
from torch import Tensor, nn

from scoresde_pipelines import (
    NCSNpp,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)
from scoresde_pipelines.image_inputs import images_to_pixels
from scoresde_pipelines.models import GaussianScoreModel
from scoresde_pipelines.pipeline_latent_codes import spherical_path
from scoresde_pipelines.schedulers import log_likelihood
from scoresde_pipelines.schedulers.dequantization import DEQUANTIZATIONS


SCHEDULERS = {
    "ve": lambda: VESDEScheduler(sigma_max=50.0),
    "vp": lambda: VPSDEScheduler(continuous=True),
    "subvp": lambda: SubVPSDEScheduler(),
}


def seeded(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


PIXELS = torch.tensor([[[[0, 255], [100, 30]]], [[[128, 127], [64, 191]]]])


def gaussian_pipeline(name: str, low: float = -1.0, high: float = 1.0, variance: float = 0.2):
    """Gray 2 x 2 images: independent pixels with this variance around mid-range means."""
    scheduler = SCHEDULERS[name]()
    mean = low + (high - low) * torch.tensor([[[0.3, 0.6], [0.5, 0.4]]], dtype=torch.float64)
    data = GaussianScoreModel(mean, variance * (high - low) ** 2 / 4)
    return ScoreSdeLikelihoodPipeline(data.network(scheduler), scheduler, low, high), data


def cell_bits(pipe, data, pixels: Tensor, latents: Tensor) -> Tensor:
    """Exact bits/dim: the Gaussian's mass in each cell at t = eps, and the prior's mismatch at T."""
    sde, t = pipe.scheduler.sde, torch.tensor(1e-5, dtype=torch.float64)
    width = (pipe.config.data_max - pipe.config.data_min) / 255
    std = (sde.alpha(t) ** 2 * data.eigenvalues[0] + sde.sigma(t) ** 2).sqrt().reshape(data.means[0].shape)
    offset = pipe.config.data_min + width * pixels - sde.alpha(t) * data.means[0]
    upper, lower = (0.5 * torch.erfc(-(offset + side * width / 2) / (std * math.sqrt(2))) for side in (1, -1))
    log_mass = torch.log(upper - lower).flatten(1).sum(1)
    x = latents.double() * sde.prior_std
    mismatch = sde.prior_log_prob(x) - data.log_prob(sde, x, torch.ones((), dtype=torch.float64))
    return -(log_mass + mismatch) / (4 * math.log(2))


# ------------------------------------------------------------------ bits/dim


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0), (-3.0, 7.0)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_bits_per_dim_of_the_cell_in_any_range(name, data_range):
    pipe, data = gaussian_pipeline(name, *data_range)
    output = pipe(PIXELS, dequantization="none", divergence="exact", tolerance=1e-6)
    assert torch.allclose(output.bits_per_dim, cell_bits(pipe, data, PIXELS, output.latents), atol=1e-4, rtol=0)
    assert output.bits_per_dim.shape == output.standard_error.shape == output.nfe.shape == (2,)


@pytest.mark.parametrize("dequantization", ["uniform", "truncated_normal"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_dequantized_bits_agree_within_their_error(name, dequantization):
    pipe, data = gaussian_pipeline(name, variance=0.01)
    generator = torch.Generator().manual_seed(0)
    output = pipe(
        PIXELS[1:],
        dequantization=dequantization,
        num_dequantizations=16,
        importance_weighted=True,
        divergence="exact",
        tolerance=1e-4,
        generator=generator,
    )
    exact = cell_bits(pipe, data, PIXELS[1:], output.latents)
    assert float((output.bits_per_dim - exact).abs()) < 4 * float(output.standard_error) + 1e-3
    assert float(output.probe_error) == 0 and 0 < float(output.dequantization_error) < 0.3


def test_official_cells_are_the_official_offset():
    pipe, _ = gaussian_pipeline("vp")
    x = (PIXELS.double() + 0.5) / 256 * 2 - 1
    density = pipe(x, levels=None, divergence="exact")
    cells = pipe(PIXELS, dequantization="none", divergence="exact", official_cells=True)
    assert torch.allclose(cells.bits_per_dim, density.bits_per_dim + 7, atol=1e-5)


@pytest.mark.parametrize("dequantization", ["uniform", "truncated_normal"])
@pytest.mark.parametrize("num_dequantizations", [1, 2])
def test_error_bars_of_few_draws_cover(dequantization, num_dequantizations):
    """1000 synthetic images whose density bends within a cell; the truth is the mean over 200 draws each."""
    pipe, data = gaussian_pipeline("vp", variance=0.002)
    t = torch.tensor(1e-5, dtype=torch.float64)
    pixels = ((data.sample(1000, torch.Generator().manual_seed(0)) + 1) * 127.5).round().clamp(0, 255).long()
    options = {"dequantization": dequantization, "divergence": "exact", "tolerance": 1e-4}
    output = pipe(
        pixels, num_dequantizations=num_dequantizations, generator=torch.Generator().manual_seed(1), **options
    )
    assert torch.allclose(output.standard_error, (output.dequantization_error**2 + output.solver_error**2).sqrt())
    sde, width = pipe.scheduler.sde, 2 / 255
    centres, draws = pixels * width - 1.0, []
    generators = seeded(1000)
    for _ in range(200):
        noisy = DEQUANTIZATIONS[dequantization](sde, centres, width, 1e-5, generators)
        draws.append(data.log_prob(sde, noisy.x, torch.tensor(noisy.t, dtype=t.dtype)) - noisy.log_q)
    error = output.bits_per_dim + torch.stack(draws).mean(0) / (4 * math.log(2))
    assert float((error.abs() <= 3 * output.standard_error).double().mean()) >= 0.99
    assert 0.4 < float((error / output.standard_error).square().mean().sqrt()) < 1.1


def test_images_of_every_kind_are_the_same_pixels():
    array = PIXELS.movedim(1, -1).numpy().astype(np.uint8)
    kinds = [
        PIXELS,
        PIXELS.to(torch.uint8),
        PIXELS.double() / 255,
        array,
        array.astype(np.float32) / 255,
        [Image.fromarray(image[..., 0]) for image in array],
    ]
    for images in kinds:
        assert torch.equal(images_to_pixels(images, 1, (2, 2)), PIXELS)
    with pytest.raises(ValueError, match=r"images of floats must lie in \[0, 1\], got values from 0 to 255"):
        images_to_pixels(PIXELS.double(), 1)
    with pytest.raises(TypeError, match=r"images must be a PIL image, .* got str: open the file with PIL.Image.open"):
        images_to_pixels("image.png", 1)


def test_other_levels_take_integers_as_they_are():
    pixels = torch.tensor([[[[0, 3], [1, 2]]]])
    for images in (pixels, pixels.to(torch.uint8), pixels.numpy().astype(np.uint16), pixels / 3):
        assert torch.equal(images_to_pixels(images, 1, (2, 2), levels=4), pixels)
    with pytest.raises(ValueError, match=r"images of integers must lie in 0..3, got 0..4"):
        images_to_pixels(pixels.clamp_min(0) + torch.tensor([0, 1]), 1, levels=4)


def test_one_image_and_lists_are_batches():
    pipe, _ = gaussian_pipeline("vp")
    options = {"dequantization": "none", "divergence": "exact", "tolerance": 1e-3}
    expected = pipe(PIXELS, **options).bits_per_dim
    array = PIXELS.movedim(1, -1).numpy().astype(np.uint8)
    for k in range(2):
        for image in (array[k], PIXELS[k], array[k, ..., 0], Image.fromarray(array[k, ..., 0])):
            torch.testing.assert_close(pipe(image, **options).bits_per_dim, expected[k : k + 1], rtol=0, atol=1e-6)
    both = pipe([array[0], Image.fromarray(array[1, ..., 0])], **options).bits_per_dim
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-6)
    one = pipe(2 * PIXELS[0] / 255 - 1, levels=None, divergence="exact").bits_per_dim
    torch.testing.assert_close(one, pipe(2 * PIXELS[:1] / 255 - 1, levels=None, divergence="exact").bits_per_dim)


class Labelled(nn.Module):
    """A class-conditional network: each label has its own Gaussian."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.config = networks[0].config

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> UNet2DOutput:
        outputs = torch.stack([network(sample, timestep).sample for network in self.networks])
        return UNet2DOutput(sample=outputs[class_labels, torch.arange(len(sample))])


def test_class_labels_choose_the_density():
    parts = [gaussian_pipeline("vp", variance=variance)[0] for variance in (0.05, 0.5)]
    pipe = ScoreSdeLikelihoodPipeline(Labelled([part.unet for part in parts]), parts[0].scheduler)
    labels = torch.tensor([1, 0])
    together = pipe(PIXELS, dequantization="none", divergence="exact", class_labels=labels)
    for i, label in enumerate(labels):
        alone = parts[label](PIXELS[i : i + 1], dequantization="none", divergence="exact")
        assert float(together.bits_per_dim[i]) == pytest.approx(float(alone.bits_per_dim), abs=1e-6)


# ------------------------------------------------------------------ networks


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "in_channels": 1,
        "out_channels": 1,
    }
    network = NCSNpp(**config).eval()
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return ScoreSdeLikelihoodPipeline(network, VESDEScheduler(sigma_max=10.0))


def test_an_image_does_not_depend_on_its_batch(tiny):
    pixels = torch.randint(0, 256, (64, 1, 8, 8))
    options = {"tolerance": 1e-2, "dequantization": "uniform"}
    together = tiny(pixels, generator=seeded(64), **options)
    for i in (0, 40):
        alone = tiny(pixels[i : i + 1], generator=[torch.Generator().manual_seed(i)], **options)
        assert float(alone.bits_per_dim) == pytest.approx(float(together.bits_per_dim[i]), abs=1e-6)


def test_a_diffusers_network_and_scheduler():
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    pipe = ScoreSdeLikelihoodPipeline(unet, DDPMScheduler())
    pixels = torch.randint(0, 256, (2, 1, 8, 8))
    output = pipe(pixels, dequantization="none", tolerance=1e-2, generator=seeded(2))
    # The table's first index is at t = 1 / 1000, and pixels map to [-1, 1].
    sde, score, x = pipe.scheduler.sde, pipe.scheduler.score_fn(unet), (2 * pixels.double() / 255 - 1).float()
    result = log_likelihood(
        score, sde, x, sampling_eps=1e-3, tolerance=1e-2, generator=seeded(2), data_std=pipe.data_std
    )
    bits = -(result.log_prob + 64 * math.log(2 / 255)) / (64 * math.log(2))
    assert torch.allclose(output.bits_per_dim, bits, atol=1e-5)


# ------------------------------------------------------------------ latent codes


@pytest.mark.parametrize("name", SCHEDULERS)
def test_codes_of_gaussian_data_are_its_standard_scores(name):
    pipe, data = gaussian_pipeline(name)
    codes = pipe.encode(PIXELS, tolerance=1e-6)
    sde, t = pipe.scheduler.sde, torch.tensor([1e-5, 1.0], dtype=torch.float64)
    (a0, a1), (s0, s1) = sde.alpha(t), sde.sigma(t)
    z = (PIXELS / 255 * 2 - 1 - a0 * data.means[0]) / (a0**2 * 0.2 + s0**2).sqrt()
    expected = (z * (a1**2 * 0.2 + s1**2).sqrt() + a1 * data.means[0]) / sde.prior_std
    assert torch.allclose(codes.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_round_trip(name):
    pipe, _ = gaussian_pipeline(name)
    decoded = pipe.decode(pipe.encode(PIXELS), output_type="latent")
    assert torch.allclose(decoded.images, (2 * PIXELS / 255 - 1).float(), atol=5e-5, rtol=0)
    back = pipe.decode(pipe.encode(PIXELS), output_type="pil").images
    assert all(np.array_equal(np.asarray(image), PIXELS[i, 0].numpy()) for i, image in enumerate(back))
    assert decoded.nfe.shape == (2,)


def test_codes_are_the_samplers_latents():
    pipe, _ = gaussian_pipeline("vp")
    codes = pipe.encode(PIXELS)
    sampler = ScoreSdePipeline(pipe.unet, pipe.scheduler)
    images = sampler(batch_size=2, latents=codes, ode_tolerance=1e-5, output_type="pt").images
    assert torch.allclose(images, PIXELS.float() / 255, atol=1e-3)  # stops at t = 1e-3 and denoises


def test_temperature_zero_is_the_mode():
    pipe, data = gaussian_pipeline("ve")
    codes = torch.randn(2, 1, 2, 2)
    cold = pipe.decode(codes, temperature=0.0, output_type="latent").images
    # z = 0 is not the mean of p_T by mean / sigma_max standard deviations.
    expected = data.means[0] - data.means[0] * (0.2 + 1e-4) ** 0.5 / (0.2 + 50.0**2) ** 0.5
    assert torch.allclose(cold.double(), expected.expand(2, 1, 2, 2), atol=1e-4)


def test_interpolation_runs_from_image_to_image():
    pipe, _ = gaussian_pipeline("vp")
    row = pipe.interpolate(PIXELS[:1], PIXELS[1:], num_images=5, output_type="latent").images
    assert torch.allclose(row[[0, -1]], (2 * PIXELS / 255 - 1).float(), atol=1e-4)
    halfway = pipe.decode(spherical_path(*pipe.encode(PIXELS), 3)[1:2], output_type="latent").images
    assert torch.allclose(row[2:3], halfway, atol=1e-4)


def test_spherical_path_has_even_angles():
    path = spherical_path(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]), 4)
    angles = torch.atan2(path[:, 1], path[:, 0])
    assert torch.allclose(angles, torch.linspace(0, math.pi / 2, 4), atol=1e-6)
    assert torch.allclose(path.norm(dim=1), torch.linspace(2, 1, 4), atol=1e-6)
    straight = spherical_path(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0]), 3)
    assert torch.allclose(straight, torch.tensor([[1.0, 1.0], [1.5, 1.5], [2.0, 2.0]]), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dequantization": "variational"}, "dequantization"),
        ({"num_dequantizations": 0}, "num_dequantizations"),
        ({"images": PIXELS[..., :1]}, r"images must have height and width \(2, 2\), got \(2, 1\)"),
        ({"images": PIXELS[:0]}, r"images must hold at least one image, got shape \(0, 1, 2, 2\)"),
        ({"images": []}, "images must hold at least one image, got an empty list"),
        ({"images": torch.zeros(0, 1, 2, 2), "levels": None}, r"images must have shape \(B, 1, 2, 2\) with B >= 1"),
        (
            {"images": torch.full((1, 2, 2), math.nan), "levels": None},
            "images must be finite, got NaN or infinity",
        ),
        ({"class_labels": torch.tensor([0])}, r"class_labels must have one label per image, \(2,\), got \(1,\)"),
        ({"class_labels": [0, -1]}, r"class_labels must lie in 0\..*, got -1\.\.0"),
        ({"sampling_eps": 0.0}, r"sampling_eps must be a finite number in \[1e-09, 1\), got 0.0"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"generator": [torch.Generator()]}, "one generator per image"),
        ({"levels": 1}, "levels"),
    ],
)
def test_bad_arguments_are_named(change, message):
    pipe, _ = gaussian_pipeline("vp")
    with pytest.raises(ValueError, match=message):
        pipe(**{"images": PIXELS, **change})


def test_eps_is_the_deprecated_name_of_sampling_eps():
    pipe, _ = gaussian_pipeline("vp")
    with pytest.warns(FutureWarning, match="eps is called sampling_eps"):
        old = pipe.encode(PIXELS, eps=1e-3)
    assert torch.equal(old, pipe.encode(PIXELS, sampling_eps=1e-3)) and not torch.equal(old, pipe.encode(PIXELS))
