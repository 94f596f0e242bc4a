"""Scores on tiles: against the score of the whole picture, where that is local; and in every pipeline that takes them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from scoresde_pipelines import (
    DDPMpp,
    GaussianScoreModel,
    NoiseConditionalClassifier,
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
from scoresde_pipelines.call_options import CallOptions
from scoresde_pipelines.schedulers import (
    VPSDE,
    AveragePoolOperator,
    ClassifierFreeGuidance,
    MomentMatching,
    PerSample,
    TiledScore,
    solve_probability_flow,
)
from scoresde_pipelines.schedulers.tiled_score import Tiles


SIZES = [(97, 32, 16), (33, 32, 0), (70, 32, 25), (64, 32, 0), (50, 7, 6), (5, 32, 3)]
T = torch.tensor(0.4, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(*shape):
    return torch.randn(*shape, generator=seeded(), dtype=torch.float64)


def pixelwise(x, t, shift=None):
    """The score of independent pixels, two modes each; `shift` (B,) differs from sample to sample."""
    shift = 0.0 if shift is None else shift.reshape(-1, 1, 1, 1)
    return (torch.tanh(x - shift) - x) / (0.1 + t.reshape(-1, *(1,) * 3 * bool(t.ndim)))


# ---------------------------------------------------------------------- windows


@pytest.mark.parametrize("length, tile, overlap", SIZES)
def test_windows_sum_to_one_and_tiles_overlap_as_asked(length, tile, overlap):
    tiles = Tiles(length, tile, overlap)
    total = torch.zeros(length, dtype=torch.float64)
    for start, window in zip(tiles.starts, tiles.windows):
        total[start : start + tiles.tile] += window
    assert float((total - 1).abs().max()) < 1e-15 * 4 and float(tiles.windows.min()) > 0
    assert tiles.starts[0] == 0 and tiles.starts[-1] + tiles.tile == length
    shared = [a + tile - b for a, b in zip(tiles.starts, tiles.starts[1:])]
    assert all(overlap <= pixels < tile for pixels in shared)
    if shared:  # no tile more than needed
        assert (len(tiles.starts) - 1) * tile - (len(tiles.starts) - 2) * overlap < length


def test_a_window_of_two_tiles_is_sin_squared():
    windows = Tiles(12, 8, 4).windows
    rise = np.sin(0.5 * np.pi * (np.arange(4) + 0.5) / 4) ** 2
    assert np.allclose(windows[1], [*rise, 1, 1, 1, 1], atol=1e-15)
    assert np.allclose(windows[0], [1, 1, 1, 1, *rise[::-1]], atol=1e-15)


# ---------------------------------------------------------------------- scores


@pytest.mark.parametrize("sides", [(97, 65), (32, 40), (20, 33), (33, 20)])
@pytest.mark.parametrize("max_batch", [1, 5, 100])
def test_the_score_of_independent_pixels_is_that_of_the_whole_picture(sides, max_batch):
    x, calls = pictures(2, 3, *sides), []

    def counted(tiles, t):
        calls.append(tiles.shape)
        return pixelwise(tiles, t)

    found = TiledScore(counted, 32, 12, max_batch)(x, T)
    assert float((found - pixelwise(x, T)).abs().max()) < 1e-13
    assert all(shape[0] <= max_batch and max(shape[2:]) <= 32 for shape in calls)
    assert max(shape[0] for shape in calls) == min(max_batch, sum(shape[0] for shape in calls))


def test_times_labels_and_rows_follow_the_samples():
    x, t = pictures(3, 1, 20, 13), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    shift = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    expected = pixelwise(x, t, shift)
    inside = TiledScore(PerSample(pixelwise, shift=shift), 8, 3, max_batch=4)
    outside = PerSample(TiledScore(pixelwise, 8, 3, max_batch=4), shift=shift)
    chosen = torch.tensor([2, 0])
    for score_fn in (inside, outside):
        assert float((score_fn(x, t) - expected).abs().max()) < 1e-13
        assert float((score_fn.rows(chosen)(x[chosen], t[chosen]) - expected[chosen]).abs().max()) < 1e-13


def test_the_score_of_a_local_network_is_exact_away_from_the_borders_of_tiles():
    kernel = pictures(2, 2, 3, 3)

    def network(x, t):
        return functional.conv2d(functional.silu(functional.conv2d(x, kernel, padding=1)), kernel, padding=1) * t

    x = pictures(1, 2, 40, 16)
    difference = (TiledScore(network, 16, 4)(x, T) - network(x, T)).abs().amax((0, 1, 3))
    reach = 2  # of two 3 x 3 filters
    tiles = Tiles(40, 16, 4)
    exact = torch.ones(40, dtype=torch.bool)
    for start in tiles.starts:
        for border in (start, start + 16):
            if 0 < border < 40:  # within a tile, less than `reach` from its border
                inner = slice(border, border + reach) if border == start else slice(border - reach, border)
                exact[inner] = False
    assert float(difference[exact].max()) < 1e-13 and float(difference[~exact].min()) > 1e-4
    assert int(exact.sum()) == 40 - 4 * reach


@pytest.mark.parametrize("tile_size", [32, (20, 13), (64, 13)])
def test_one_tile_changes_no_bit(tile_size):
    network = DDPMpp(sample_size=8, block_out_channels=(8,), layers_per_block=1, attention_resolutions=()).eval()
    torch.nn.init.normal_(network.conv_out.weight, std=0.1, generator=seeded())
    score_fn = VPSDEScheduler(continuous=True).score_fn(network)
    x = pictures(2, 3, 20, 13).float()
    with torch.no_grad():
        expected = score_fn(x, T)
        assert float(expected.abs().max()) > 0 and torch.equal(TiledScore(score_fn, tile_size)(x, T), expected)


def test_derivatives_pass_in_batches_of_any_size():
    x, v = pictures(2, 1, 20, 13).requires_grad_(), pictures(2, 1, 20, 13)
    first = torch.autograd.grad(pixelwise(x, T), x, v, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), x)[0]
    for max_batch in (3, 100):
        tiled = TiledScore(pixelwise, 8, 3, max_batch)(x, T)
        for _ in range(2):  # the graph is kept
            ours = torch.autograd.grad(tiled, x, v, create_graph=True)[0]
            assert float((ours - first).abs().max()) < 1e-12
        assert float((torch.autograd.grad(ours.square().sum(), x)[0] - second).abs().max()) < 1e-11


def test_tiles_compose_with_posteriors_guidance_and_the_ode():
    sde, x = VPSDE(), pictures(2, 1, 12, 18)
    data = GaussianScoreModel(torch.full((1, 1, 1), 0.3, dtype=torch.float64), 0.2)

    def score(x, t):  # the same for each pixel, and so of any size
        return data.score(sde, x.reshape(-1, 1, 1, 1), t.repeat_interleave(x[0].numel()) if t.ndim else t).reshape(
            x.shape
        )

    tiled = TiledScore(score, 8, 4, max_batch=3)
    operator = AveragePoolOperator(2)
    y = operator.measure(x * 0.3, 0.1, seeded())

    def conditions(prior):
        posterior = MomentMatching(prior, sde, operator, y, 0.1)
        return prior, posterior, ClassifierFreeGuidance(posterior, prior, 1.5)

    for ours, theirs in zip(conditions(tiled), conditions(score)):
        found, expected = (solve_probability_flow(one, sde, x, 1.0, 1e-3, tolerance=1e-4).x for one in (ours, theirs))
        assert float((found - expected).abs().max()) < 1e-4


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("score", 8), "score_fn must be a function, got str"),
        ((pixelwise, 0), "tile_size must be an integer of at least 1, got 0"),
        ((pixelwise, (8, 8, 8)), r"tile_size must be a positive integer or \(height, width\), got \(8, 8, 8\)"),
        ((pixelwise, 8.0), r"tile_size must be a positive integer or \(height, width\), got 8.0"),
        ((pixelwise, (8, 4), 4), r"overlap must be less than tile_size \(8, 4\), got 4"),
        ((pixelwise, 8, -1), "overlap must be an integer of at least 0, got -1"),
        ((pixelwise, 8, 2, 0), "max_batch must be an integer of at least 1, got 0"),
    ],
)
def test_what_cannot_be_tiled_is_named(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        TiledScore(*arguments)


def test_states_that_are_no_pictures_are_named():
    with pytest.raises(ValueError, match=r"x must have shape \(B, C, H, W\), got \(2, 8, 8\)"):
        TiledScore(pixelwise, 8)(pictures(2, 8, 8), T)


# ---------------------------------------------------------------------- pipelines


class AnySize(torch.nn.Module):
    """The exact network of independent pixels N(0.3, 0.02), of every size."""

    def __init__(self, scheduler, size=8, channels=3):
        super().__init__()
        self.pixel = GaussianScoreModel(torch.full((1, 1, 1), 0.3), 0.02).network(scheduler)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        sides = {"sample_size": size, "in_channels": channels, "block_out_channels": (1, 1)}
        self.config = SimpleNamespace(**{**self.pixel.config, **sides})
        self.device, self.dtype, self.sides = torch.device("cpu"), torch.float32, []

    def forward(self, x, t):
        self.sides.append(tuple(x.shape[2:]))
        t = t.repeat_interleave(x[0].numel()) if t.ndim else t
        return type("Output", (), {"sample": self.pixel(x.reshape(-1, 1, 1, 1), t).sample.reshape(x.shape)})()


def pipeline(cls, size=8, channels=3):
    scheduler = VESDEScheduler(sigma_max=10.0)
    pipe = cls(AnySize(scheduler, size, channels), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


GRAY = np.random.default_rng(0).uniform(0.2, 0.4, (14, 20)).astype(np.float32)
MASK = np.zeros((14, 20), dtype=bool)
MASK[3:12, 5:17] = True
COLOR = np.repeat(GRAY[..., None], 3, -1)
CALLS = {
    ScoreSdePipeline: ({}, {"height": 14, "width": 20}),
    ScoreSdeColorizationPipeline: ({"image": GRAY}, {}),
    ScoreSdeInpaintPipeline: ({"image": COLOR, "mask_image": MASK}, {}),
    ScoreSdeSuperResolutionPipeline: ({"image": COLOR[::2, ::2], "scale": 2}, {}),
    ScoreSdeInverseProblemPipeline: (
        {"measurement": COLOR[::2, ::2], "operator": AveragePoolOperator(2)},
        {"height": 14, "width": 20},
    ),
}


@pytest.mark.parametrize("cls", CALLS)
@pytest.mark.parametrize("method", [None, "replacement"])
def test_pictures_on_tiles_are_those_of_a_network_of_their_size(cls, method):
    given, size = CALLS[cls]
    if cls is ScoreSdePipeline and method:
        return
    arguments = {**given, **({"method": method} if method else {}), "num_inference_steps": 5, "output_type": "np"}
    small, large = pipeline(cls), pipeline(cls, size=(14, 20))
    ours = small(**arguments, **size, tile_size=8, tile_overlap=2, tile_batch_size=5, generator=seeded())
    theirs = large(**arguments, generator=seeded())
    assert ours.images.shape == (1, 14, 20, 3) and ours.nfe == theirs.nfe
    assert set(small.unet.sides) == {(8, 8)} and set(large.unet.sides) == {(14, 20)}
    assert np.abs(ours.images - theirs.images).max() < 1e-4 and ours.images.std() > 0.05


@pytest.mark.parametrize("cls", CALLS)
def test_sizes_and_tiles_that_do_not_go_are_refused_before_work(cls):
    given, size = CALLS[cls]
    pipe, call = pipeline(cls), {**given, "num_inference_steps": 2, **size}
    for options, message in (
        ({"tile_size": 7}, "tile_size must be divisible by 2 for 2 levels, got 7"),
        ({"tile_size": 8, "tile_overlap": 8}, r"tile_overlap must be less than tile_size \(8, 8\), got 8"),
        ({"tile_overlap": 2}, "tile_overlap must be None without a tile_size, got 2"),
        ({"tile_size": 8, "tile_batch_size": 0}, "tile_batch_size must be an integer of at least 1, got 0"),
        ({"height": 13, "width": 20}, "height must be divisible by 2 for 2 levels, got 13"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            pipe(**call | options)
    assert not pipe.unet.sides


def test_restored_pictures_have_the_size_that_is_named():
    pipe = pipeline(ScoreSdeColorizationPipeline)
    found = pipe(GRAY, height=12, width=16, resize="crop", num_inference_steps=2, output_type="np").images
    assert found.shape == (1, 12, 16, 3) and set(pipe.unet.sides) == {(12, 16)}
    with pytest.raises(ValueError, match=r"image must have height and width \(12, 16\), got \(14, 20\)"):
        pipe(GRAY, height=12, width=16)


def test_classes_of_another_size_and_on_tiles():
    options = {"block_out_channels": (8, 8), "layers_per_block": 1, "attention_resolutions": ()}
    network = DDPMpp(sample_size=8, num_class_embeds=2, in_channels=1, out_channels=1, **options).eval()
    torch.nn.init.normal_(network.conv_out.weight, std=0.1, generator=seeded())
    scheduler = VPSDEScheduler(continuous=True)
    pipe = ScoreSdeClassConditionalPipeline(network, scheduler)
    pipe.set_progress_bar_config(disable=True)
    plain = {"num_inference_steps": 3, "output_type": "latent"}
    size = {"height": 12, "width": 16}
    latents = torch.randn(2, 1, 12, 16, generator=seeded())
    images = [
        pipe([0, 1], 2.0, **size, **plain, latents=latents, generator=seeded(), **tiles).images
        for tiles in ({}, {"tile_size": 16}, {"tile_size": 8})
    ]
    assert images[0].shape == (2, 1, 12, 16) and torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    score_fn = TiledScore(pipe.guided_score_fn(torch.tensor([0, 1]), 2.0), 8)
    pipe.scheduler.set_timesteps(3)
    with torch.no_grad():
        expected = pipe.run_sampler(
            latents * pipe.scheduler.init_noise_sigma, pipe.plan(3), score_fn, CallOptions(generator=seeded())
        )
    assert torch.equal(images[2], expected)
    with pytest.raises(ValueError, match="height must be divisible by 2 for 2 levels, got 9"):
        pipe(0, height=9)
    judge = NoiseConditionalClassifier(1, num_classes=2, depth=10, width=1, embedding_channels=8, sample_size=8).eval()
    guided = ScoreSdeClassConditionalPipeline.from_pipe(pipe, classifier=judge)
    guided.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match=r"classifier must be made for images of shape \(1, 12, 16\)"):
        guided(0, **size, **plain)
    assert guided(0, **size, **plain, tile_size=8).images.shape == (1, 1, 12, 16)


# ---------------------------------------------------------------------- every kind of picture in and out


@pytest.mark.parametrize("cls", CALLS)
def test_all_output_types_hold_the_same_numbers(cls):
    given, size = CALLS[cls]
    call = {**given, **size, "num_inference_steps": 3, "tile_size": 8}
    found = {kind: pipeline(cls)(**call, output_type=kind, generator=seeded()).images for kind in ("pil", "np", "pt")}
    assert torch.equal(found["pt"].permute(0, 2, 3, 1), torch.from_numpy(found["np"]))
    assert np.array_equal(np.asarray(found["pil"][0]), (found["np"][0] * 255).round().astype(np.uint8))
    raw = pipeline(cls)(**call, output_type="latent", generator=seeded()).images.clamp(0, 1)
    assert float((raw - found["pt"]).abs().max()) < 1e-6


def test_all_output_types_of_classes_and_codes_hold_the_same_numbers():
    scheduler = VPSDEScheduler(continuous=True)
    options = {"block_out_channels": (8,), "layers_per_block": 1, "attention_resolutions": ()}
    network = DDPMpp(sample_size=8, num_class_embeds=2, **options).eval()
    sample = ScoreSdeClassConditionalPipeline(network, scheduler)
    measure = ScoreSdeLikelihoodPipeline.from_pipe(sample)
    for pipe in (sample, measure):
        pipe.set_progress_bar_config(disable=True)
    picture = COLOR[:8, :8]
    codes = measure.encode(Image.fromarray((picture * 255).round().astype(np.uint8)), tolerance=1e-2)
    assert torch.equal(codes, measure.encode([picture], tolerance=1e-2))
    for call in (
        lambda kind: sample([0, 1], num_inference_steps=2, output_type=kind, generator=seeded()),
        lambda kind: measure.decode(codes, 1e-2, output_type=kind),
        lambda kind: measure.interpolate(picture, picture / 2, 2, 1e-2, output_type=kind),
    ):
        found = {kind: call(kind).images for kind in ("pil", "np", "pt", "latent")}
        assert torch.equal(found["pt"], ((found["latent"] + 1) / 2).clamp(0, 1)) and found["pt"].std() > 0.01
        assert np.array_equal(found["np"], found["pt"].permute(0, 2, 3, 1).numpy())
        assert np.array_equal(np.stack(found["pil"]), (found["np"] * 255).round().astype(np.uint8))


@pytest.mark.parametrize("cls", [cls for cls in CALLS if cls is not ScoreSdePipeline])
def test_all_kinds_of_pictures_give_the_same_result(cls):
    given, size = CALLS[cls]
    names = [name for name in given if name in ("image", "mask_image", "measurement")]
    pixels = {name: (given[name] * 255).round().astype(np.uint8) for name in names}
    tensors = {
        name: torch.from_numpy(value[None, ..., None] if value.ndim == 2 else value[None]).movedim(-1, 1) / 255
        for name, value in pixels.items()
    }
    kinds = [
        {name: Image.fromarray(value) for name, value in pixels.items()},
        {name: [Image.fromarray(value)] for name, value in pixels.items()},
        pixels,
        {name: value.astype(np.float32) / 255 for name, value in pixels.items()},
        tensors,
    ]
    options = {**given, **size, "num_inference_steps": 2, "tile_size": 8, "output_type": "np"}
    results = [pipeline(cls)(**options | kind, generator=seeded()).images for kind in kinds]
    for result in results[1:]:
        assert np.array_equal(result, results[0])
