"""One set of odd pictures through every entry (training, likelihood, inpainting, colorization): the same, known numbers."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from scoresde_pipelines import GaussianScoreModel, ScoreSdeInpaintPipeline, ScoreSdeLikelihoodPipeline, VPSDEScheduler
from scoresde_pipelines.image_inputs import gray_to_tensor, images_to_pixels, images_to_tensor, masks_to_tensor
from scoresde_pipelines.training.image_format import ImageFormat
from scoresde_pipelines.training.pil_pictures import has_transparency, is_gray


SIDE = 16
RAMP = np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE)
COLOR = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 40)], -1)
LUMA = np.asarray(Image.fromarray(COLOR).convert("L"))
HALF = np.full_like(RAMP, 128)
HALF[:, :8] = 0  # transparent on the left


def saved(image, format="PNG", **options):
    """The image written to a file and opened again."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def image(array, mode=None):
    """A PIL image of the raw values of an array."""
    if mode is None:
        return Image.fromarray(array)
    return Image.frombytes(mode, array.shape[1::-1], np.ascontiguousarray(array).tobytes())


def on_white(color, alpha=HALF):
    """The composite that Pillow makes of a color (H, W, 3) and an opacity (H, W)."""
    picture = Image.fromarray(np.dstack([color, alpha]))
    return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture))[..., :3]


def palette(transparency=None):
    """A picture of 4 colors; index 3 is red."""
    picture = Image.fromarray(RAMP % 4)
    picture = picture.copy() if picture.mode == "P" else image(RAMP % 4, "P")
    picture.putpalette([0, 0, 0, 90, 90, 90, 0, 200, 0, 255, 0, 0] + [0] * 756)
    if transparency is not None:
        picture.info["transparency"] = transparency
    return picture


PALETTE = np.array([[0, 0, 0], [90, 90, 90], [0, 200, 0], [255, 0, 0]], np.uint8)[RAMP % 4]
WITHOUT_RED = np.where((RAMP % 4 == 3)[..., None], np.uint8(255), PALETTE)
GRAY3 = np.repeat(RAMP[..., None], 3, -1)
WIDE = RAMP.astype(np.uint16) * 257
LAB = ImageCms.profileToProfile(
    image(COLOR), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
)
BITS = np.where(RAMP > 99, np.uint8(255), np.uint8(0))
EXIF = Image.Exif()
EXIF[0x0112] = 6  # to be turned by 90 degrees clockwise

