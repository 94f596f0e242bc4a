"""Samplers on data whose truth is known, ours beside those of diffusers, at equal numbers of network calls.

    python benchmarks/samplers.py

Under the VP SDE with the exact score (`known_truths.py`):

- *spectrum*: N(0, diag(lambda_k)) in 3072-D, lambda_k ~ k^-p with mean 0.25, as in images. A sampler is linear there and
  maps each direction on its own, so that the Frechet distance sum (sqrt v - sqrt lambda)^2 is exact.
- *mixture*: 0.3 N(-0.7, 0.1^2) + 0.5 N(0.1, 0.2^2) + 0.2 N(0.8, 0.05^2) in one dimension. The probability-flow ODE maps
  quantiles to quantiles there: the rms distance to that map is the Wasserstein distance W2.
- *network errors*: what becomes of independent errors of 0.02 at every call, in directions in which the variance of the data
  is less than 0.1. A solver that is unstable makes more of them than 0.02.

Everyone starts from the exact marginal at the first noise level and is told the exact noise of its state at its own noise
levels, unrounded. One table holds the best of its grids at every number of calls, the next its default. Compares with
azula where it is installed (`pip install --no-deps azula einops`). The last tables hold sampling to a tolerance, with and
without restarts. On trained networks: `network_samplers.py`; all tables of the docs: `python -m benchmarks.tables`.
"""

import argparse
import importlib.util
import math
from collections.abc import Callable
from functools import partial

import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging
from known_truths import MIXTURE, VARIANCES, Truth, mixture, network_errors, spectrum
from result_file import save
from torch import Tensor

from scoresde_pipelines import SDE as BaseSDE
from scoresde_pipelines import VPSDEScheduler
from scoresde_pipelines.schedulers import VPSDE, ExponentialAdamsBashforth


SDE = VPSDE()
CALLS = (10, 20, 35, 50)
TOLERANCES = (1e-2, 1e-3, 1e-4)  # of `solve_with_restarts`
GRIDS = ({}, {"use_karras_sigmas": True}, {"use_lu_lambdas": True}, {"use_exponential_sigmas": True})
# By name: class, options, and the network calls of n noise levels.
PEERS: dict[str, tuple[type, dict, Callable[[int], int]]] = {
    "DDIM": (DDIMScheduler, {"timestep_spacing": "trailing", "clip_sample": False}, lambda n: n),
    "Euler": (EulerDiscreteScheduler, {}, lambda n: n),
    "Heun (EDM)": (HeunDiscreteScheduler, {}, lambda n: 2 * n - 1),
    "LMS": (LMSDiscreteScheduler, {}, lambda n: n),
    "DEIS 3": (DEISMultistepScheduler, {"solver_order": 3}, lambda n: n),
    "DPM-Solver++ 2M": (DPMSolverMultistepScheduler, {"solver_order": 2}, lambda n: n),
    "DPM-Solver++ 3M": (DPMSolverMultistepScheduler, {"solver_order": 3}, lambda n: n),
    "DPM-Solver 3S": (
        DPMSolverSinglestepScheduler,
        {"solver_order": 3, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"},
        lambda n: n,
    ),
    "UniPC 3": (UniPCMultistepScheduler, {"solver_order": 3}, lambda n: n),
}
AZULA_STOPS = (1e-3, 3e-3, 1e-2, 2e-2)
OLD_ORDERS = (2, 3, 4)
OLD_GRIDS = [(spacing, eps) for spacing in ("log_snr", "karras") for eps in (1e-3, 6e-3)]


class Asked:
    """A truth as samplers see it: starts, the noise, and how often they asked for it."""

    def __init__(self, truth: Truth, sde: BaseSDE = SDE):
        self.truth, self.sde, self.start, self.distance, self.calls = truth, sde, truth.start, truth.distance, 0

    def noise(self, x: Tensor, ratio: float) -> Tensor:
        """E[noise | x] of the state alpha x_0 + sigma noise where sigma / alpha = `ratio`."""
        self.calls += 1
        t = self._time(ratio)
        return -self.sde.sigma(t) * self.truth.score(self.sde, x.double(), t)

    def scaled_noise(self, y: Tensor, ratio: float) -> Tensor:
        """The same of y = x / alpha."""
        return self.noise(self.sde.alpha(self._time(ratio)) * y, ratio)

    def _time(self, ratio: float) -> Tensor:
        return self.sde.t_from_log_snr(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))


def with_diffusers(truth: Asked, kind: type, options: dict, levels: int) -> Tensor:
    """The samples of a scheduler of diffusers."""
    scheduler = kind(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **options)
    scheduler.set_timesteps(levels)
    ddim = kind is DDIMScheduler
    if ddim:
        products = scheduler.alphas_cumprod[scheduler.timesteps].double()
        ratios = ((1 - products) / products).sqrt().tolist()
    else:
        scheduler.set_begin_index(0)
        ratios = scheduler.sigmas.double().tolist()
    alpha = 1 / math.sqrt(1 + ratios[0] ** 2)
    x = truth.start(alpha, ratios[0] * alpha)
    if kind in (EulerDiscreteScheduler, HeunDiscreteScheduler, LMSDiscreteScheduler):
        x = x / alpha  # these keep x_0 + sigma noise
    for i, timestep in enumerate(scheduler.timesteps):
        noise = truth.noise(scheduler.scale_model_input(x, timestep), ratios[i])
        x = scheduler.step(noise, timestep, x).prev_sample
    return x.double()


