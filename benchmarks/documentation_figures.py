"""The figures of the documentation: of data whose scores are known, and of the shipped models.

`python benchmarks/documentation_figures.py` draws `docs/images/mathematics_*.png`, `trajectory_*.gif`, `shipped.png`,
`tiles.png`, `deblurring.png`, `app.png` (with the extra `app`, playwright and chromium) and `calls.png`, and writes the
numbers of the last one to `benchmarks/results/calls.json`. Four minutes of one CPU core. `--only models` draws
the pictures that depend on the weights of the shipped models: after a training, run that.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from PIL import Image
from result_file import save

from scoresde_pipelines import (
    SDE,
    BlurOperator,
    GaussianScoreModel,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeColorizationPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
    sampling_loop,
)
from scoresde_pipelines.training.sampling import image_grid
from scoresde_pipelines.viz.__main__ import main as draw_picture


matplotlib.use("Agg")
from matplotlib import pyplot as plt


IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
# 64 coordinates of standard deviations from 0.5 to 0.02, as the coarse and the fine details of images.
SPECTRUM = GaussianScoreModel(mean=torch.full((64,), 0.2), variance=torch.logspace(-0.602, -3.398, 64))
SDES: dict[str, Any] = {
    "VE": VESDEScheduler(sigma_max=50.0).sde,
    "VP": VPSDEScheduler(continuous=True).sde,
    "sub-VP": SubVPSDEScheduler().sde,
}
CALLS = (10, 20, 50, 100, 200, 500)
SAMPLERS: dict[str, dict[str, Any]] = {
    "exponential_multistep, log_snr": {"predictor": "exponential_multistep", "timestep_spacing": "log_snr"},
    "heun, karras": {"predictor": "heun", "timestep_spacing": "karras"},
    "exponential (DDIM), log_snr": {"predictor": "exponential", "timestep_spacing": "log_snr"},
    "exponential (DDIM), linspace": {"predictor": "exponential"},
    "ancestral, karras": {"predictor": "ancestral", "timestep_spacing": "karras"},
    "ancestral (DDPM), linspace": {"predictor": "ancestral"},
    "reverse_diffusion, linspace": {"predictor": "reverse_diffusion"},
    "reverse_diffusion + langevin, linspace": {
        "predictor": "reverse_diffusion",
        "corrector": "annealed_langevin",
        "snr": 0.1,
    },
    "euler_maruyama, linspace": {"predictor": "euler_maruyama"},
}


def write(figure: Any, name: str) -> None:
    """`docs/images/<name>.png`, with 128 colours: a fifth of the size."""
    figure.savefig(IMAGES / f"{name}.png", dpi=100)
    plt.close(figure)
    reduce_colors(f"{name}.png")


def reduce_colors(name: str) -> None:
    """Saves a picture with 128 colours."""
    with Image.open(IMAGES / name) as picture:
        picture.convert("RGB").quantize(128).save(IMAGES / name, optimize=True)


def noise_levels() -> None:
    """alpha, sigma and log-SNR of the three SDEs."""
    t = torch.linspace(1e-3, 1, 400).double()
    figure, axes = plt.subplots(1, 3, figsize=(11, 2.9), layout="constrained")
    for name, sde in SDES.items():
        for axis, values in zip(axes, (sde.alpha(t), sde.sigma(t), sde.log_snr(t))):
            axis.plot(t, values, label=name)
    for axis, title in zip(axes, ("alpha(t)", "sigma(t)", "log-SNR(t)")):
        axis.set(title=title, xlabel="t")
    axes[1].set_yscale("log")
    axes[0].legend()
    write(figure, "mathematics_sdes")


def classes(rows: int = 4) -> None:
    """Both shipped models side by side, one column per class: the first samples of seed 0, guidance 2."""
    grids = []
    for model in ("emoji-32-ve", "fashion-mnist-32-vp"):
        pipe = ScoreSdeClassConditionalPipeline.from_pretrained(model)
        labels, generator = list(range(pipe.num_classes)) * rows, torch.Generator().manual_seed(0)
        images = pipe(labels, 2.0, 50, generator=generator, output_type="pt").images.expand(-1, 3, -1, -1)
        grids.append(image_grid((images * 255).round().to(torch.uint8), columns=pipe.num_classes, scale=2))
    picture = Image.new("RGB", (sum(grid.width for grid in grids) + 8, grids[0].height), "white")
    picture.paste(grids[0], (0, 0))
    picture.paste(grids[1], (grids[0].width + 8, 0))
    picture.save(IMAGES / "shipped.png", optimize=True)


def trajectories() -> None:
    """A GIF of each shipped model, drawn from the weights that are installed."""
    for model in ("emoji-32-ve", "fashion-mnist-32-vp"):
        viz("trajectory", f"trajectory_{model}.gif", "--model", model)


def restorations(model: str = "emoji-32-ve") -> None:
    """Four samples of a shipped model: colored as one picture on tiles, and deblurred; prints the PSNR of the latter."""
    sample, draw = ScoreSdePipeline.from_pretrained(model), torch.Generator()
    truth = sample(4, 20, generator=draw.manual_seed(1), output_type="pt", quality="draft").images
    # Shifted, so that the tiles' borders go through the objects.
    photo = truth.unflatten(0, (2, 2)).permute(2, 0, 3, 1, 4).reshape(1, 3, 64, 64).roll((11, 9), (2, 3))
    gray, shown = photo.mean(1, keepdim=True), [photo]
    color = ScoreSdeColorizationPipeline.from_pipe(sample)
    options: dict[str, Any] = {"num_inference_steps": 12, "solver_iterations": 1, "output_type": "pt"}
    for overlap in (0, 16):
        tiles = {"tile_size": 32, "tile_overlap": overlap}
        shown.append(color(gray, **tiles, **options, generator=draw.manual_seed(0)).images)
    save_pictures(torch.cat([gray.expand(-1, 3, -1, -1), *shown]), "tiles.png", columns=4)
    blur = BlurOperator.gaussian(1.5)
    blurred = blur.measure(truth, noise_std=0.01, generator=draw.manual_seed(0))
    restore, options = ScoreSdeInverseProblemPipeline.from_pipe(sample), {"quality": "draft", "output_type": "pt"}
    sharp = restore(blurred, blur, 0.01, generator=draw.manual_seed(0), **options)
    for name, images in (("blurred", blurred.clamp(0, 1)), (f"restored, {sharp.nfe} evaluations", sharp.images)):
        print(f"{name}: PSNR {-10 * torch.log10((images - truth).square().mean()):.1f} dB")
    save_pictures(torch.cat([truth, blurred.clamp(0, 1), sharp.images]), "deblurring.png", columns=4)


def save_pictures(images: torch.Tensor, name: str, columns: int) -> None:
    """`docs/images/<name>` of images (n, 3, H, W) in [0, 1], each pixel two pixels wide."""
    image_grid((images * 255).round().to(torch.uint8).cpu(), columns=columns, scale=2).save(IMAGES / name)
    reduce_colors(name)


def screenshot() -> None:
    """The page of `scoresde app`; without a browser the old picture stays, and the reason is printed."""
    try:
        import page_screenshot

        page_screenshot.main()
    except Exception as error:  # of three packages and a browser: any of them may be missing
        print(f"app.png is not drawn again: {type(error).__name__}: {error}")


def viz(command: str, name: str, *options: str) -> None:
    """`docs/images/<name>` by a command of `scoresde_pipelines.viz`."""
    draw_picture([command, "--output", str(IMAGES / name), *options])
    if name.endswith(".png"):
        reduce_colors(name)


def distance(x: torch.Tensor) -> float:
    """Wasserstein-2 distance of Gaussian samples (B, 64) to the data, whose coordinates are independent."""
    mean, std = SPECTRUM.means[0], SPECTRUM.eigenvalues[0].sqrt()
    return float(((x.mean(0) - mean) ** 2 + (x.std(0) - std) ** 2).sum().sqrt())


def quality_against_calls(samples: int = 8000) -> dict[str, dict[str, float]]:
    """The distance of every sampler under the VP SDE at several numbers of network calls."""
    table: dict[str, dict[str, float]] = {}
    for name, options in SAMPLERS.items():
        scheduler, row = VPSDEScheduler(continuous=True, **options), {}
        score_fn = partial(_score, scheduler.sde)
        for calls in CALLS:
            scheduler.set_timesteps((calls + 1) // 2 if "heun" in name else calls // scheduler.order)
            x = torch.randn(samples, 64, generator=torch.Generator().manual_seed(0)).double()
            row[str(calls)] = distance(sampling_loop(scheduler, score_fn, x, torch.Generator().manual_seed(1)))
        table[name] = row
    table["exact samples"] = {"any": distance(SPECTRUM.sample(samples, torch.Generator().manual_seed(2)))}
    return table


def _score(sde: SDE, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return SPECTRUM.score(sde, x, t)


def draw_calls(table: dict[str, dict[str, float]]) -> None:
    """The table as curves."""
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for name, row in table.items():
        if name != "exact samples":
            axis.plot(CALLS, [row[str(calls)] for calls in CALLS], marker="o", markersize=3, label=name)
    axis.axhline(table["exact samples"]["any"], color="gray", linestyle=":", label="exact samples")
    axis.set(xscale="log", yscale="log", xlabel="network calls", ylabel="distance W2 to the data")
    axis.set_xticks(CALLS, [str(calls) for calls in CALLS])
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    write(figure, "calls")


def main() -> None:
    """Draws the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["models", "mathematics"], help="one kind of pictures; all by default")
    only = parser.parse_args().only
    if only != "mathematics":
        classes()
        trajectories()
        restorations()
        screenshot()
    if only != "models":
        mathematics()


def mathematics() -> None:
    """The figures of known data."""
    viz("marginals", "mathematics_paths.png")
    noise_levels()
    viz("score-field", "mathematics_score.png")
    table = quality_against_calls()
    for name, row in table.items():
        print(f"{name:40s}", *(f"{calls}: {value:.2g}" for calls, value in row.items()))
    save("calls", table)
    draw_calls(table)


if __name__ == "__main__":
    main()
