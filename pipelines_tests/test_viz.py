"""Pictures: pixels at known places, frames of GIFs, and the drawn data against closed forms."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_pipelines import (
    VPSDE,
    GaussianMixtureScoreModel,
    GaussianScoreModel,
    ScoreSdeClassConditionalPipeline,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)
from scoresde_pipelines.training.evaluation.estimate import Estimate
from scoresde_pipelines.training.evaluation.result import EvaluationResult, RowResult
from scoresde_pipelines.viz import (
    TrajectoryRecorder,
    class_grid,
    plot_marginals,
    plot_quality,
    plot_score_field,
    record_trajectory,
    sample_trajectory,
    save_gif,
)
from scoresde_pipelines.viz.__main__ import main
from scoresde_pipelines.viz.figures import forward_paths, reverse_paths


SCHEDULERS = {
    "ve": VESDEScheduler(sigma_max=2.0),
    "vp": VPSDEScheduler(continuous=True),
    "subvp": SubVPSDEScheduler(),
}
MEAN, VARIANCE = 0.3, 0.04
LINE = GaussianScoreModel(mean=[MEAN], variance=VARIANCE)
FASHION = "fashion-mnist-32-vp"


@pytest.fixture(scope="module")
def pipe():
    pipe = ScoreSdePipeline.from_pretrained(FASHION)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def spread(sde, t):
    """The mean and standard deviation of p_t for the data of `LINE`."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return alpha * MEAN, (alpha**2 * VARIANCE + sigma**2).sqrt()


# ---------------------------------------------------------------- grids


def test_each_class_has_a_row_with_its_images_in_their_order():
    values = torch.tensor([10, 20, 30, 40, 50])
    images = (values / 255).reshape(5, 1, 1, 1).expand(5, 3, 4, 4)
    grid = np.asarray(class_grid(images, ["b", "a", "b", "b", "a"], scale=1))
    margin = grid.shape[1] - (3 * 6 - 2)
    assert margin > 8 and grid.shape == (2 * 6 - 2, margin + 16, 3)
    cells = [[grid[6 * row + 2, margin + 6 * column + 2].tolist() for column in range(3)] for row in range(2)]
    assert cells == [[[10] * 3, [30] * 3, [40] * 3], [[20] * 3, [50] * 3, [255] * 3]]
    assert (grid[:, margin + 4 : margin + 6] == 255).all() and (grid[4:6, margin:] == 255).all()


def test_the_names_are_beside_their_rows_and_pixels_are_squares():
    grid = np.asarray(class_grid(torch.zeros(2, 1, 16, 16), ["first", " "], scale=3))
    margin = grid.shape[1] - 48
    dark = (grid[:, :margin] < 128).any(axis=(1, 2))
    assert dark[:48].any() and not dark[48:].any()
    assert (grid[:48, margin:] == 0).all() and (grid[48:54, margin:] == 255).all()


def test_pil_images_and_arrays_give_the_same_grid_as_tensors():
    images = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    array = images.permute(0, 2, 3, 1).numpy()
    pil = [Image.fromarray((image * 255).round().astype(np.uint8)) for image in array]
    wanted = np.asarray(class_grid(images, [0, 0, 1, 1]))
    for other in (array, pil):
        np.testing.assert_array_equal(np.asarray(class_grid(other, [0, 0, 1, 1])), wanted)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="labels must be one per image, 2, got 3"):
        class_grid(torch.zeros(2, 1, 4, 4), [0, 1, 2])


def test_a_gif_holds_every_frame_for_its_time(tmp_path):
    frames = [Image.new("RGB", (8, 6), (40 * k, 0, 255 - 40 * k)) for k in range(5)]
    path = tmp_path / "new" / "a.gif"
    save_gif(frames, path, milliseconds=50)
    assert list(path.parent.iterdir()) == [path]
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (5, (8, 6), 0)
        for k in range(5):
            gif.seek(k)
            assert gif.info["duration"] == (1500 if k == 4 else 50)
            assert gif.convert("RGB").getpixel((3, 3)) == (40 * k, 0, 255 - 40 * k)
    with pytest.raises(ValueError, match="frames must be at least one picture, all of one size, got sizes"):
        save_gif([], tmp_path / "b.gif")
    with pytest.raises(ValueError, match="milliseconds must be"):
        save_gif(frames, tmp_path / "b.gif", milliseconds=1)