# Name: the picture, its colors (H, W, 3) and how far they may be off (rounding in other color spaces).
PICTURES = {
    "1": (image(BITS).convert("1"), np.repeat(BITS[..., None], 3, -1), 0),
    "L": (image(RAMP), GRAY3, 0),
    "L with a transparent value": (saved(image(RAMP), transparency=7), np.where(GRAY3 == 7, 255, GRAY3), 0),
    "LA": (Image.merge("LA", (image(RAMP), image(HALF))), on_white(GRAY3), 0),
    "La": (Image.merge("LA", (image(RAMP), image(HALF))).convert("La"), on_white(GRAY3), 2),
    "P": (palette(), PALETTE, 0),
    "P with a transparent index": (palette(3), WITHOUT_RED, 0),
    "P with opacities": (palette(bytes([255, 255, 255, 0])), WITHOUT_RED, 0),
    "P from a file": (saved(palette(3)), WITHOUT_RED, 0),
    "GIF": (saved(palette(), "GIF", transparency=3), WITHOUT_RED, 0),
    "PA": (palette(3).convert("PA"), WITHOUT_RED, 0),
    "RGB": (image(COLOR), COLOR, 0),
    "RGB with a transparent color": (saved(image(PALETTE), transparency=(255, 0, 0)), WITHOUT_RED, 0),
    "RGBA": (image(np.dstack([COLOR, HALF])), on_white(COLOR), 0),
    "RGBa": (image(np.dstack([COLOR, HALF])).convert("RGBa"), on_white(COLOR), 2),
    "RGBX": (image(COLOR).convert("RGBX"), COLOR, 0),
    "CMYK": (image(COLOR).convert("CMYK"), COLOR, 0),
    "YCbCr": (image(COLOR).convert("YCbCr"), np.asarray(image(COLOR).convert("YCbCr").convert("RGB")), 0),
    "LAB": (LAB, np.asarray(LAB.convert("RGB")), 0),
    "HSV": (image(COLOR).convert("HSV"), np.asarray(image(COLOR).convert("HSV").convert("RGB")), 0),
    "I;16": (image(WIDE), GRAY3, 0),
    "I;16B": (image(WIDE.astype(">u2"), "I;16B"), GRAY3, 0),
    "I;16L": (image(WIDE, "I;16L"), GRAY3, 0),
    "16-bit PNG": (saved(image(WIDE)), GRAY3, 0),
    "16-bit TIFF": (saved(image(WIDE), "TIFF"), GRAY3, 0),
    "dark 16-bit I from a file": (saved(image(RAMP.astype(np.int32)), "TIFF"), np.rint(GRAY3 / 257), 0),
    "I of 8-bit values": (image(RAMP.astype(np.int32)), GRAY3, 0),
    "I of 16-bit values": (image(WIDE.astype(np.int32)), GRAY3, 0),
    "F from 0 to 1": (image((RAMP / 255).astype(np.float32)), GRAY3, 0),
    "F from 0 to 255": (image(RAMP).convert("F"), GRAY3, 0),
    "turned by EXIF": (saved(image(np.rot90(COLOR).copy()), exif=EXIF), COLOR, 0),
    "16 bit turned by EXIF": (saved(image(np.rot90(WIDE).copy()), exif=EXIF), GRAY3, 0),
}


def entries(picture, channels):
    """What training, likelihood and inpainting make of a picture, as float64 of 8-bit values (C, H, W)."""
    unit = images_to_tensor(picture, channels, (SIDE, SIDE))[0]
    yield "training", torch.from_numpy(ImageFormat(SIDE, channels)(picture)).double()
    yield "likelihood", images_to_pixels(picture, channels, (SIDE, SIDE))[0].double()
    yield "inpainting", (unit.double() * 255).round()
    yield "a list", (images_to_tensor([picture, picture], channels)[1].double() * 255).round()


@pytest.mark.parametrize("name", PICTURES)
def test_every_entry_reads_the_same_known_numbers(name):
    picture, color, tolerance = PICTURES[name]
    expected = torch.from_numpy(np.array(color, dtype=np.float64)).movedim(-1, 0)
    for entry, pixels in entries(picture, 3):
        assert float((pixels - expected).abs().max()) <= tolerance, entry
    luma = torch.from_numpy(np.array(Image.fromarray(np.asarray(color, np.uint8)).convert("L"), dtype=np.float64))
    found = [pixels[0] for _, pixels in entries(picture, 1)]
    assert all(torch.equal(pixels, found[0]) for pixels in found)
    assert float((found[0] - luma).abs().max()) <= tolerance + int("La" in name)
    for _, pixels in entries(picture, 4):
        assert bool((pixels[3] == 255).all()) != has_transparency(picture)
    if is_gray(picture):
        # A gray picture is the same for colorization whatever the weights.
        weighted = gray_to_tensor(picture, (0.2, 0.3, 0.5)).double() * 255
        assert torch.equal(weighted.round()[0, 0], found[0])


@pytest.mark.parametrize(
    "top, dtype, mode", [(65535, "<u2", "I;16"), (65535, ">u2", "I;16B"), (1, "<f4", "F"), (65535, "<i4", "I")]
)
def test_ramps_keep_their_mean_and_their_precision(top, dtype, mode):
    ramp = np.linspace(0, top, 1024).reshape(32, 32)
    picture = image((ramp if mode == "F" else ramp.round()).astype(dtype), mode)
    unit = images_to_tensor(picture, 1)
    assert float(unit.mean()) == pytest.approx(0.5, abs=1e-6) and len(unit.unique()) == 1024
    assert ImageFormat(32, 1)(picture).mean() / 255 == pytest.approx(0.5, abs=1e-3)
    assert float(images_to_pixels(picture, 1, levels=1024).double().mean()) / 1023 == pytest.approx(0.5, abs=1e-3)


