"""Figures of data whose score is known, after the paper's figure 2, and of measured quality."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models import GaussianMixtureScoreModel
from ..schedulers import SDEScheduler
from ..schedulers.checks import check_instance, check_integer, check_number, check_numbers
from ..training.evaluation.report import plot_quality as draw_quality
from ..training.evaluation.result import EvaluationResult
from .trajectories import Trajectory, record_trajectory


PATHS = "#b03030"
EXTENTS = (1e-6, 1e6)
SMALLEST = 1e-3  # of T: the densities are drawn from here, since data at points have none at t = 0


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, sizes in inches, which no window shows.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'scoresde_pipelines[viz]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def plot_marginals(
    data: GaussianMixtureScoreModel,
    scheduler: SDEScheduler,
    num_paths: int = 24,
    num_steps: int = 400,
    extent: float | None = None,
    seed: int = 3,
) -> Any:
    """The paper's figure 2: the density of 1-D data over time, under paths of the SDE, of its reverse and of the ODE.

    Shading is the square root of p_t(x), relative to its largest value at each t. The paths from noise are those of the
    package's samplers "reverse_diffusion" and "exponential"; the score is exact.

    Args:
        data: over states of shape (1,).
        scheduler: its SDE is shown; it is left as it is.
        num_paths: paths of the ODE, from evenly spread noise. Of each SDE a third of that number is drawn, since noisy paths
            hide each other.
        num_steps: noise levels of each path.
        extent: x is shown in [-extent, extent]; by default three standard deviations of p_t at the widest.
        seed: of all noise.

    Returns:
        A `matplotlib.figure.Figure` with three axes and one line per path.

    Raises:
        ImportError: without matplotlib.
        ValueError: for data that are not 1-D.
    """
    _check_figure(data, 1, scheduler, seed)
    extent = None if extent is None else check_number("extent", extent, *EXTENTS)
    check_integer("num_paths", num_paths)
    check_integer("num_steps", num_steps, 2)
    sde = scheduler.sde
    times = torch.linspace(SMALLEST * sde.T, sde.T, 300, dtype=torch.float64)
    extent = extent or _extent(data, scheduler, times)
    x = torch.linspace(-extent, extent, 400, dtype=torch.float64)
    density = torch.stack([_shade(data.log_prob(sde, x[:, None], t)) for t in times], dim=1)
    generator = torch.Generator().manual_seed(int(seed))
    noisy = max(1, num_paths // 3)
    noise = torch.randn(noisy, 1, generator=generator, dtype=torch.float64)
    spread = torch.linspace(-1.9, 1.9, num_paths, dtype=torch.float64)[:, None]
    panels = [
        ("forward SDE: data to noise (eq. 5)", *forward_paths(data, scheduler, noisy, num_steps, generator)),
        ("reverse SDE: noise to data (eq. 6)", *reverse_paths(data, scheduler, noise, num_steps, True, generator)),
        ("probability-flow ODE (eq. 13)", *reverse_paths(data, scheduler, spread, num_steps, False)),
    ]
    figure = new_figure(11, 3.2)
    for number, (axes, (title, t, paths)) in enumerate(zip(figure.subplots(1, 3, sharey=True), panels)):
        axes.pcolormesh(times, x, density, cmap="Blues", shading="gouraud", rasterized=True)
        axes.plot(t, paths[..., 0], color=PATHS, linewidth=0.6)
        limits = (0, sde.T) if number == 0 else (sde.T, 0)
        axes.set(title=title, xlabel="t", xlim=limits, ylim=(-extent, extent))
    figure.axes[0].set_ylabel("x")
    return figure


def plot_score_field(
    data: GaussianMixtureScoreModel,
    scheduler: SDEScheduler,
    times: tuple[float, ...] = (0.05, 0.2, 0.5),
    num_samples: int = 200,
    extent: float = 2.0,
    seed: int = 0,
) -> Any:
    """Density and score of 2-D data at several times, with samples of the forward SDE above and of a sampler below.

    The arrows are sigma(t) times the score. Where the lower samples follow the shading, the sampler keeps the marginals.

    Args:
        data: over states of shape (2,).
        scheduler: its SDE and its sampler are shown, with 400 levels; it is left as it is.
        times: in (0, T].
        num_samples: points in each panel.
        extent: both coordinates are shown in [-extent, extent].
        seed: of all noise.

    Returns:
        A `matplotlib.figure.Figure` of two rows, one axes for each time in each.

    Raises:
        ImportError: without matplotlib.
        ValueError: for data that are not 2-D, or times outside (0, T].
    """
    _check_figure(data, 2, scheduler, seed)
    extent = check_number("extent", extent, *EXTENTS)
    times = tuple(check_numbers("times", times, 0, scheduler.sde.T, ends="(]"))
    check_integer("num_samples", num_samples)
    sde, generator = scheduler.sde, torch.Generator().manual_seed(int(seed))
    fine, coarse = _plane(extent, 120), _plane(0.9 * extent, 13)
    clean = data.sample(num_samples, generator)
    noise = torch.randn(num_samples, 2, generator=generator, dtype=torch.float64)
    run = _run(data, scheduler, torch.randn(clean.shape, generator=generator, dtype=torch.float64), 400, generator)
    figure = new_figure(3.2 * len(times), 6.2)
    grid = figure.subplots(2, len(times), sharex=True, sharey=True, squeeze=False)
    for column, t in enumerate(torch.tensor(times, dtype=torch.float64)):
        mean, std = sde.marginal(clean, t)
        density = _shade(data.log_prob(sde, fine, t)).reshape(120, 120)
        arrows = sde.sigma(t) * data.score(sde, coarse, t)
        nearest = run.states[(run.times - t).abs().argmin()]
        for axes, points, name in zip(grid[:, column], (mean + std * noise, nearest), ("forward", "sampler")):
            axes.pcolormesh(fine[:120, 0], fine[:120, 0], density, cmap="Blues", shading="gouraud", rasterized=True)
            axes.quiver(*coarse.T, *arrows.T, color=PATHS, width=0.005, angles="xy")
            axes.scatter(*points.T, s=3, color="black", linewidths=0)
            axes.set(title=f"{name}, t = {t:g}", aspect="equal", xlim=(-extent, extent), ylim=(-extent, extent))
    return figure


def plot_quality(results: str | Path, path: str | Path) -> None:
    """Every measured figure of an evaluation against network calls, as the evaluation's own `quality.png`.

    Args:
        results: the folder of an evaluation, or its `results.json`.
        path: the picture to write.

    Raises:
        ImportError: without matplotlib.
        FileNotFoundError: without `results.json`.
    """
    new_figure(1, 1)  # the message that names the extra
    results = Path(results)
    draw_quality(EvaluationResult.load(results.parent if results.suffix == ".json" else results), Path(path))


def forward_paths(
    data: GaussianMixtureScoreModel,
    scheduler: SDEScheduler,
    num_paths: int,
    num_steps: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Times (K,) and exact paths (K, num_paths, *D) of the forward SDE from data."""
    sde = scheduler.sde
    times = torch.linspace(SMALLEST * sde.T, sde.T, num_steps, dtype=torch.float64)
    mean, std = sde.marginal(data.sample(num_paths, generator), times[0])
    paths = [mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)]
    for t, s in pairwise(times):
        scale, std = sde.transition(s, t)
        paths.append(scale * paths[-1] + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype))
    return times, torch.stack(paths)