# ---------------------------------------------------------------- trajectories


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_trajectory_holds_states_times_and_exact_denoised_images(name):
    scheduler = type(SCHEDULERS[name]).from_config(SCHEDULERS[name].config)
    scheduler.set_timesteps(7)
    sde, x = scheduler.sde, torch.randn(5, 1, generator=torch.Generator().manual_seed(0)).double()
    start = x * scheduler.init_noise_sigma
    run = record_trajectory(scheduler, lambda x, t: LINE.score(sde, x, t), start, torch.Generator().manual_seed(1))
    assert torch.equal(run.times, scheduler.times) and torch.equal(run.states[0], start)
    for t, state, denoised in zip(run.times, run.states, run.denoised):
        mean, std = spread(sde, t)
        wanted = MEAN + sde.alpha(t) * VARIANCE / std**2 * (state - mean)  # the regression line of a Gaussian
        torch.testing.assert_close(denoised, wanted)
    torch.testing.assert_close(run.result, run.denoised[-1])  # the last call denoises


def test_the_last_frame_shows_the_images_of_the_pipeline(pipe):
    frames = sample_trajectory(pipe, 2, 4, generator=torch.Generator().manual_seed(5), scale=1)
    assert len(frames) == 1 + 4 * pipe.scheduler.order
    images = pipe(2, 4, generator=torch.Generator().manual_seed(5)).images
    last = np.asarray(frames[-1])
    for top in (0, 34):
        np.testing.assert_array_equal(last[top : top + 32, :32], np.asarray(images[0]))
        np.testing.assert_array_equal(last[top : top + 32, 34:], np.asarray(images[1]))
    # At T the state is the noise alone; it is shown with the data's standard deviation around the middle gray.
    noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(5))
    wanted = (255 * (0.5 * pipe.data_std * noise[1, 0] + 0.5).clamp(0, 1)).round().numpy()
    np.testing.assert_allclose(np.asarray(frames[0])[:32, 34:], wanted, atol=1)


def test_frames_of_classes_are_those_of_the_class_conditional_pipeline(pipe):
    frames = sample_trajectory(
        pipe, num_inference_steps=3, class_labels=["Bag"], guidance_scale=2.0, generator=_seed(4), scale=1
    )
    conditional = ScoreSdeClassConditionalPipeline.from_pipe(pipe)
    conditional.set_progress_bar_config(disable=True)
    wanted = conditional(["Bag"], 2.0, 3, generator=_seed(4)).images[0]
    np.testing.assert_array_equal(np.asarray(frames[-1])[:32], np.asarray(wanted))


def test_calls_are_left_out_evenly(pipe):
    every = sample_trajectory(pipe, 1, 6, generator=_seed(2), scale=1)
    some = sample_trajectory(pipe, 1, 6, generator=_seed(2), scale=1, max_frames=2)
    assert [np.array_equal(a, b) for a, b in zip(some, (every[0], every[-2], every[-1]))] == [True] * 3


def test_the_recorder_keeps_pictures_and_changes_nothing(pipe, tmp_path):
    recorder = TrajectoryRecorder(every=2, scale=1)
    images = pipe(1, 5, generator=_seed(1), callback_on_step_end=recorder).images
    calls = 5 * pipe.scheduler.order
    assert len(recorder.frames) == (calls + 1) // 2
    np.testing.assert_array_equal(np.asarray(recorder.frames[-1]), np.asarray(images[0]))
    np.testing.assert_array_equal(np.asarray(images[0]), np.asarray(pipe(1, 5, generator=_seed(1)).images[0]))
    recorder.save(tmp_path / "run.gif")
    with Image.open(tmp_path / "run.gif") as gif:
        assert (gif.n_frames, gif.size) == (len(recorder.frames), (32, 32))


def _seed(number):
    return torch.Generator().manual_seed(number)


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("name", SCHEDULERS)
def test_forward_paths_have_the_marginals_and_the_correlation_of_the_sde(name):
    sde = SCHEDULERS[name].sde
    times, paths = forward_paths(LINE, SCHEDULERS[name], 20_000, 12, _seed(0))
    for t, x in zip(times, paths):
        mean, std = spread(sde, t)
        assert abs(float(x.mean() - mean)) < 4 * float(std) / 20_000**0.5
        assert float(x.std() / std) == pytest.approx(1, abs=4 / 40_000**0.5)
    first, last = paths[0, :, 0], paths[-1, :, 0]
    scale, _ = sde.transition(times[-1], times[0])
    expected = float(scale * spread(sde, times[0])[1] / spread(sde, times[-1])[1])
    assert float(torch.corrcoef(torch.stack([first, last]))[0, 1]) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_lines_of_the_ode_keep_their_quantile(name):
    pytest.importorskip("matplotlib")
    figure = plot_marginals(LINE, SCHEDULERS[name], num_paths=6, num_steps=400)
    forward, _, flow = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 6]
    for line in flow.lines:
        t, x = (torch.as_tensor(values)[:-1] for values in line.get_data())
        mean, std = spread(SCHEDULERS[name].sde, t)
        quantile = (x - mean) / std
        assert float((quantile - quantile[0]).abs().max()) < 0.06
    assert flow.get_xlim() == (SCHEDULERS[name].sde.T, 0) and forward.get_xlim() == (0, SCHEDULERS[name].sde.T)


