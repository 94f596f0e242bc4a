"""Posterior samplers where the posterior is known: the Gaussian figures and the mixture table of docs/inverse_problems.md.

    python benchmarks/posterior.py gaussians
    python benchmarks/posterior.py mixture --problems 10

Gaussians: an affine sampler is measured by regression on its starting noise, without Monte Carlo error; the replacement
method by 20,000 samples. Mixture: 25 components with unit covariance and means (-8 i, -8 j), i, j in -2..2, repeated to
d_x = 8; y = A x + noise with a random A (Cardoso et al. 2023, "Monte Carlo guided denoising diffusion models"); the
figure is the max-sliced Wasserstein-2 distance of 1000 samples to 10,000 exact ones, the median over random problems.
Published figures are printed beside ours.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor


ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "pipelines_tests")]

from gaussian_posteriors import (  # noqa: E402
    RANGE,
    SCHEDULERS,
    MatrixOperator,
    Moments,
    autoregressive,
    posterior,
    regress,
)

from scoresde_pipelines import (  # noqa: E402
    GaussianMixtureScoreModel,
    GaussianScoreModel,
    ScoreSdeInverseProblemPipeline,
    VESDEScheduler,
)


PUBLISHED = {"DDRM": (29.7, 13.6, 0.49), "DPS": (27.2, 18.7, 12.4), "MCGDiff, 128 particles": (5.2, 4.3, 0.18)}
REACH = 20.0  # half the range of the mixture's coordinates, about
METHODS = {
    "moment matching": {"method": "moment_matching", "num_inference_steps": 30},
    "pseudo-inverse": {"method": "pseudo_inverse", "num_inference_steps": 50},
    "replacement": {"method": "replacement", "num_inference_steps": 300},
    "twisted SMC, 2000 particles": {"method": "twisted_smc", "num_inference_steps": 150, "num_samples": 2000},
}


def pipeline_for(
    data: GaussianMixtureScoreModel, scheduler, reach: float | None = None
) -> ScoreSdeInverseProblemPipeline:
    """With data in [-reach, reach], or in image units."""
    limits = RANGE if reach is None else {"data_min": -reach, "data_max": reach}
    pipe = ScoreSdeInverseProblemPipeline(data.network(scheduler), scheduler, **limits)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---------------------------------------------------------------------- Gaussians


def gaussian_cases():
    """Name, covariance, matrix, noise."""
    for rho in (0.5, 0.9, 0.99):
        yield f"2-D, rho {rho}", autoregressive(2, rho), torch.eye(2)[:1], 0.0
    for rho in (0.9, 0.99):
        covariance = autoregressive(64, rho)
        matrices = {
            "half known": torch.eye(64)[:32],
            "hole": torch.cat([torch.eye(64)[:21], torch.eye(64)[42:]]),
            "pooled by 4": torch.eye(64).reshape(16, 4, 64).mean(1),
        }
        for what, matrix in matrices.items():
            for noise_std in (0.0, 0.03, 0.1):
                yield f"64-D, rho {rho}, {what}, noise {noise_std:g}", covariance, matrix, noise_std


def shape_of(covariance: Tensor) -> tuple[int, int, int]:
    return (1, 1, 2) if len(covariance) == 2 else (1, 8, 8)


def row(name: str, method: str, sde: str, nfe: int, ours: Moments, truth: Moments) -> None:
    ratios = ours.variance_ratios(truth)
    error = float((ours.mean - truth.mean).abs().max())
    print(
        f"| {name} | {method} | {sde} | {nfe} | {error:.4f} | {float(ratios.min()):.3f} .. {float(ratios.max()):.3f} "
        f"| {ours.kl_to(truth):.4f} |",
        flush=True,
    )


def gaussians() -> None:
    print("| posterior | method | SDE | evaluations | largest error of the mean | variance ratios | KL, nats |")
    print("|---|---|---|---|---|---|---|")
    for name, covariance, matrix, noise_std in gaussian_cases():
        torch.manual_seed(0)
        shape = shape_of(covariance)
        x0 = torch.linalg.cholesky(covariance) @ torch.randn(len(covariance), dtype=torch.float64)
        y = (matrix.double() @ x0 + noise_std * torch.randn(len(matrix), dtype=torch.float64)).float()
        y = torch.ones(1) if len(y) == 1 else y
        # An exact measurement leaves a density on its complement alone.
        rows = torch.linalg.svd(matrix.double(), full_matrices=True)[2][len(matrix) :]
        rows = rows if noise_std == 0 else torch.eye(len(covariance), dtype=torch.float64)
        truth = posterior(covariance, matrix, y, noise_std).projected(rows)
        data = GaussianScoreModel(torch.zeros(shape), covariance=covariance)
        for sde, make in SCHEDULERS.items():
            half = torch.randn(256, *shape)
            noise = torch.cat([half, -half])
            out = pipeline_for(data, make(), 1.0)(
                (y + matrix.sum(1))[None] / 2,  # in image units, of which one is 2
                MatrixOperator(matrix, shape),
                noise_std / 2,
                num_samples=512,
                latents=noise,
                output_type="latent",
            )
            row(name, "moment matching", sde, out.nfe, regress(noise, out.images).projected(rows), truth)
        if len(covariance) == 2:
            replacement(name, data, matrix, y, rows, truth)


def replacement(name: str, data, matrix: Tensor, y: Tensor, rows: Tensor, truth: Moments) -> None:
    for corrector in (None, "langevin"):
        for steps in (100, 1000):
            scheduler = SCHEDULERS["ve"](corrector=corrector, snr=0.16, batch_mean_norm=True)
            out = pipeline_for(data, scheduler)(
                y[None],
                MatrixOperator(matrix, (1, 1, 2)),
                method="replacement",
                num_inference_steps=steps,
                num_samples=20_000,
                output_type="latent",
            )
            x = out.images.flatten(1).double()
            ours = Moments(x.mean(0), torch.cov(x.T)).projected(rows)
            row(name, f"replacement, {corrector or 'no corrector'}", "ve", out.nfe, ours, truth)


# ---------------------------------------------------------------------- mixture


def mixture() -> GaussianMixtureScoreModel:
    grid = [torch.tensor([-8.0 * i, -8.0 * j]).repeat(4) for i in range(-2, 3) for j in range(-2, 3)]
    weights = torch.distributions.Chi2(1.0).sample((25,))  # as in the reference: random weights
    return GaussianMixtureScoreModel(weights / weights.sum(), torch.stack(grid).reshape(25, 1, 2, 4), 1.0)


def problem(data: GaussianMixtureScoreModel, d_y: int) -> tuple[Tensor, Tensor, float]:
    """A random matrix (d_y, 8) with singular values in (0, 1], one of its measurements, and the noise."""
    u, _, v = torch.linalg.svd(torch.randn(d_y, 8), full_matrices=False)
    singular = torch.sort(torch.rand(d_y), descending=True).values
    matrix, noise_std = u @ torch.diag(singular) @ v, float(torch.rand(()) * singular.max())
    x0 = data.sample(1).float().flatten()
    return matrix, matrix @ x0 + noise_std * torch.randn(d_y), noise_std


def max_sliced_w2(a: Tensor, b: Tensor, slices: int = 2000) -> float:
    """The largest one-dimensional Wasserstein-2 distance over random directions, for samples (n, d) and (k n, d)."""
    directions = torch.nn.functional.normalize(torch.randn(a.shape[1], slices, dtype=a.dtype), dim=0)
    worst = 0.0
    for chunk in directions.split(500, dim=1):
        left = (a @ chunk).sort(dim=0).values.repeat_interleave(len(b) // len(a), dim=0)
        right = (b @ chunk).sort(dim=0).values
        worst = max(worst, float((left - right).square().mean(0).max().sqrt()))
    return worst


def mixtures(problems: int) -> None:
    results: dict[str, dict[int, list[float]]] = {}
    cost: dict[str, int] = {}
    for seed in range(problems):
        for d_y in (1, 2, 4):
            torch.manual_seed(100 * seed + d_y)
            data = mixture()
            matrix, y, noise_std = problem(data, d_y)
            exact = data.posterior(matrix, y, noise_std)
            truth = exact.sample(10_000).flatten(1)
            results.setdefault("exact samples", {}).setdefault(d_y, []).append(
                max_sliced_w2(exact.sample(1000).flatten(1), truth)
            )
            for name, options in METHODS.items():
                scheduler = VESDEScheduler(sigma_max=200.0, corrector="langevin", batch_mean_norm=True)
                # The same measurement in image units, of which one is 2 REACH.
                out = pipeline_for(data, scheduler, REACH)(
                    (y + REACH * matrix.sum(1))[None] / (2 * REACH),
                    MatrixOperator(matrix, (1, 2, 4)),
                    noise_std / (2 * REACH),
                    output_type="latent",
                    **{"num_samples": 1000, **options},
                )
                cost[name] = max(cost.get(name, 0), out.nfe)
                chosen = out.images[torch.randperm(len(out.images))[:1000]]
                distance = max_sliced_w2(chosen.flatten(1).double(), truth)
                results.setdefault(name, {}).setdefault(d_y, []).append(distance)
        print(f"{seed + 1}/{problems} problems", file=sys.stderr, flush=True)
    print("| method | evaluations | d_y = 1 | d_y = 2 | d_y = 4 |\n|---|---|---|---|---|")
    for name, distances in results.items():
        cells = " | ".join(f"{statistics.median(distances[d_y]):.2f}" for d_y in (1, 2, 4))
        print(f"| {name} | {cost.get(name, '')} | {cells} |")
    for name, figures in PUBLISHED.items():
        print(f"| {name} (published) | | " + " | ".join(map(str, figures)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("gaussians", "mixture"))
    parser.add_argument("--problems", type=int, default=10, help="random problems for the mixture's medians")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    gaussians() if args.what == "gaussians" else mixtures(args.problems)
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
