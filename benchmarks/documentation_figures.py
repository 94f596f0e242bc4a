"""The figures of the documentation, from data whose scores are known.

`python benchmarks/documentation_figures.py` draws `docs/images/mathematics_*.png` and `docs/images/calls.png`, and
writes the numbers of the last one to `benchmarks/results/calls.json`. A minute of one CPU core.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from result_file import save

from scoresde_pipelines import (
    SDE,
    GaussianMixtureScoreModel,
    GaussianScoreModel,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
    sampling_loop,
)


matplotlib.use("Agg")
from matplotlib import pyplot as plt


IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
DATA = GaussianMixtureScoreModel(weights=[0.35, 0.65], means=[[-0.7], [0.6]], variances=[0.01, 0.03])
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
    Image.open(IMAGES / f"{name}.png").convert("RGB").quantize(128).save(IMAGES / f"{name}.png", optimize=True)


def forward_and_reverse() -> None:
    """The paper's figure 2 for two modes: densities, paths of both SDEs, and of the probability-flow ODE."""
    sde, grid, times = (
        SDES["VP"],
        torch.linspace(-2.5, 2.5, 400)[:, None].double(),
        torch.linspace(1e-3, 1, 300).double(),
    )
    density = np.stack([DATA.log_prob(sde, grid, t).exp().sqrt().numpy() for t in times], axis=1)
    generator, steps = torch.Generator().manual_seed(3), torch.linspace(1, 1e-3, 400).double()
    noise = torch.randn(len(steps), 24, 1, generator=generator).double()
    forward = [DATA.sample(24, generator)]
    for t, s, z in zip(steps.flip(0)[:-1], steps.flip(0)[1:], noise):
        scale, std = sde.transition(s, t)
        forward.append(scale * forward[-1] + std * z)
    start = torch.linspace(-1.9, 1.9, 24).double()[:, None]
    reverse, flow = [start], [start]
    for t, s, z in zip(steps[:-1], steps[1:], noise):
        for path, share in ((reverse, 1.0), (flow, 0.5)):
            x, g = path[-1], sde.diffusion(t)
            drift = sde.drift(x, t) - share * g**2 * DATA.score(sde, x, t)
            path.append(x + drift * (s - t) + (g * (t - s).sqrt() * z if path is reverse else 0.0))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True, layout="constrained")
    panels = (
        ("forward SDE: data to noise (eq. 5)", steps.flip(0), forward),
        ("reverse SDE: noise to data (eq. 6)", steps, reverse),
        ("probability-flow ODE (eq. 13)", steps, flow),
    )
    for axis, (title, t, path) in zip(axes, panels):
        axis.pcolormesh(times, grid[:, 0], density, cmap="Blues", shading="gouraud", rasterized=True)
        every = 1 if path is flow else 3
        axis.plot(t, torch.stack(path)[:, ::every, 0], color="#b03030", linewidth=0.6)
        axis.set(title=title, xlabel="t", xlim=(0, 1) if path is forward else (1, 0), ylim=(-2.5, 2.5))
    axes[0].set_ylabel("x")
    write(figure, "mathematics_paths")


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


def score_field() -> None:
    """Score and density of two modes in the plane at three noise levels."""
    data = GaussianMixtureScoreModel(weights=[0.4, 0.6], means=[[-0.8, -0.3], [0.7, 0.4]], variances=[0.02, 0.06])
    axis_values = torch.linspace(-2, 2, 120).double()
    points = torch.stack(torch.meshgrid(axis_values, axis_values, indexing="xy"), dim=-1).reshape(-1, 2)
    coarse = torch.linspace(-1.8, 1.8, 13).double()
    arrows = torch.stack(torch.meshgrid(coarse, coarse, indexing="xy"), dim=-1).reshape(-1, 2)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.3), sharey=True, layout="constrained")
    for axis, t in zip(axes, (0.05, 0.2, 0.5)):
        sde = SDES["VP"]
        density = data.log_prob(sde, points, t).exp().sqrt().reshape(120, 120)
        direction = sde.sigma(torch.tensor(t).double()) * data.score(sde, arrows, t)
        axis.pcolormesh(axis_values, axis_values, density, cmap="Blues", shading="gouraud", rasterized=True)
        axis.quiver(*arrows.T, *direction.T, color="#b03030", width=0.004, angles="xy")
        axis.set(title=f"sigma(t) times the score, t = {t}", aspect="equal")
    write(figure, "mathematics_score")


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
    """Draws everything."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    forward_and_reverse()
    noise_levels()
    score_field()
    table = quality_against_calls()
    for name, row in table.items():
        print(f"{name:40s}", *(f"{calls}: {value:.2g}" for calls, value in row.items()))
    save("calls", table)
    draw_calls(table)


if __name__ == "__main__":
    main()
