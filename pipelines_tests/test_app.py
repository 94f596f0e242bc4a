"""The page of `scoresde app`: what its actions compute, and the page itself through Gradio's client and a browser."""

import importlib.util
import shutil
import socket
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_pipelines import (
    BlurOperator,
    GaussianScoreModel,
    MaskOperator,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeColorizationPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    ScoreSdeSuperResolutionPipeline,
    shipped,
)
from scoresde_pipelines.app import Models, actions, launch
from scoresde_pipelines.app.actions import Run
from scoresde_pipelines.image_fit import fit_images
from scoresde_pipelines.image_inputs import images_to_tensor
from scoresde_pipelines.viz.trajectories import preview


FASHION, EMOJI = "fashion-mnist-32-vp", "emoji-32-ve"


@pytest.fixture(scope="module")
def models():
    return Models([FASHION, EMOJI])


def pixels(picture, size=32):
    """The pixels of an enlarged picture of one image."""
    assert picture.width % size == 0
    return np.asarray(picture.resize((size, size), Image.Resampling.NEAREST))


def ramp(size=64):
    """A picture in colour, red from left to right."""
    array = np.zeros((size, size, 3), dtype=np.uint8)
    array[..., 0] = np.linspace(0, 255, size).astype(np.uint8)
    return Image.fromarray(array)


def last(progress):
    items = list(progress)
    assert [item.done for item in items] == [False] * (len(items) - 1) + [True]
    return items[-1]


def test_it_draws_what_the_pipelines_draw(models):
    found = last(actions.generate(models, FASHION, "Bag", steps=4, count=1, guidance_scale=2.0, seed=3))
    pipe = ScoreSdeClassConditionalPipeline.from_pretrained(shipped(FASHION))
    wanted = pipe(["Bag"], 2.0, 4, generator=torch.Generator().manual_seed(3))
    np.testing.assert_array_equal(pixels(found.picture), np.asarray(wanted.images[0]))
    assert found.count == wanted.nfe and str(found).startswith(f"{wanted.nfe} network calls")
    found = last(actions.generate(models, FASHION, sampler="ddim", steps=4, count=1, seed=3))
    pipe = ScoreSdePipeline.from_pretrained(shipped(FASHION))
    pipe.scheduler.predictor, pipe.scheduler.corrector = "exponential", None
    wanted = pipe(1, 4, generator=torch.Generator().manual_seed(3)).images[0]
    np.testing.assert_array_equal(pixels(found.picture), np.asarray(wanted))


def test_inpainting_keeps_what_was_not_painted(models):
    drawing = {"background": ramp(), "layers": [Image.new("RGBA", (64, 64))]}
    drawing["layers"][0].paste((255, 0, 102, 128), (0, 0, 32, 64))
    image, mask = actions_painted(drawing)
    found = pixels(last(actions.inpaint(models, EMOJI, image, mask, Run(3, 1))).picture, 64)
    np.testing.assert_array_equal(found[:, 32:], np.asarray(ramp())[:, 32:])
    assert np.abs(found[:, :32].astype(int) - np.asarray(ramp())[:, :32]).max() > 20
    with pytest.raises(ValueError, match="mask must have white pixels where to paint, got none"):
        next(actions.inpaint(models, EMOJI, image, Image.new("L", (64, 64)), Run(3)))


def actions_painted(drawing):
    pytest.importorskip("gradio")
    from scoresde_pipelines.app.page import painted

    assert painted(None) == (None, None)
    return painted(drawing)


def test_colours_and_details_fit_the_picture(models):
    gray = np.asarray(ramp().resize((32, 32), Image.Resampling.LANCZOS).convert("L")).astype(float)
    found = pixels(last(actions.colorize(models, EMOJI, ramp(), Run(3, 1))).picture)
    # The mean of the channels is measured; clipping at black and white hides it where the few steps leave the range.
    inside = ((found > 0) & (found < 255)).all(-1)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(found.astype(float).mean(-1)[inside], gray[inside], atol=1.5)
    with pytest.raises(ValueError, match="model must be one of colour images"):
        next(actions.colorize(models, FASHION, ramp()))
    small = np.asarray(ramp().resize((8, 8), Image.Resampling.LANCZOS)).astype(float)
    found = pixels(last(actions.upscale(models, EMOJI, ramp(), Run(3, 1))).picture)
    blocks = found.reshape(8, 4, 8, 4, 3)
    inside = ((blocks > 0) & (blocks < 255)).all((1, 3))
    assert inside.any()
    np.testing.assert_allclose(blocks.astype(float).mean((1, 3))[inside], small[inside], atol=1.5)
    with pytest.raises(ValueError, match="scale must divide the network's height and width"):
        next(actions.upscale(models, EMOJI, ramp(), scale=5))