def test_the_shading_is_the_root_of_the_density():
    pytest.importorskip("matplotlib")
    figure = plot_marginals(LINE, SCHEDULERS["vp"], num_paths=1, num_steps=10, extent=2.0)
    mesh = figure.axes[0].collections[0]
    shade = np.asarray(mesh.get_array()).reshape(400, 300)
    x, times = np.linspace(-2, 2, 400), torch.linspace(1e-3, 1, 300).double()
    for k in (0, 100, 299):
        mean, std = (float(value) for value in spread(SCHEDULERS["vp"].sde, times[k]))
        wanted = np.exp(-((x - mean) ** 2) / (4 * std**2))
        np.testing.assert_allclose(shade[:, k], wanted / wanted.max(), atol=1e-6)


def test_reverse_paths_of_the_sde_end_in_the_data():
    _, paths = reverse_paths(LINE, SCHEDULERS["vp"], torch.randn(5000, 1, generator=_seed(0)).double(), 400, True)
    assert float(paths[-1].mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(paths[-1].std()) == pytest.approx(VARIANCE**0.5, rel=0.06)


def test_arrows_and_points_of_the_plane():
    pytest.importorskip("matplotlib")
    data = GaussianScoreModel(mean=[0.5, -0.2], variance=0.09)
    scheduler, t = SCHEDULERS["vp"], torch.tensor(0.3).double()
    figure = plot_score_field(data, scheduler, times=(0.3,), num_samples=400)
    alpha, sigma = float(scheduler.sde.alpha(t)), float(scheduler.sde.sigma(t))
    mean, variance = np.array([0.5 * alpha, -0.2 * alpha]), alpha**2 * 0.09 + sigma**2
    for axes in figure.axes:
        _, arrows, points = axes.collections
        places = np.stack([arrows.X, arrows.Y], axis=1)
        assert places.min() == pytest.approx(-1.8) and len(places) == 169
        np.testing.assert_allclose(np.stack([arrows.U, arrows.V], 1), sigma * (mean - places) / variance, rtol=1e-6)
        dots = np.asarray(points.get_offsets())
        assert len(dots) == 400
        np.testing.assert_allclose(dots.mean(0), mean, atol=4 * (variance / 400) ** 0.5)
        np.testing.assert_allclose(dots.std(0), variance**0.5, rtol=0.15)


def test_an_evaluation_is_drawn_from_its_results(tmp_path):
    pytest.importorskip("matplotlib")
    row = {"samples": "a", "model": "m", "sampler": "ddim", "num_images": 4, "seconds_per_image": 1.0}
    rows = [RowResult(**row, steps=n, nfe=float(n), metrics={"kid": Estimate(1 / n, 0.1)}) for n in (10, 20)]
    EvaluationResult(rows, {"kid": Estimate(0.01, 0.001)}).save(tmp_path)
    plot_quality(tmp_path, tmp_path / "a.png")
    plot_quality(tmp_path / "results.json", tmp_path / "b.png")
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert np.array_equal(first, second) and (first[..., 0] < 100).any()
    with pytest.raises(FileNotFoundError):
        plot_quality(tmp_path / "nowhere", tmp_path / "c.png")


def test_wrong_data_and_times_are_refused():
    plane = GaussianMixtureScoreModel([1.0], [[0.0, 0.0]], 1.0)
    with pytest.raises(ValueError, match=r"data must have states of shape \(1,\), got \(2,\)"):
        plot_marginals(plane, SCHEDULERS["vp"])
    with pytest.raises(ValueError, match=r"times\[0\] must be a finite number in \(0, 1\], got 0.0"):
        plot_score_field(plane, SCHEDULERS["vp"], times=(0.0,))
    with pytest.raises(ValueError, match=r"extent must be a finite number in \[1e-06, 1e\+06\], got 0\.0"):
        plot_score_field(plane, SCHEDULERS["vp"], extent=0.0)
    with pytest.raises(TypeError, match="times must be a sequence of numbers, got"):
        plot_score_field(plane, SCHEDULERS["vp"], times=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_score_field(None, SCHEDULERS["vp"]), "data must be a GaussianMixtureScoreModel, got NoneType"),
        (lambda: plot_score_field(plane(), VPSDE()), "scheduler must be an SDEScheduler, got VPSDE"),
        (lambda: plot_score_field(plane(), SCHEDULERS["vp"], extent="a"), "extent must be a number, got str"),
        (
            lambda: plot_score_field(plane(), SCHEDULERS["vp"], seed=-1),
            "seed must be an integer of at least 0, got -1",
        ),
        (
            lambda: record_trajectory(SCHEDULERS["vp"], None, torch.ones(1, 2)),
            "score_fn must be a function, got NoneType",
        ),
        (lambda: sample_trajectory(SCHEDULERS["vp"]), "pipe must be a GeneratingPipeline, got VPSDEScheduler"),
        (lambda: save_gif([3], "a.gif"), "frames must be a list of PIL images, got int"),
        (lambda: save_gif([Image.new("L", (2, 2))], None), "path must be a path, got NoneType"),
        (lambda: class_grid(torch.zeros(1, 1, 2, 2), 3), "labels must be a sequence, one per image, got int"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def plane():
    return GaussianMixtureScoreModel([1.0], [[0.0, 0.0]], 1.0)


def test_without_matplotlib_the_message_names_the_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'scoresde_pipelines\[viz\]'"):
        plot_marginals(LINE, SCHEDULERS["vp"], num_paths=1, num_steps=2)
    with pytest.raises(SystemExit, match=r"error: figures need matplotlib"):
        main(["quality", "--results", str(tmp_path), "--output", str(tmp_path / "a.png")])


@pytest.fixture
def weak(pipe, tmp_path):
    """The model with other weights, in a folder."""
    other = ScoreSdePipeline.from_pretrained(FASHION)
    for parameter in other.unet.parameters():
        parameter.data *= 0.9
    other.save_pretrained(tmp_path / "weak")
    return other.unet.eval()


@pytest.mark.parametrize("labels", [None, ["Bag"]])
def test_a_trajectory_is_guided_by_a_weak_network(pipe, weak, labels):
    guidance = {"weak_unet": weak, "weak_guidance_scale": 2.5}
    frames = sample_trajectory(pipe, 1, 3, labels, generator=_seed(7), scale=1, **guidance)
    kind = ScoreSdePipeline if labels is None else ScoreSdeClassConditionalPipeline
    call = {"batch_size": 1} if labels is None else {"class_labels": labels}
    wanted = kind.from_pipe(pipe)(**call, num_inference_steps=3, generator=_seed(7), **guidance).images[0]
    np.testing.assert_array_equal(np.asarray(frames[-1])[:32, :32], np.asarray(wanted))
    plain = sample_trajectory(pipe, 1, 3, labels, generator=_seed(7), scale=1)
    assert not np.array_equal(np.asarray(plain[-1]), np.asarray(frames[-1]))
    with pytest.raises(ValueError, match="weak_guidance_scale must be None without a weak_unet, got 2"):
        sample_trajectory(pipe, 1, 3, labels, weak_guidance_scale=2)


def test_the_command_takes_a_weak_model(tmp_path, pipe, weak):
    options = ["--model", FASHION, "--num-images", "1", "--steps", "3", "--scale", "1", "--seed", "7"]
    guidance = ["--weak-model", str(tmp_path / "weak"), "--weak-guidance-scale", "2.5"]
    main(["trajectory", *options, *guidance, "--output", str(tmp_path / "a.gif")])
    frames = sample_trajectory(pipe, 1, 3, generator=_seed(7), scale=1, weak_unet=weak, weak_guidance_scale=2.5)
    plain = sample_trajectory(pipe, 1, 3, generator=_seed(7), scale=1)
    with Image.open(tmp_path / "a.gif") as gif:
        gif.seek(gif.n_frames - 1)
        shown = np.asarray(gif.convert("L")).astype(int)
    assert (
        np.abs(shown - np.asarray(frames[-1])).max() < 16 < np.abs(shown - np.asarray(plain[-1])).max()
    )  # 64 colours
    for wrong, name in (["--seed", "-1"], "seed"), (["--output", f"{__file__}/c.gif"], "output"):
        with pytest.raises(SystemExit, match=f"error: --{name} must"):
            main(["trajectory", "--model", "./nowhere", "--output", str(tmp_path / "c.gif"), *wrong])
    with pytest.raises(SystemExit, match="error: weak_model must be a shipped name"):
        main(["trajectory", *options, "--weak-model", "./nowhere", "--output", str(tmp_path / "c.gif")])


def test_the_command_writes_the_gif_of_a_model(tmp_path, pipe):
    path = tmp_path / "run.gif"
    options = ["--num-images", "1", "--steps", "3", "--scale", "1", "--seed", "7"]
    main(["trajectory", "--model", FASHION, "--output", str(path), *options])
    frames = sample_trajectory(pipe, 1, 3, generator=_seed(7), scale=1)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size) == (len(frames), frames[0].size)
        gif.seek(gif.n_frames - 1)
        shown = np.asarray(gif.convert("L")).astype(int)
    assert np.abs(shown - np.asarray(frames[-1])).max() < 16  # 64 colours
