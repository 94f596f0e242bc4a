"""Colorization: the gray image of the result, posterior moments, gray images of any mode, bad input."""

import numpy as np
import pytest
import torch
from gaussian_posteriors import RANGE, SCHEDULERS, autoregressive, posterior, regress
from PIL import Image

from scoresde_pipelines import GaussianScoreModel
from scoresde_pipelines.pipeline_colorization import ScoreSdeColorizationPipeline


LUMA = (0.299, 0.587, 0.114)


def pipeline(name="vp", shape=(3, 2, 2), variance=0.01, **options):
    scheduler = SCHEDULERS[name]()
    low, high = options.get("data_min", scheduler.data_range[0]), options.get("data_max", scheduler.data_range[1])
    size = shape[0] * shape[1] * shape[2]
    covariance = variance * (high - low) ** 2 * autoregressive(size, 0.9)
    data = GaussianScoreModel(torch.full(shape, 0.5 * (low + high)), covariance=covariance)
    pipe = ScoreSdeColorizationPipeline(data.network(scheduler), scheduler, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


GRAY = torch.tensor([[100, 120], [140, 160]], dtype=torch.uint8)


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), LUMA])
@pytest.mark.parametrize("method", ["moment_matching", "pseudo_inverse", "replacement"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_result_has_the_given_gray_image(name, method, weights):
    out = pipeline(name)(
        GRAY, method, num_inference_steps=10, num_samples=2, gray_weights=weights, output_type="latent"
    ).images
    low, high = SCHEDULERS[name]().data_range
    gray = torch.einsum("bchw,c->bhw", (out - low) / (high - low), torch.tensor(weights))
    torch.testing.assert_close(gray, (GRAY / 255).expand(2, 2, 2), rtol=0, atol=1e-5)
    assert float((out[0] - out[1]).norm()) > 0.01


def test_the_posterior_is_that_of_the_gray_value():
    pipe, noise = pipeline("ve", (3, 1, 1), 1.0, **RANGE), torch.randn(64, 3, 1, 1)
    out = pipe(
        torch.tensor([[0.8]]), num_samples=64, latents=noise, output_type="latent", noise_std=0.1, sampler="ode"
    )
    truth = posterior(autoregressive(3, 0.9), torch.full((1, 3), 1 / 3), torch.tensor([0.8 - 0.5]), 0.1)
    ours = regress(noise, out.images - 0.5)
    assert float((ours.mean - truth.mean).abs().max()) < 0.01
    assert ours.kl_to(truth) < 0.005


def test_gray_images_of_any_mode_mean_the_same():
    pipe, noise = pipeline(), torch.randn(1, 3, 2, 2)
    gray = GRAY.numpy()
    image = Image.fromarray(gray)
    same = [
        image,
        image.convert("RGB"),
        image.convert("LA"),
        image.convert("RGBA"),
        image.convert("P"),
        Image.fromarray(gray.astype(np.uint16) * 257),
        Image.fromarray(gray.astype(np.int32)),
        Image.fromarray((gray / 255).astype(np.float32)),
        gray,
        gray[..., None],
        np.repeat(gray[..., None], 3, axis=-1),
        GRAY[None],
        GRAY.expand(3, 2, 2),
        [GRAY],
    ]
    arguments = {"latents": noise, "num_inference_steps": 3, "output_type": "pt", "sampler": "ode"}
    expected = pipe(same[0], **arguments).images
    for image in same:
        torch.testing.assert_close(pipe(image, **arguments).images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image": torch.zeros(3, 2)}, r"image must have height and width \(2, 2\), got \(3, 2\)"),
        ({"image": torch.full((2, 2), 1.5)}, r"image of floats must lie in \[0, 1\], got values from 1.5 to 1.5"),
        ({"gray_weights": (0.5, 0.5)}, "gray_weights must have one weight per channel, 3, got 2"),
        ({"gray_weights": (0.0, 0.0, 0.0)}, "weights must be finite and not all zero"),
        ({"noise_std": float("nan")}, "noise_std must be a finite number of at least 0, got nan"),
        ({"method": "magic"}, "method must be one of"),
    ],
)
def test_bad_input_is_named_before_any_network_call(changes, message):
    pipe = pipeline()
    pipe.unet.forward = None
    with pytest.raises(ValueError, match=message):
        pipe(**{"image": GRAY, **changes})


def test_a_gray_network_has_no_colors():
    with pytest.raises(ValueError, match="unet must generate images with colors, got a network of 1 channel"):
        pipeline(shape=(1, 2, 2))(GRAY)