def test_a_16_bit_value_is_the_same_everywhere():
    picture = image(np.full((2, 2), 30000, np.uint16))
    assert (ImageFormat(2, 1)(picture) == 117).all() and bool((images_to_pixels(picture, 1) == 117).all())
    assert float(images_to_tensor(picture, 1)[0, 0, 0, 0]) == pytest.approx(30000 / 65535, abs=1e-7)


def test_transparent_red_is_white_or_the_background_asked_for():
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (ImageFormat(4, 3)(red) == 255).all() and bool((images_to_pixels(red, 3) == 255).all())
    assert (ImageFormat(4, 3, background=10)(red) == 10).all()
    assert bool((images_to_tensor(red, 3, background=51) == 0.2).all())
    assert ImageFormat(4, 4)(red)[:, 0, 0].tolist() == [255, 0, 0, 0]  # four channels keep color and opacity


def test_pipelines_use_the_reader():
    scheduler = VPSDEScheduler(continuous=True)
    data = GaussianScoreModel(torch.zeros(3, SIDE, SIDE), 0.1)
    inpaint = ScoreSdeInpaintPipeline(data.network(scheduler), scheduler)
    inpaint.set_progress_bar_config(disable=True)
    likelihood = ScoreSdeLikelihoodPipeline(data.network(scheduler), scheduler)
    mask = torch.zeros(SIDE, SIDE)
    mask[0, 0] = 1
    for name in ("P with a transparent index", "CMYK", "16-bit PNG", "turned by EXIF"):
        picture, color, _ = PICTURES[name]
        expected = torch.from_numpy(np.array(color, dtype=np.float64)).movedim(-1, 0)
        out = inpaint(picture, mask, num_inference_steps=1, output_type="pt").images[0].double() * 255
        assert torch.equal(out.round()[:, 1:], expected[:, 1:])
        centres, _ = likelihood.centres(picture, 256)
        torch.testing.assert_close((centres[0] + 1) * 127.5, expected, rtol=0, atol=1e-9)


# ---------------------------------------------------------------------- arrays and tensors


BATCH = np.stack([COLOR, 255 - COLOR])


@pytest.mark.parametrize(
    "images, expected",
    [
        (COLOR, BATCH[:1]),
        (BATCH, BATCH),
        (BATCH.transpose(0, 3, 1, 2), BATCH),
        (torch.from_numpy(COLOR), BATCH[:1]),
        (torch.from_numpy(COLOR).movedim(-1, 0), BATCH[:1]),
        (torch.from_numpy(BATCH), BATCH),
        (torch.from_numpy(BATCH).movedim(-1, 1), BATCH),
        ([COLOR, torch.from_numpy(255 - COLOR), image(COLOR)], np.concatenate([BATCH, BATCH[:1]])),
        ((COLOR.astype(np.int64),), BATCH[:1]),
        (COLOR.astype(">i4"), BATCH[:1]),
        (COLOR[:, ::-1][:, ::-1], BATCH[:1]),
        (COLOR.astype(np.uint16) * 257, BATCH[:1]),
        (torch.from_numpy(COLOR.astype(np.uint16) * 257), BATCH[:1]),
        (COLOR / 255, BATCH[:1]),
        (torch.from_numpy(COLOR).double() / 255, BATCH[:1]),
        (RAMP, GRAY3[None]),
        (RAMP[..., None], GRAY3[None]),
        (RAMP[None], GRAY3[None]),
        (np.stack([RAMP] * 5), np.stack([GRAY3] * 5)),
        (torch.from_numpy(np.stack([RAMP] * 5)), np.stack([GRAY3] * 5)),
        (torch.from_numpy(RAMP)[None, None], GRAY3[None]),
        (RAMP > 99, np.where(GRAY3 > 99, 255, 0)[None]),
        (torch.from_numpy(RAMP > 99), np.where(GRAY3 > 99, 255, 0)[None]),
        (np.dstack([RAMP, HALF]), on_white(GRAY3)[None]),
        (np.dstack([COLOR, HALF]), on_white(COLOR)[None]),
    ],
)
def test_arrays_and_tensors_of_every_layout(images, expected):
    expected = torch.from_numpy(np.array(expected, dtype=np.float32)).movedim(-1, 1) / 255
    torch.testing.assert_close(images_to_tensor(images, 3, (SIDE, SIDE)), expected, rtol=0, atol=1e-7)