def test_a_weak_model_guides_as_in_the_pipeline(models, tmp_path):
    pipe = ScoreSdeClassConditionalPipeline.from_pretrained(shipped(FASHION))
    for parameter in pipe.unet.parameters():
        parameter.data *= 0.9
    pipe.save_pretrained(tmp_path / "weak")
    both = Models([FASHION, str(tmp_path / "weak")])
    options = {"sampler": "ddim", "steps": 4, "count": 1, "seed": 3}
    weak = {"weak_model": str(tmp_path / "weak"), "weak_guidance_scale": 2.5}
    strong = ScoreSdeClassConditionalPipeline.from_pretrained(shipped(FASHION))
    strong.scheduler.predictor, strong.scheduler.corrector = "exponential", None
    for label, call in ((actions.NO_CLASS, {"batch_size": 1}), ("Bag", {"class_labels": ["Bag"]})):
        found = last(actions.generate(both, FASHION, label, **options, **weak))
        kind = ScoreSdePipeline if label == actions.NO_CLASS else ScoreSdeClassConditionalPipeline
        generator = torch.Generator().manual_seed(3)
        guided = {"weak_unet": pipe.unet, "weak_guidance_scale": 2.5, "num_inference_steps": 4}
        wanted = kind.from_pipe(strong)(**call, **guided, generator=generator)
        np.testing.assert_array_equal(pixels(found.picture), np.asarray(wanted.images[0]))
        assert found.count == wanted.nfe == 8  # two networks
        unguided = last(actions.generate(both, FASHION, label, **options))
        assert not np.array_equal(pixels(unguided.picture), pixels(found.picture))


def test_tiles_keep_the_size_of_a_picture(models):
    image, run = ramp(40), Run(2, 1, 5, tile_size=32, tile_overlap=0.25)
    mask = Image.new("L", (40, 40))
    mask.paste(255, (10, 10, 30, 30))
    options = {"num_inference_steps": 2, "tile_size": 32, "tile_overlap": 8}
    for found, cls, call, side in (
        (actions.inpaint(models, EMOJI, image, mask, run), ScoreSdeInpaintPipeline, {"mask_image": mask}, 40),
        (actions.colorize(models, EMOJI, image, run), ScoreSdeColorizationPipeline, {}, 40),
        (actions.upscale(models, EMOJI, image, run, 2), ScoreSdeSuperResolutionPipeline, {"scale": 2}, 80),
    ):
        given = image.convert("L") if cls is ScoreSdeColorizationPipeline else image
        pipe = cls.from_pretrained(shipped(EMOJI))
        wanted = pipe(given, **call, **options, generator=torch.Generator().manual_seed(5)).images[0]
        assert wanted.size == (side, side)
        np.testing.assert_array_equal(pixels(last(found).picture, side), np.asarray(wanted))


@pytest.mark.parametrize("tile_size", [0, 32])
def test_it_restores_what_the_pipeline_restores(models, tile_size):
    image = ramp(40)
    if tile_size == 0:  # 40 x 30 becomes 32 x 24, with a border of 4 rows that are not known
        image = image.crop((0, 0, 40, 30))
        small = torch.from_numpy(np.asarray(image)).permute(2, 0, 1)[None] / 255
        y, known = fit_images(small, (32, 32), "pad"), torch.zeros(32, 32)
        known[4:28] = 1
        operator, more, rows = MaskOperator(known) @ BlurOperator.gaussian(0.7), {}, slice(4, 28)
    else:
        y = torch.from_numpy(np.asarray(image)).permute(2, 0, 1)[None] / 255
        more, rows = {"tile_size": 32, "height": 40, "width": 40}, slice(0, 40)
        operator = BlurOperator.gaussian(0.7)
    found = last(actions.restore(models, EMOJI, image, Run(2, 1, 5, tile_size), 0.7, 0.1)).picture
    pipe = ScoreSdeInverseProblemPipeline.from_pretrained(shipped(EMOJI))
    options = {"num_inference_steps": 2, "sampler": "scheduler", "solver_iterations": 1, **more}
    wanted = pipe(y, operator, noise_std=0.1, **options, generator=torch.Generator().manual_seed(5)).images[0]
    wanted = np.asarray(wanted)[rows]
    np.testing.assert_array_equal(np.asarray(found.resize(wanted.shape[1::-1], Image.Resampling.NEAREST)), wanted)
    with pytest.raises(ValueError, match="blur or noise must be positive, got 0 for both"):
        next(actions.restore(models, EMOJI, image, Run(2, 1), 0, 0))


def test_a_preview_shows_the_denoised_spread():
    scheduler = models_scheduler()
    data = GaussianScoreModel(torch.full((1, 4, 4), 0.5), 0.25**2)
    pipe = ScoreSdePipeline(data.network(scheduler), scheduler, data_min=0.0, data_max=1.0)
    # 5 standard deviations of the noisy state become 5 of the data's assumed spread, around the middle of the range.
    sigma = torch.tensor(10.0)
    x = 0.5 + 0.5 * (pipe.data_std**2 + sigma**2).sqrt() * torch.ones(1, 1, 4, 4)
    torch.testing.assert_close(preview(pipe, sigma, x), torch.full((1, 1, 4, 4), 0.5 + 0.5 * pipe.data_std))


