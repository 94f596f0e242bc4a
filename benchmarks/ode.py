"""The probability-flow ODE here against the official way: SciPy's RK45 on dx/dt, one error norm for the batch.

    python benchmarks/ode.py sampling              # evaluations and wall time at equal error, VE, VP, sub-VP
    python benchmarks/ode.py variance              # trace estimators at equal vector-Jacobian products
    python benchmarks/ode.py variance --model FOLDER --data DATA --fit pad    # the same on a trained network
    python benchmarks/ode.py network --model FOLDER                           # sampling with a trained network

Closed-form data: a mixture of ten Gaussians over 8 x 8 images whose pixels are correlated. Needs scipy.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde_pipelines import ScoreSdeLikelihoodPipeline
from scoresde_pipelines.models import GaussianMixtureScoreModel
from scoresde_pipelines.schedulers import SDE, VESDE, VPSDE, SubVPSDE, log_likelihood, solve_probability_flow


Score = Callable[[Tensor, Tensor], Tensor]
SDES: dict[str, tuple[SDE, float]] = {
    "VE": (VESDE(0.01, 50.0), 1e-5),
    "VP": (VPSDE(), 1e-3),
    "sub-VP": (SubVPSDE(), 1e-3),
}


def image_mixture(side: int = 8, components: int = 10) -> GaussianMixtureScoreModel:
    """Smooth mean images and smooth deviations from them."""
    generator = torch.Generator().manual_seed(0)
    i = torch.arange(side, dtype=torch.float64)
    line = torch.exp(-(i[:, None] - i[None]).abs() / 3)
    covariance = torch.kron(line, line)
    root = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(side**2))
    means = 0.4 * torch.randn(components, side**2, dtype=torch.float64, generator=generator) @ root.T
    spread = torch.linspace(0.02, 0.1, components, dtype=torch.float64)[:, None, None]
    covariances = spread * covariance + 4e-4 * torch.eye(side**2)
    return GaussianMixtureScoreModel(torch.ones(components), means.reshape(-1, 1, side, side), covariances=covariances)


def official(score: Score, sde: SDE, x: Tensor, start: float, end: float, tolerance: float, method: str = "RK45"):
    """The official sampler's ODE: the state as one vector in NumPy. Returns the states and the evaluations."""

    def drift(t: float, flat: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(flat.reshape(x.shape)).to(x)
        time_ = torch.full((len(x),), t, dtype=x.dtype)
        g = sde.diffusion(time_).reshape(-1, *(1,) * (x.ndim - 1))
        with torch.no_grad():
            value = sde.drift(state, time_) - 0.5 * g**2 * score(state, time_)
        return value.double().numpy().ravel()

    solution = solve_ivp(
        drift, (start, end), x.double().numpy().ravel(), rtol=tolerance, atol=tolerance, method=method
    )
    return torch.from_numpy(solution.y[:, -1].reshape(x.shape)), solution.nfev


def sampling(batch: int = 16) -> None:
    data = image_mixture()
    print("SDE     solver   tolerance   NFE   rms error   seconds")
    for name, (sde, eps) in SDES.items():
        x = (
            torch.randn(batch, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            * sde.prior_std
        )
        score = lambda x, t, sde=sde: data.score(sde, x, t)  # noqa: E731
        exact, _ = official(score, sde, x, 1.0, eps, 1e-11, "DOP853")
        for tolerance in (1e-3, 1e-4, 1e-5, 1e-6):
            for solver in ("RK45", "ours"):
                begin = time.perf_counter()
                if solver == "RK45":
                    result, nfe = official(score, sde, x, 1.0, eps, tolerance)
                else:
                    solution = solve_probability_flow(score, sde, x, 1.0, eps, tolerance=tolerance)
                    result, nfe = solution.x, float(solution.nfe.double().mean())
                seconds = time.perf_counter() - begin
                error = float((result - exact).square().mean().sqrt())
                print(f"{name:7s} {solver:8s} {tolerance:7.0e} {nfe:8.1f}   {error:.1e}     {seconds:.2f}")


def network(folder: str, batch: int = 4) -> None:
    """Sampling with a trained network; the truth is the official solver at 1e-7 in float64 states."""
    pipe = ScoreSdeLikelihoodPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    sde, score, eps = pipe.scheduler.sde, pipe.scheduler.score_fn(pipe.network), pipe.scheduler.smallest_time
    x = torch.randn(batch, *pipe.sample_shape, generator=torch.Generator().manual_seed(1)) * sde.prior_std
    with torch.no_grad():
        exact = solve_probability_flow(score, sde, x, 1.0, eps, tolerance=1e-7).x
    print("solver   tolerance   NFE   rms error   seconds")
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        for solver in ("RK45", "ours"):
            begin = time.perf_counter()
            if solver == "RK45":
                result, nfe = official(score, sde, x, 1.0, eps, tolerance)
            else:
                solution = solve_probability_flow(score, sde, x, 1.0, eps, tolerance=tolerance)
                result, nfe = solution.x, float(solution.nfe.double().mean())
            seconds = time.perf_counter() - begin
            error = float((result - exact).square().mean().sqrt())
            print(f"{solver:8s} {tolerance:7.0e} {nfe:8.1f}   {error:.1e}     {seconds:.2f}")


def variance(score: Score, sde: SDE, x: Tensor, probes: int, tolerance: float) -> None:
    """Variance of one-probe estimates of each kind, from `probes` independent ones for the same images.

    A one-probe estimate of either kind takes the same vector-Jacobian products.
    """
    bits, spread = x[0].numel() * math.log(2), {}
    for name in ("hutchinson_shared", "hutchinson"):
        result = log_likelihood(
            score,
            sde,
            x,
            divergence=name,
            num_probes=probes,
            tolerance=tolerance,
            generator=torch.Generator().manual_seed(0),
        )
        spread[name] = float(result.probe_error.square().mean()) * probes / bits**2
        print(
            f"{name:18s} one probe: rms error {spread[name] ** 0.5:.5f} bits/dim, "
            f"NFE {float(result.nfe.double().mean()):.0f}",
            flush=True,
        )
    ratio = spread["hutchinson_shared"] / spread["hutchinson"]
    print(f"new probes at every node: {ratio:.1f} x less variance than one shared probe, at the same products")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sampling", "variance", "network"))
    parser.add_argument("--model", help="a pipeline folder")
    parser.add_argument("--data", help="images for `variance --model`")
    parser.add_argument("--split", default="test")
    parser.add_argument("--fit", default="crop", choices=("crop", "pad"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.what == "sampling":
        sampling()
    elif arguments.what == "network":
        network(arguments.model)
    elif arguments.model is None:
        data, sde = image_mixture(), VPSDE()
        x = data.sample(arguments.images, torch.Generator().manual_seed(0))
        variance(lambda x, t: data.score(sde, x, t), sde, x, arguments.probes, arguments.tolerance)
    else:
        from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images, to_data_range

        pipe = ScoreSdeLikelihoodPipeline.from_pretrained(arguments.model)
        channels, side, _ = pipe.sample_shape
        table = load_images(train_data_dir=arguments.data, split=arguments.split)
        store = ImageStore(table, ImageFormat(side, channels, arguments.fit), max_cached_gb=0)
        x = to_data_range(store[list(range(arguments.images))], (pipe.config.data_min, pipe.config.data_max))
        score = pipe.scheduler.score_fn(pipe.network)
        variance(score, pipe.scheduler.sde, x, arguments.probes, arguments.tolerance)


if __name__ == "__main__":
    main()