def test_half_precision_and_gradients_do_not_matter():
    values = torch.tensor([[0.0, 0.25], [0.5, 1.0]])
    for x in (values.half(), values.bfloat16(), values.clone().requires_grad_()):
        assert torch.equal(images_to_tensor(x, 1)[0, 0], values)


def test_color_as_gray_has_the_weights_of_pillow():
    for picture in (image(COLOR), COLOR, torch.from_numpy(COLOR), COLOR[None]):
        assert np.array_equal(images_to_pixels(picture, 1, (SIDE, SIDE))[0, 0].numpy(), LUMA)
    exact = COLOR @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(images_to_tensor(COLOR / 255, 1)[0, 0].numpy(), exact, atol=1e-6)
    # Colorization weighs color itself.
    mean = gray_to_tensor(image(COLOR), (1 / 3, 1 / 3, 1 / 3))[0, 0]
    np.testing.assert_allclose(mean.numpy(), COLOR.mean(-1) / 255, atol=1e-6)


def test_opacity_of_four_channels():
    x = torch.tensor([1.0, 0.0, 0.0, 0.25]).reshape(4, 1, 1).expand(4, 2, 2)
    torch.testing.assert_close(images_to_tensor(x, 3)[0, :, 0, 0], torch.tensor([1.0, 0.75, 0.75]))
    assert images_to_tensor(x, 4)[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0, 0.25]
    assert images_to_tensor(torch.full((2, 2), 0.5), 4)[0, :, 0, 0].tolist() == [0.5, 0.5, 0.5, 1.0]
    assert images_to_tensor(np.full((2, 2, 3), 51, np.uint8), 4)[0, :, 0, 0].tolist() == pytest.approx([0.2] * 3 + [1])