def models_scheduler():
    return type(ScoreSdePipeline.from_pretrained(shipped(EMOJI)).scheduler)(sigma_min=0.01, sigma_max=50.0)


def test_a_run_that_nobody_watches_ends(models):
    before = threading.active_count()
    run = actions.generate(models, FASHION, steps=200, count=1)
    assert not next(run).done
    run.close()
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.daemon and "run" in thread.name:
            thread.join(10)
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: actions.generate(m, "nobody"), "model must be one of .*got 'nobody'"),
        (lambda m: actions.generate(m, FASHION, "Sock"), "class_labels"),
        (lambda m: actions.generate(m, FASHION, sampler="magic"), "sampler must be one of"),
        (lambda m: actions.generate(m, FASHION, steps=0), "num_inference_steps must be an integer of at least 1"),
        (lambda m: actions.upscale(m, FASHION, None), "image must be given: upload a picture first"),
    ],
)
def test_bad_input_is_named(models, call, message):
    with pytest.raises(ValueError, match=message):
        next(call(models))


def test_it_measures_and_interpolates(models, monkeypatch):
    monkeypatch.setattr(actions, "LIKELIHOOD_TOLERANCE", 0.05)
    image = Image.new("L", (40, 40), 0)
    image.paste(200, (10, 5, 30, 35))
    values = fit_images(images_to_tensor(image, 1), (32, 32), "crop")[0, 0]
    fitted = Image.fromarray((values * 255).round().byte().numpy())
    pipe = ScoreSdeLikelihoodPipeline.from_pretrained(shipped(FASHION))
    wanted = pipe(fitted, tolerance=0.05, generator=torch.Generator().manual_seed(0))
    found = actions.bits_per_dim(models, FASHION, image)
    assert found.startswith(f"{float(wanted.bits_per_dim):.3f} +- {float(wanted.standard_error):.3f} bits/dim (")
    row = actions.interpolate(models, FASHION, image, fitted.rotate(90), count=2)
    for picture, expected in zip(row, pipe.interpolate(fitted, fitted.rotate(90), 2, 0.05).images, strict=True):
        np.testing.assert_array_equal(pixels(picture), np.asarray(expected))


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "scoresde_pipelines.app.page", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'scoresde_pipelines\[app\]'"):
        launch()


def test_an_address_that_cannot_be_served_is_named_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"host and port must be free .* got 127.0.0.1 and {port}"):
            launch([FASHION], port=port, block=False)
    with pytest.raises(ValueError, match=r"got 999\.1\.1\.1: "):
        launch([FASHION], host="999.1.1.1", block=False)


@pytest.fixture(scope="module")
def address():
    gradio = pytest.importorskip("gradio", reason="the page needs the extra app")
    yield launch([FASHION], block=False)
    gradio.close_all()


def test_the_page_answers_its_client(address, models):

    from gradio_client import Client

    client = Client(address, verbose=False)
    picture, text = client.predict(FASHION, "Bag", "default", 5, 1, 2.0, 3, api_name="/generate")
    wanted = last(actions.generate(models, FASHION, "Bag", "default", 5, 1, 2.0, 3))
    assert text.startswith(f"{wanted.count} network calls")
    with Image.open(picture if isinstance(picture, str) else picture["path"]) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("L")), np.asarray(wanted.picture))
    with pytest.raises(Exception, match="upload a picture first"):
        client.predict(FASHION, None, 5, 1, 0, api_name="/upscale")


@pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or shutil.which("chromium") is None,
    reason="needs playwright and /usr/bin/chromium",
)
def test_a_browser_draws_pictures(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.get_by_role("button", name="Generate").click()
        counted = "[...document.querySelectorAll('textarea, input')].some(e => /50 network calls/.test(e.value))"
        page.wait_for_function(counted, timeout=120_000)
        assert page.locator(".picture img").first.evaluate("image => image.naturalWidth") >= 384
        page.get_by_role("tab", name="Upscale").click()
        page.get_by_role("button", name="Upscale").click()
        page.wait_for_selector("text=upload a picture first")
        assert errors == []
        browser.close()


def test_a_16_bit_picture_is_read_by_its_own_range(models):
    gray = ramp().convert("L")
    wide = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    found, wanted = (last(actions.colorize(models, EMOJI, image, Run(3, 1))).picture for image in (wide, gray))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def test_the_example_is_the_draft_of_the_pipeline(models):
    pipe = ScoreSdePipeline.from_pretrained(shipped(EMOJI))
    wanted = pipe(quality="draft", generator=torch.Generator().manual_seed(2)).images[0]
    np.testing.assert_array_equal(np.asarray(actions.example(models, EMOJI, 2)), np.asarray(wanted))
