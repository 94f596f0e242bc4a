"""Pictures larger, smaller and not square: fitted to the network, restored, and put back where they came from."""

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_pipelines import (
    AveragePoolOperator,
    GaussianScoreModel,
    GrayOperator,
    MaskOperator,
    ScoreSdeColorizationPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdeSuperResolutionPipeline,
    VESDEScheduler,
)
from scoresde_pipelines.image_fit import fit_images, fit_masks, put_back
from scoresde_pipelines.training.image_format import ImageFormat, fitted_sides


SIZES = [(12, 20), (20, 12), (5, 3), (4, 9), (16, 16), (8, 8)]


def pipeline(cls, channels=3, mean=0.25, size=8):
    """A network that is certain of images of one value."""
    scheduler = VESDEScheduler(sigma_max=10.0)
    data = GaussianScoreModel(torch.full((channels, size, size), mean), variance=0.0)
    pipe = cls(data.network(scheduler), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(80, 176, (height, width, 3))  # so that no overshoot is clipped
    return Image.fromarray(pixels.astype(np.uint8))


def gray_picture(height, width):
    return torch.from_numpy(np.asarray(picture(height, width)).copy()).float().mean(-1)[None, None] / 255


CALLS = [  # and the size of what they measure
    (ScoreSdeColorizationPipeline, {}, (8, 8)),
    (ScoreSdeSuperResolutionPipeline, {"scale": 2}, (4, 4)),
]
FEW = {"num_inference_steps": 3, "output_type": "pt"}


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_images_are_fitted_as_in_training(sides, resize):
    image = picture(*sides)
    pixels = torch.from_numpy(np.asarray(image).copy()).movedim(-1, 0)[None] / 255
    ours = fit_images(pixels, (8, 8), resize) * 255
    theirs = torch.from_numpy(ImageFormat(8, 3, resize)(image)).float()
    assert float((ours[0] - theirs).abs().max()) <= 1.5  # theirs is rounded after each of two passes


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_smooth_image_comes_back(sides, resize):
    rows, columns = (torch.linspace(0.2, 0.8, side) for side in sides)
    image = (0.5 * (rows[:, None] + columns)).expand(1, 1, -1, -1)
    fitted = fit_images(image, (8, 8), resize)
    assert float((put_back(fitted, image, resize) - image).abs().max()) < 0.06
    # Of another fitted image only the part that the network sees is taken.
    whole = put_back(torch.zeros(1, 1, 8, 8), image, resize)
    height, width = sides
    assert float(whole[..., height // 2, width // 2]) < 0.03
    if resize == "crop" and max(sides) == 20:
        assert float((whole[..., 0, 0] - image[..., 0, 0]).abs().max()) < 0.03


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("resize", ["crop", "pad"])
@pytest.mark.parametrize("output_type", ["pil", "pt"])
def test_inpainting_changes_nothing_outside_of_the_mask(sides, resize, output_type):
    image, mask = picture(*sides), np.zeros(sides, dtype=np.uint8)
    top, left = sides[0] // 2, sides[1] // 2
    mask[top : top + 1, left : left + 1] = 255
    found = pipeline(ScoreSdeInpaintPipeline)(
        image, mask, num_inference_steps=5, num_samples=2, output_type=output_type, resize=resize
    ).images
    for one in found:
        pixels = np.asarray(one) if output_type == "pil" else (one * 255).round().byte().movedim(0, -1).numpy()
        assert pixels.shape == (*sides, 3)
        assert np.array_equal(pixels[mask == 0], np.asarray(image)[mask == 0])
        if sides == (8, 8):  # without resampling: the value that the network is certain of
            assert np.abs(pixels[top, left].astype(int) - 64).max() <= 1


def test_a_large_mask_gets_the_network_s_value_whatever_was_there():
    mask = np.zeros((24, 40), dtype=np.uint8)
    mask[4:20, 12:28] = 255
    flat = np.full((24, 40, 3), 64, dtype=np.uint8)
    pipe, results = pipeline(ScoreSdeInpaintPipeline), []
    for hidden in (0, 255):
        image = flat.copy()
        image[4:20, 12:28] = hidden
        options = {"num_inference_steps": 5, "generator": torch.Generator().manual_seed(0), "output_type": "np"}
        results.append(pipe(image, mask, resize="pad", **options).images[0])
        assert np.abs(results[-1] - 0.25).max() < 0.01
    assert np.array_equal(results[0], results[1])


def test_masks_that_crop_cannot_reach_and_that_leave_nothing_are_named():
    repaint = torch.zeros(1, 1, 8, 24, dtype=torch.bool)
    repaint[..., 2:4, 10:13] = True
    assert int(fit_masks(repaint, (8, 8), "crop").sum()) == 6  # no resampling: the same pixels
    repaint[..., 0] = True
    with pytest.raises(ValueError, match="mask_image must be black outside of the middle that resize='crop' cuts out"):
        fit_masks(repaint, (8, 8), "crop")
    # "pad": everything in reach; the border, 8 x 8 without the 3 rows of the picture, counts as unknown.
    fitted = fit_masks(repaint, (8, 8), "pad")
    assert fitted[0, 0, :2].all() and fitted[0, 0, 5:].all() and fitted[0, 0, 2:5, 0].all()
    assert not fitted[0, 0, 2:5, 6:].any()
    with pytest.raises(ValueError, match="mask_image must be black somewhere at the network's size"):
        fit_masks(torch.ones(1, 1, 8, 24, dtype=torch.bool), (8, 8), "pad")


def test_a_crop_is_the_result_of_the_fitted_picture():
    gray = gray_picture(12, 20)
    for cls, call, size in CALLS:
        pipe, draws = pipeline(cls), [torch.Generator().manual_seed(0) for _ in range(2)]
        fitted = fit_images(gray, size, "crop").expand(1, 3, -1, -1)
        ours = pipe(gray.expand(1, 3, -1, -1), **call, resize="crop", generator=draws[0], **FEW).images
        theirs = pipe(fitted, **call, generator=draws[1], **FEW).images
        assert tuple(ours.shape) == (1, 3, 8, 8) and torch.equal(ours, theirs)


@pytest.mark.parametrize("sides", [(12, 20), (3, 4), (8, 5)])
def test_pad_measures_no_border_and_returns_none(sides):
    gray = gray_picture(*sides)
    for cls, call, size in CALLS:
        pipe, inverse = pipeline(cls), pipeline(ScoreSdeInverseProblemPipeline)
        draws = [torch.Generator().manual_seed(0) for _ in range(3)]
        ours = pipe(gray.expand(1, 3, -1, -1), **call, resize="pad", generator=draws[0], **FEW).images
        # The same problem stated by hand: the border is not known.
        scale, channels = call.get("scale", 1), 3 if call else 1
        height, width = fitted_sides(sides, size, "pad")
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        known = torch.zeros(size)
        known[top : top + height, left : left + width] = 1
        measured = AveragePoolOperator(scale) if call else GrayOperator()
        operator = measured if known.all() else MaskOperator(known) @ measured
        y = fit_images(gray, size, "pad").expand(1, channels, -1, -1)
        theirs = inverse(y, operator, sampler="scheduler", generator=draws[1], **FEW).images
        rows, columns = slice(scale * top, scale * (top + height)), slice(scale * left, scale * (left + width))
        assert ours.shape[-2:] == (scale * height, scale * width) and torch.equal(ours, theirs[..., rows, columns])
        few = {**FEW, "output_type": "latent"}
        latent = pipe(gray.expand(1, 3, -1, -1), **call, resize="pad", generator=draws[2], **few).images
        assert tuple(latent.shape) == (1, 3, 8, 8)


def test_a_picture_of_another_size_needs_resize():
    gray = gray_picture(12, 20).expand(1, 3, -1, -1)
    for cls, call, _ in CALLS:
        with pytest.raises(ValueError, match="image must have height and width"):
            pipeline(cls)(gray, **call)
        with pytest.raises(ValueError, match=r"resize must be None or one of \['crop', 'pad'\], got 'stretch'"):
            pipeline(cls)(gray, **call, resize="stretch")