def test_masks_are_read_like_images():
    mask = np.where(RAMP > 99, np.uint8(255), np.uint8(0))
    kinds = [
        mask,
        mask > 0,
        mask.astype(np.uint16) * 257,
        image(mask),
        image(mask).convert("1"),
        image(mask).convert("P"),
    ]
    for kind in [*kinds, torch.from_numpy(mask), image(mask).convert("F"), np.dstack([mask] * 3)]:
        assert np.array_equal(masks_to_tensor(kind, 1, (SIDE, SIDE))[0, 0].numpy(), mask > 0)


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "images, error, message",
    [
        ([], ValueError, "image must hold at least one image, got an empty list"),
        (np.zeros((0, 16, 16, 3)), ValueError, r"image must hold at least one image, got shape \(0, 16, 16, 3\)"),
        (torch.zeros(0, 3, 16, 16), ValueError, r"image must hold at least one image, got shape \(0, 3, 16, 16\)"),
        ("cat.png", TypeError, "a list of them, got str: open the file with PIL.Image.open"),
        (None, TypeError, "a list of them, got NoneType"),
        ([1.0, 2.0], TypeError, "a list of them, got float"),
        (np.array(["a"]), TypeError, "image must be an array of real numbers, got one of dtype <U1"),
        (
            np.zeros((16, 16), complex),
            TypeError,
            "image must be an array of real numbers, got one of dtype complex128",
        ),
        (
            torch.zeros(16, 16, dtype=torch.complex64),
            TypeError,
            "dense tensor of real numbers, got torch.c",
        ),
        (np.zeros((16, 16), object), TypeError, "image must be an array of real numbers, got one of dtype object"),
        (np.zeros(16), ValueError, r"image must be one image or a batch of images, got shape \(16,\)"),
        (np.zeros((1, 1, 16, 16, 3)), ValueError, "image must be one image or a batch of images, got shape"),
        (np.zeros((16, 16, 5)), ValueError, "image must have 3 channels, got 5|height and width"),
        (
            np.zeros((3, 16, 16)),
            ValueError,
            r"image must have channels last where it is an array.*, got \(3, 16, 16\)",
        ),
        (np.zeros((8, 16, 3)), ValueError, r"image must have height and width \(16, 16\), got \(8, 16\): resize it"),
        (image(RAMP[:8]), ValueError, r"image must have height and width \(16, 16\), got \(8, 16\): resize it"),
        (
            np.full((16, 16), -0.5),
            ValueError,
            r"floats must lie in \[0, 1\], got values from -0.5 to -0.5: \(x \+ 1\) / 2",
        ),
        (np.full((16, 16), 200.0), ValueError, "got values from 200 to 200: divide 8-bit values by 255"),
        (np.full((16, 16), np.nan), ValueError, r"floats must lie in \[0, 1\], got values from nan to nan"),
        (
            image(np.full((16, 16), np.nan, np.float32)),
            ValueError,
            "image in mode F must hold values from 0 to 65535, got",
        ),
        (
            image(np.full((16, 16), 70000, np.int32)),
            ValueError,
            "in mode I must hold values from 0 to 65535, got 70000",
        ),
        (np.full((16, 16), 256), ValueError, "image of integers must lie in 0..255, got 256..256"),
        (np.full((16, 16), -1, np.int8), ValueError, r"image of integers must lie in 0..255, got -1..-1"),
        ([COLOR, COLOR[:8]], ValueError, "height and width"),
    ],
)
def test_errors_name_the_argument_what_came_and_what_is_expected(images, error, message):
    with pytest.raises(error, match=message):
        images_to_tensor(images, 3, (SIDE, SIDE))


def test_images_of_different_sizes_are_named():
    with pytest.raises(
        ValueError, match=r"pictures must hold images of one size, got \[\(3, 8, 16\), \(3, 16, 16\)\]"
    ):
        images_to_tensor([COLOR, COLOR[:8]], 3, name="pictures")
    with pytest.raises(ValueError, match=r"image as a PIL image must have \[1, 3, 4\] channels, the network has 2"):
        images_to_tensor(image(RAMP), 2)


def test_an_unreadable_exif_block_counts_as_none():
    picture = image(COLOR)
    picture.info["exif"] = b"Exif\x00\x00MM\x00*\x00\x00\xff\xff"
    assert np.array_equal(ImageFormat(SIDE, 3)(picture).transpose(1, 2, 0), COLOR)


@pytest.mark.parametrize("kind", ["pil", "list", "uint8", "float", "tensor", "rgba"])
def test_color_that_is_lost_is_said(kind):
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[..., 1] = 255
    forms = {
        "pil": Image.fromarray,
        "list": lambda array: [Image.fromarray(array)] * 2,
        "uint8": lambda array: array,
        "float": lambda array: array / 255,
        "tensor": lambda array: torch.from_numpy(array).movedim(-1, 0) / 255,
        "rgba": lambda array: Image.fromarray(array).convert("RGBA"),
    }
    with pytest.warns(UserWarning, match="picture has color, and one channel is needed: its gray values are used"):
        gray = images_to_tensor(forms[kind](pixels), 1, name="picture")
    assert torch.allclose(gray, torch.tensor(0.587), atol=0.002)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images_to_tensor(forms[kind](pixels), 3)
        images_to_tensor(forms[kind](np.full_like(pixels, 7)), 1)  # three equal channels
        images_to_tensor(forms[kind](pixels), 1, warn_of_color=False)
