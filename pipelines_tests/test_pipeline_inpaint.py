"""Inpainting: known pixels, inputs of every kind, posterior moments, bad input."""

import numpy as np
import pytest
import torch
from gaussian_posteriors import RANGE, SCHEDULERS, autoregressive, posterior, regress
from PIL import Image

from scoresde_pipelines import GaussianScoreModel
from scoresde_pipelines.pipeline_inpaint import ScoreSdeInpaintPipeline


def pipeline(name="vp", shape=(1, 4, 4), variance=0.05, **options):
    scheduler = SCHEDULERS[name]()
    size = shape[0] * shape[1] * shape[2]
    low, high = options.get("data_min", scheduler.data_range[0]), options.get("data_max", scheduler.data_range[1])
    covariance = variance * (high - low) ** 2 * autoregressive(size, 0.9)
    data = GaussianScoreModel(torch.full(shape, 0.5 * (low + high)), covariance=covariance)
    pipe = ScoreSdeInpaintPipeline(data.network(scheduler), scheduler, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


MASK = torch.tensor([[0, 0, 1, 1]] * 4).float()  # repaint the right half
PIXELS = torch.arange(16, dtype=torch.uint8).reshape(4, 4) * 16 + 7


@pytest.mark.parametrize("method", ["moment_matching", "pseudo_inverse", "replacement"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_known_pixels_come_back_exactly_and_the_others_do_not(name, method):
    pipe, image = pipeline(name), PIXELS.float() / 255
    arguments = {"mask_image": MASK, "method": method, "num_inference_steps": 5, "num_samples": 2}
    tensor = pipe(image, output_type="pt", **arguments).images
    assert bool((tensor[:, 0, :, :2] == image[:, :2]).all())
    assert float((tensor[:, 0, :, 2:] - image[:, 2:]).abs().min()) > 0
    array = pipe(image.numpy(), output_type="np", **arguments).images
    assert np.array_equal(array[:, :, :2, 0], np.broadcast_to(image[:, :2].numpy(), (2, 4, 2)))
    for picture in pipe(Image.fromarray(PIXELS.numpy()), **arguments).images:
        assert np.array_equal(np.asarray(picture)[:, :2], PIXELS[:, :2].numpy())


def test_the_posterior_is_that_of_the_known_pixels():
    pipe, image = pipeline(shape=(1, 1, 4), variance=1.0, **RANGE), torch.tensor([[0.9, 0.2, 0.0, 0.0]])
    noise = torch.randn(64, 1, 1, 4)
    exact = {"sampler": "ode", "solver_iterations": 4}
    out = pipe(
        image, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), num_samples=64, latents=noise, output_type="latent", **exact
    )
    hidden = torch.arange(2, 4)
    truth = posterior(autoregressive(4, 0.9), torch.eye(4)[:2], image[0, :2] - 0.5, 0.0).marginal(hidden)
    ours = regress(noise, out.images - 0.5).marginal(hidden)
    assert float((ours.mean - truth.mean).abs().max()) < 0.01
    assert ours.kl_to(truth) < 0.005


def test_images_and_masks_of_every_kind_mean_the_same():
    pipe, noise = pipeline(), torch.randn(1, 1, 4, 4)
    gray, mask = PIXELS.numpy(), (MASK * 255).to(torch.uint8).numpy()
    images = [
        Image.fromarray(gray),
        Image.fromarray(gray).convert("RGB"),
        Image.fromarray(gray.astype(np.uint16) * 257),  # 16 bit
        Image.fromarray(gray.astype(np.int32)),
        Image.fromarray((gray / 255).astype(np.float32)),
        gray,
        gray[..., None],
        gray[None],
        (gray / 255).astype(np.float32),
        torch.from_numpy(gray),
        torch.from_numpy(gray)[None, None].float() / 255,
        [Image.fromarray(gray)],
    ]
    masks = [
        MASK,
        Image.fromarray(mask),
        Image.fromarray(mask).convert("1"),
        Image.fromarray(mask).convert("RGB"),
        mask > 0,
        mask,
        MASK.bool(),
        MASK[None, None],
    ]
    arguments = {"latents": noise, "num_inference_steps": 3, "output_type": "pt", "sampler": "ode"}
    expected = pipe(images[0], masks[0], **arguments).images
    for image in images:
        torch.testing.assert_close(pipe(image, masks[0], **arguments).images, expected, rtol=0, atol=1e-6)
    for mask in masks:
        torch.testing.assert_close(pipe(images[0], mask, **arguments).images, expected, rtol=0, atol=1e-6)


def test_transparent_images_lie_on_white():
    pipe = pipeline(shape=(3, 4, 4))
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    out = pipe(image, MASK, num_inference_steps=2, output_type="pt").images
    assert bool((out[..., :2] == 1).all())


def test_one_mask_for_all_or_one_for_each():
    pipe, images, noise = pipeline(), torch.rand(2, 1, 4, 4), torch.randn(4, 1, 4, 4)
    masks = torch.stack([MASK, 1 - MASK])[:, None]
    arguments = {"num_samples": 2, "num_inference_steps": 3, "output_type": "pt", "latents": noise, "sampler": "ode"}
    each = pipe(images, masks, **arguments).images
    for k in range(2):
        known = (masks[k] == 0).expand(2, 1, 4, 4)
        assert bool((each[2 * k : 2 * k + 2][known] == images[k].expand(2, 1, 4, 4)[known]).all())
    one = pipe(images, MASK, **arguments).images
    torch.testing.assert_close(one[:2], each[:2], rtol=0, atol=1e-5)


def test_a_generator_per_sample_fixes_it_whatever_the_batch():
    def seeded(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    for method in ("moment_matching", "replacement"):
        pipe, image = pipeline("ve"), PIXELS
        arguments = {"method": method, "num_inference_steps": 4, "output_type": "pt"}
        three = pipe(image, MASK, num_samples=3, generator=seeded(1, 2, 3), **arguments).images
        alone = pipe(image, MASK, generator=seeded(2), **arguments).images
        torch.testing.assert_close(three[1:2], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"image": torch.zeros(5, 4)}, ValueError, r"image must have height and width \(4, 4\), got \(5, 4\)"),
        (
            {"mask_image": torch.ones(4, 5)},
            ValueError,
            r"mask_image must have height and width \(4, 4\), got \(4, 5\)",
        ),
        ({"mask_image": torch.zeros(4, 4)}, ValueError, "mask_image must be white somewhere"),
        ({"mask_image": torch.ones(4, 4)}, ValueError, "mask_image must be black somewhere"),
        ({"mask_image": 2 * MASK}, ValueError, r"mask_image of floats must lie in \[0, 1\], got values from 0 to 2"),
        ({"mask_image": MASK.expand(3, 1, 4, 4)}, ValueError, "1 mask or one per image, 1, got 3"),
        ({"image": -torch.ones(4, 4)}, ValueError, r"image of floats must lie in \[0, 1\], got values from -1 to -1"),
        ({"image": torch.full((4, 4), float("nan"))}, ValueError, r"image of floats must lie in \[0, 1\]"),
        ({"image": torch.full((4, 4), 300)}, ValueError, r"image of integers must lie in 0..255, got 300..300"),
        ({"image": []}, ValueError, "image must hold at least one image"),
        ({"image": "cat.png"}, TypeError, "image must be a PIL image, an array, a tensor or a list of them, got str"),
        ({"image": [PIXELS, PIXELS[:2]]}, ValueError, "height and width"),
        ({"method": "magic"}, ValueError, "method must be one of"),
        ({"num_samples": 1.5}, ValueError, "num_samples must be an integer of at least 1, got 1.5"),
    ],
)
def test_bad_input_is_named_before_any_network_call(changes, error, message):
    pipe = pipeline()
    pipe.unet.forward = None
    with pytest.raises(error, match=message):
        pipe(**{"image": PIXELS, "mask_image": MASK, **changes})
