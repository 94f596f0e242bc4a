"""The probability-flow ODE here against the official way: SciPy's RK45 on dx/dt, one error norm for the batch.

    python benchmarks/ode.py sampling              # evaluations and wall time at equal error, VE, VP, sub-VP
    python benchmarks/ode.py variance              # trace estimators at equal vector-Jacobian products
    python benchmarks/ode.py variance --model FOLDER --data DATA --fit pad    # the same on a trained network
    python benchmarks/ode.py network --model fashion-mnist-32-vp --images 4 --tolerance 1e-6  # all solvers there are

Closed-form data: a mixture of ten Gaussians over 8 x 8 images whose pixels are correlated. Needs scipy; compares with
torchdiffeq and torchode where they are installed.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from result_file import save
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde_pipelines import ScoreSdeLikelihoodPipeline, shipped
from scoresde_pipelines.models import GaussianMixtureScoreModel
from scoresde_pipelines.schedulers import SDE, VESDE, VPSDE, SubVPSDE, log_likelihood, solve_probability_flow


Score = Callable[[Tensor, Tensor], Tensor]
SDES: dict[str, tuple[SDE, float]] = {
    "VE": (VESDE(0.01, 50.0), 1e-5),
    "VP": (VPSDE(), 1e-3),
    "sub-VP": (SubVPSDE(), 1e-3),
}


def image_mixture(seed: int = 0, side: int = 8, components: int = 10) -> GaussianMixtureScoreModel:
    """Smooth mean images and smooth deviations from them."""
    generator = torch.Generator().manual_seed(seed)
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


def sampling(seed: int, batch: int = 16) -> None:
    data = image_mixture(seed)
    print("SDE     solver   tolerance   NFE   rms error   median of the samples   seconds")
    for name, (sde, eps) in SDES.items():
        generator = torch.Generator().manual_seed(seed + 1)
        x = torch.randn(batch, 1, 8, 8, dtype=torch.float64, generator=generator) * sde.prior_std
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
                errors = (result - exact).flatten(1).square().mean(1)
                error, median = float(errors.mean().sqrt()), float(errors.median().sqrt())
                print(
                    f"{name:7s} {solver:8s} {tolerance:7.0e} {nfe:8.1f}   {error:.1e}     {median:.1e}     {seconds:.2f}"
                )


# ------------------------------------------------------------------ a trained network, all solvers


class Flow:
    """dx/dt of the probability flow, (B, *D), for solvers that know nothing of SDEs; counts its evaluations."""

    def __init__(self, score: Score, sde: SDE, shape: torch.Size):
        self.score, self.sde, self.shape, self.calls = score, sde, shape, 0

    def __call__(self, t: Tensor, flat: Tensor) -> Tensor:
        """`t` of shape () or (B,), `flat` (B, D)."""
        self.calls += 1
        x, time_ = flat.reshape(self.shape), t.to(flat).expand(len(flat))
        g = self.sde.diffusion(time_).reshape(-1, *(1,) * (x.ndim - 1))
        return (self.sde.drift(x, time_) - 0.5 * g**2 * self.score(x, time_)).reshape(flat.shape)


def with_scipy(score: Score, sde: SDE, x: Tensor, eps: float, tolerance: float) -> tuple[Tensor, float]:
    return official(score, sde, x, 1.0, eps, tolerance)


def with_ours(score: Score, sde: SDE, x: Tensor, eps: float, tolerance: float) -> tuple[Tensor, float]:
    solution = solve_probability_flow(score, sde, x, 1.0, eps, tolerance=tolerance)
    return solution.x, float(solution.nfe.double().mean())


def with_torchdiffeq(score: Score, sde: SDE, x: Tensor, eps: float, tolerance: float) -> tuple[Tensor, float]:
    """dopri5, one norm for the batch."""
    from torchdiffeq import odeint

    flow, times = Flow(score, sde, x.shape), torch.tensor([1.0, eps], dtype=torch.float64)
    states = odeint(flow, x.double().flatten(1), times, rtol=tolerance, atol=tolerance, method="dopri5")
    return states[-1].reshape(x.shape), flow.calls


def with_torchode(score: Score, sde: SDE, x: Tensor, eps: float, tolerance: float) -> tuple[Tensor, float]:
    """Dormand-Prince, a step size per sample; finished samples are still evaluated."""
    import torchode

    flow = Flow(score, sde, x.shape)
    term = torchode.ODETerm(flow)
    controller = torchode.IntegralController(tolerance, tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
    ends = torch.tensor([[1.0, eps]], dtype=torch.float64).expand(len(x), -1)
    solution = solver.solve(torchode.InitialValueProblem(y0=x.double().flatten(1), t_eval=ends))
    return solution.ys[:, -1].reshape(x.shape), flow.calls


SOLVERS = {"SciPy RK45": with_scipy, "ours": with_ours, "torchdiffeq": with_torchdiffeq, "torchode": with_torchode}


@torch.no_grad()
def network(folder: str, batch: int, strictest: float) -> dict:
    """Sampling with a trained network in float64, where all solvers see the same field; the truth is ours at `strictest`.

    Image by image: solvers that have one error norm for the batch are not to suffer from it.
    """
    pipe = ScoreSdeLikelihoodPipeline.from_pretrained(shipped(folder) if folder in shipped() else folder)
    sde, score, eps = pipe.scheduler.sde, pipe.scheduler.score_fn(pipe.network), pipe.scheduler.smallest_time
    pipe.unet.double()
    x = torch.randn(batch, *pipe.sample_shape, generator=torch.Generator().manual_seed(1)).double() * sde.prior_std
    exact = solve_probability_flow(score, sde, x, 1.0, eps, tolerance=strictest, max_steps=10_000).x
    print("| solver | tolerance | NFE | rms error | CPU seconds |\n|---|---|---|---|---|")
    rows = []
    for tolerance in (1e-3, 1e-4, 1e-5):
        for name, solve in SOLVERS.items():
            begin = time.process_time()
            try:
                solved = [solve(score, sde, image[None], eps, tolerance) for image in x]
            except (ImportError, AssertionError) as error:  # not installed; torchdiffeq: "underflow in dt"
                print(f"| {name} | {tolerance:.0e} | gave up: {error} | | |")
                continue
            seconds = time.process_time() - begin
            result, nfe = torch.cat([states for states, _ in solved]), sum(nfe for _, nfe in solved) / batch
            error_ = float((result - exact).double().square().mean().sqrt())
            rows.append({"solver": name, "tolerance": tolerance, "nfe": nfe, "rms_error": error_, "seconds": seconds})
            print(f"| {name} | {tolerance:.0e} | {nfe:.0f} | {error_:.1e} | {seconds:.1f} |", flush=True)
    return {"model": folder, "batch": batch, "truth": f"ours at {strictest:g}", "rows": rows}


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
    parser.add_argument("--model", help="a pipeline folder, or the name of a shipped pipeline")
    parser.add_argument("--data", help="images for `variance --model`")
    parser.add_argument("--seed", type=int, default=0, help="for `sampling`, of another mixture and other starts")
    parser.add_argument("--split", default="test")
    parser.add_argument("--fit", default="crop", choices=("crop", "pad"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=1e-5, help="for `network`, of the truth")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.what == "sampling":
        sampling(arguments.seed)
    elif arguments.what == "network":
        figures = network(arguments.model, arguments.images, arguments.tolerance)
        print("written to", save(f"ode_network_{Path(arguments.model).name}", figures).name)
    elif arguments.model is None:
        data, sde = image_mixture(), VPSDE()
        x = data.sample(arguments.images, torch.Generator().manual_seed(0))
        variance(lambda x, t: data.score(sde, x, t), sde, x, arguments.probes, arguments.tolerance)
    else:
        from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images, to_data_range

        pipe = ScoreSdeLikelihoodPipeline.from_pretrained(
            shipped(arguments.model) if arguments.model in shipped() else arguments.model
        )
        channels, side, _ = pipe.sample_shape
        table = load_images(train_data_dir=arguments.data, split=arguments.split)
        store = ImageStore(table, ImageFormat(side, channels, arguments.fit), max_cached_gb=0)
        x = to_data_range(store[list(range(arguments.images))], (pipe.config.data_min, pipe.config.data_max))
        score = pipe.scheduler.score_fn(pipe.network)
        variance(score, pipe.scheduler.sde, x, arguments.probes, arguments.tolerance)


if __name__ == "__main__":
    main()