def with_azula(truth: Asked, order: int, stop: float, steps: int) -> Tensor:
    """The samples of azula's zEAB on its log-linear schedule, from our first noise level to `stop`."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VESchedule
    from azula.sample import zEABSampler

    first = float(truth.sde.noise_ratio(torch.tensor(truth.sde.T, dtype=torch.float64)))

    class Exact(Denoiser):
        schedule = VESchedule(stop, first)

        def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
            ratio = float(self.schedule.sigma(t))
            return DiracPosterior(x_t - ratio * truth.scaled_noise(x_t, ratio))

    sampler = zEABSampler(Exact(), order=order, steps=steps, silent=True, dtype=torch.float64)
    return sampler(truth.start(1.0, first))


def with_adams_bashforth(truth: Asked, order: int, grid: tuple[str, float], levels: int) -> Tensor:
    """The samples of our earlier multistep solver."""
    spacing, eps = grid
    scheduler = VPSDEScheduler(continuous=True, timestep_spacing=spacing, sampling_eps=eps)
    scheduler.predictor = ExponentialAdamsBashforth(order)
    scheduler.set_timesteps(levels)
    first = scheduler.levels[0]
    x = truth.start(float(SDE.alpha(first)), float(SDE.sigma(first)))
    for level, timestep in zip(scheduler.levels, scheduler.timesteps):
        noise = truth.noise(x, float(SDE.sigma(level) / SDE.alpha(level)))
        x = scheduler.step(noise, timestep, x).prev_sample
    return x


Sampler = Callable[[Asked, int], float]


def contestants() -> dict[str, list[Sampler]]:
    """By name, one sampler for each grid, first the default: from a truth and a number of network calls to a distance."""
    found: dict[str, list[Sampler]] = {}
    for predictor in ("exponential_multistep", "restart"):
        scheduler = VPSDEScheduler(continuous=True, predictor=predictor)
        found[f"ours: {predictor}"] = [lambda truth, calls, it=scheduler: truth.truth.measure(it, calls)]
    for name, (kind, options, calls_of) in PEERS.items():

        def peer(truth: Asked, calls: int, *, kind=kind, calls_of=calls_of, options: dict) -> float:
            levels = max(n for n in range(2, calls + 1) if calls_of(n) <= calls)
            return truth.distance(with_diffusers(truth, kind, options, levels))

        found[name] = [partial(peer, options={**options, **grid}) for grid in GRIDS]
    if importlib.util.find_spec("azula") is not None:
        for order in (3, 4):
            found[f"azula zEAB {order}"] = [
                lambda truth, calls, order=order, stop=stop: truth.distance(with_azula(truth, order, stop, calls))
                for stop in AZULA_STOPS
            ]
    for order in OLD_ORDERS:
        found[f"Adams-Bashforth, order {order}"] = [
            lambda truth, calls, order=order, grid=grid: truth.distance(
                with_adams_bashforth(truth, order, grid, calls)
            )
            for grid in OLD_GRIDS
        ]
    return found


def league(truth: Asked, samplers: dict[str, list[Sampler]]) -> dict[str, dict[int, float]]:
    """Distances by sampler and number of network calls, each of the best grid."""
    return {
        name: {calls: min(distance(sampler, truth, calls) for sampler in grids) for calls in CALLS}
        for name, grids in samplers.items()
    }


def distance(sampler: Sampler, truth: Asked, calls: int) -> float:
    """Infinite where a scheduler has no such grid, or diverges."""
    truth.calls = 0
    try:
        value = sampler(truth, calls)
    except (TypeError, ValueError, ImportError):
        return math.inf
    assert truth.calls <= calls, (truth.calls, calls)
    return value if math.isfinite(value) else math.inf


def adaptive(truths: dict[str, Truth]) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    """Calls and distances of sampling to a tolerance, by truth, number of restarts and tolerance; prints a table of each."""
    figures = {}
    for title, truth in truths.items():
        print(f"\n| {title}: calls, distance | " + " | ".join(map(str, TOLERANCES)) + " |\n" + "|---" * 4 + "|")
        figures[title] = {
            str(n): {str(tolerance): truth.measure_adaptive(SDE, tolerance, n) for tolerance in TOLERANCES}
            for n in (0, 1, 3)
        }
        for n, row in figures[title].items():
            print(f"| restarts: {n} | " + " | ".join(f"{calls:.0f}, {far:.2g}" for calls, far in row.values()) + " |")
    return figures


def main() -> None:
    """Measure, print the tables and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    logging.set_verbosity_error()
    small = VARIANCES < 0.1
    truths = {f"spectrum k^-{p}: Frechet distance": Asked(spectrum(p)) for p in (1.0, 1.5, 2.0)}
    truths["mixture: W2"] = Asked(mixture(*MIXTURE, quantiles=500))
    truths["network errors: largest rms"] = Asked(network_errors(lambda rms: float(rms[small].max())))
    samplers = contestants()
    defaults = {name: grids[:1] for name, grids in samplers.items()}
    figures = {}
    for title, truth, chosen in (
        (title + end, truth, chosen)
        for title, truth in truths.items()
        for end, chosen in ((", best grid", samplers), (", default grid", defaults))
    ):
        figures[title] = table = league(truth, chosen)
        print(f"\n| {title} | " + " | ".join(f"{calls} calls" for calls in CALLS) + " |\n" + "|---" * 5 + "|")
        for name, row in sorted(table.items(), key=lambda item: math.prod(item[1].values())):
            print(f"| {name} | " + " | ".join(f"{row[calls]:.2g}" for calls in CALLS) + " |")
    tables = {title: asked.truth for title, asked in truths.items() if "errors" not in title}
    figures["to a tolerance"] = adaptive(tables)
    save("samplers", figures)


if __name__ == "__main__":
    main()
