"""Super-resolution: the means of the result, posterior moments, images of every kind, bad input."""

import numpy as np
import pytest
import torch
from gaussian_posteriors import RANGE, SCHEDULERS, autoregressive, posterior, regress
from PIL import Image

from scoresde_pipelines import (
    AveragePoolOperator,
    GaussianScoreModel,
    ScoreSdeInverseProblemPipeline,
    ScoreSdeSuperResolutionPipeline,
)


def pipeline(name="vp", shape=(1, 4, 4), variance=0.01, **options):
    scheduler = SCHEDULERS[name]()
    low, high = options.get("data_min", scheduler.data_range[0]), options.get("data_max", scheduler.data_range[1])
    size = shape[0] * shape[1] * shape[2]
    covariance = variance * (high - low) ** 2 * autoregressive(size, 0.9)
    data = GaussianScoreModel(torch.full(shape, 0.5 * (low + high)), covariance=covariance)
    pipe = ScoreSdeSuperResolutionPipeline(data.network(scheduler), scheduler, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


SMALL = torch.tensor([[100, 120], [140, 160]], dtype=torch.uint8)


@pytest.mark.parametrize("method", ["moment_matching", "pseudo_inverse", "replacement"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_means_of_the_result_are_the_given_image(name, method):
    out = pipeline(name)(SMALL, 2, method, num_inference_steps=10, num_samples=2, output_type="latent").images
    low, high = SCHEDULERS[name]().data_range
    means = ((out - low) / (high - low)).reshape(2, 2, 2, 2, 2).mean((2, 4))
    torch.testing.assert_close(means, (SMALL / 255).expand(2, 2, 2), rtol=0, atol=1e-5)
    assert float((out[0] - out[1]).norm()) > 0.01


@pytest.mark.parametrize("noise_std", [0.05, 0.1])
def test_the_posterior_is_that_of_the_block_means(noise_std):
    pipe, noise = pipeline("ve", (1, 2, 4), 1.0, **RANGE), torch.randn(64, 1, 2, 4)
    small = torch.tensor([[0.8, 0.3]])
    out = pipe(small, 2, num_samples=64, latents=noise, output_type="latent", noise_std=noise_std, sampler="ode")
    blocks = AveragePoolOperator(2).A(torch.eye(8).reshape(8, 1, 2, 4)).flatten(1).T
    truth = posterior(autoregressive(8, 0.9), blocks, small.flatten() - 0.5, noise_std)
    ours = regress(noise, out.images.flatten(1) - 0.5)
    assert float((ours.mean - truth.mean).abs().max()) < 0.01
    assert ours.kl_to(truth) < 0.005


def test_the_scale_is_4_by_default_and_the_measurement_that_of_the_inverse_problem():
    pipe = pipeline(shape=(3, 8, 4))
    small, draw = torch.rand(2, 3, 2, 1), torch.Generator().manual_seed
    arguments = {"num_inference_steps": 3, "output_type": "pt", "sampler": "scheduler", "noise_std": 0.05}
    ours = pipe(small, num_samples=2, generator=draw(0), **arguments)
    general = ScoreSdeInverseProblemPipeline.from_pipe(pipe)
    general.set_progress_bar_config(disable=True)
    theirs = general(small, AveragePoolOperator(4), num_samples=2, generator=draw(0), **arguments)
    assert torch.equal(ours.images, theirs.images) and ours.nfe == theirs.nfe
    images, nfe = pipe(small, num_samples=2, generator=draw(0), return_dict=False, **arguments)
    assert torch.equal(images, ours.images) and nfe == ours.nfe


def test_images_of_any_kind_mean_the_same():
    pipe, noise, pixels = pipeline(), torch.randn(1, 1, 4, 4), SMALL.numpy()
    image = Image.fromarray(pixels)
    same = [image, image.convert("RGB"), pixels, pixels[..., None], SMALL[None], SMALL[None, None] / 255, [SMALL]]
    arguments = {"scale": 2, "latents": noise, "num_inference_steps": 3, "output_type": "pt", "sampler": "ode"}
    expected = pipe(same[0], **arguments).images
    for other in (*same, Image.fromarray(pixels.astype(np.uint16) * 257)):
        torch.testing.assert_close(pipe(other, **arguments).images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image": torch.zeros(4, 4)}, r"image must have height and width \(2, 2\), got \(4, 4\)"),
        ({"image": torch.full((2, 2), 1.5)}, r"image of floats must lie in \[0, 1\], got values from 1.5 to 1.5"),
        ({"scale": 3}, r"scale must divide the network's height and width \(4, 4\), got 3"),
        ({"scale": 0}, "scale must be an integer of at least 1, got 0"),
        ({"noise_std": -1.0}, "noise_std must be a finite number of at least 0, got -1"),
        ({"method": "magic"}, "method must be one of"),
    ],
)
def test_bad_input_is_named_before_any_network_call(changes, message):
    pipe = pipeline()
    pipe.unet.forward = None
    with pytest.raises(ValueError, match=message):
        pipe(**{"image": SMALL, "scale": 2, **changes})