def reverse_paths(
    data: GaussianMixtureScoreModel,
    scheduler: SDEScheduler,
    noise: Tensor,
    num_steps: int,
    stochastic: bool,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Times (K + 1,) and paths (K + 1, B, *D) from unit noise (B, *D): of the reverse SDE, or of the ODE.

    They end at time 0 with the denoised states.
    """
    predictor = "reverse_diffusion" if stochastic else "exponential"
    options: dict[str, Any] = {"predictor": predictor, "corrector": None, "timestep_spacing": "linspace"}
    run = _run(data, scheduler, noise, num_steps, generator, **options)
    return torch.cat([run.times, torch.zeros(1).double()]), torch.cat([run.states, run.result[None]])


def _run(
    data: GaussianMixtureScoreModel,
    scheduler: SDEScheduler,
    noise: Tensor,
    num_steps: int,
    generator: torch.Generator | None,
    **options: Any,
) -> Trajectory:
    own: Any = type(scheduler).from_config(scheduler.config, **options)
    own.set_timesteps(num_steps)
    return record_trajectory(own, lambda x, t: data.score(own.sde, x, t), noise * own.init_noise_sigma, generator)


def _check_figure(data: GaussianMixtureScoreModel, size: int, scheduler: SDEScheduler, seed: int) -> None:
    check_instance("data", data, GaussianMixtureScoreModel)
    check_instance("scheduler", scheduler, SDEScheduler)
    check_integer("seed", seed, 0, 2**63 - 1)
    if data.shape != (size,):
        raise ValueError(f"data must have states of shape ({size},), got {data.shape}")


def _shade(log_prob: Tensor) -> Tensor:
    # The square root shows weak modes; relative to the largest value, all noise levels are seen.
    return (0.5 * (log_prob - log_prob.max())).exp()


def _plane(extent: float, count: int) -> Tensor:
    values = torch.linspace(-extent, extent, count, dtype=torch.float64)
    return torch.stack(torch.meshgrid(values, values, indexing="xy"), dim=-1).reshape(-1, 2)


def _extent(data: GaussianMixtureScoreModel, scheduler: SDEScheduler, times: Tensor) -> float:
    clean = float((data.means.abs() + 3 * data.eigenvalues.sqrt()).max())
    alpha, sigma = scheduler.sde.alpha(times), scheduler.sde.sigma(times)
    return float((((alpha * clean) ** 2) + (3 * sigma) ** 2).sqrt().max())


__all__ = ["plot_marginals", "plot_quality", "plot_score_field"]
