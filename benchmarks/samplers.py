"""Samplers on data whose truth is known, ours beside those of diffusers, at equal numbers of network calls.

    python benchmarks/samplers.py
    python benchmarks/samplers.py --model fashion-mnist-32-vp --images 8

Two truths, both under the VP SDE with the exact score:

- *spectrum*: N(0, diag(lambda_k)) in 3072-D, lambda_k ~ k^-1.5 with mean 0.25, as in images. A deterministic sampler
  is linear there and maps each direction on its own, so that the Frechet distance sum (sqrt v - sqrt lambda)^2 is exact.
- *mixture*: 0.3 N(-0.7, 0.1^2) + 0.5 N(0.1, 0.2^2) + 0.2 N(0.8, 0.05^2) in one dimension. The probability-flow ODE maps
  quantiles to quantiles there: the rms distance to that map is the Wasserstein distance W2.

Everyone starts from the exact marginal at the first noise level, is told the exact noise of its state at its own noise
levels, unrounded, and gets the best of its grids at every number of calls. Compares with azula where it is installed
(`pip install --no-deps azula einops`). With `--model` the score is that of a trained network (a shipped one, or the folder
of a continuous VP model), and the truth the solution of the same ODE with 400 calls.
"""

import argparse
import importlib.util
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

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
from result_file import save
from torch import Tensor

from scoresde_pipelines import ScoreSdePipeline, VPSDEScheduler, shipped
from scoresde_pipelines.models import GaussianMixtureScoreModel
from scoresde_pipelines.schedulers import VPSDE, ExponentialMultistep


SDE = VPSDE()
CALLS = (10, 20, 35, 50)
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
OUR_ORDERS = (2, 3, 4)
OUR_GRIDS = [(spacing, eps) for spacing in ("log_snr", "karras") for eps in (1e-3, 6e-3)]


class Truth:
    """A score, starts, and a distance of the result.

    Args:
        score: `(x, t) -> score`.
        start: states (B, *D) on the marginal at alpha, sigma.
        distance: of the samples (B, *D).
    """

    def __init__(
        self,
        score: Callable[[Tensor, Tensor], Tensor],
        start: Callable[[float, float], Tensor],
        distance: Callable[[Tensor], float],
    ):
        self.score, self.start, self.distance, self.calls = score, start, distance, 0

    def noise(self, x: Tensor, ratio: float) -> Tensor:
        """E[noise | x] of the state alpha x_0 + sigma noise where sigma / alpha = `ratio`."""
        self.calls += 1
        t = SDE.t_from_log_snr(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))
        return -SDE.sigma(t) * self.score(x.double(), t)


def spectrum() -> Truth:
    variances = torch.arange(1, 3073, dtype=torch.float64) ** -1.5
    variances *= 0.25 / variances.mean()
    data = GaussianMixtureScoreModel(torch.ones(1), torch.zeros(1, 3072), variances=variances[None])
    return Truth(
        partial(data.score, SDE),
        lambda alpha, sigma: (alpha**2 * variances + sigma**2).sqrt()[None],
        lambda x: float((x.abs() - variances.sqrt()).square().sum()),
    )


def mixture() -> Truth:
    weights, means = torch.tensor([0.3, 0.5, 0.2]).double(), torch.tensor([-0.7, 0.1, 0.8]).double()
    stds = torch.tensor([0.1, 0.2, 0.05]).double()
    data = GaussianMixtureScoreModel(weights, means[:, None], variances=stds[:, None] ** 2)
    levels = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000

    def quantiles(alpha: float, sigma: float) -> Tensor:
        scales = (alpha**2 * stds**2 + sigma**2).sqrt()
        high = torch.full_like(levels, 2 * alpha + 6 * sigma)
        low = -high
        for _ in range(100):
            middle = (low + high) / 2
            below = (weights * torch.special.ndtr((middle[:, None] - alpha * means) / scales)).sum(1) < levels
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return low[:, None]

    exact = quantiles(1.0, 0.0)
    return Truth(partial(data.score, SDE), quantiles, lambda x: float((x - exact).square().mean().sqrt()))


def trained(folder: str, images: int) -> Truth:
    """A network's score from random starts."""
    pipe = ScoreSdePipeline.from_pretrained(shipped(folder) if folder in shipped() else folder)
    half = torch.tensor(0.5, dtype=torch.float64)
    if float(pipe.scheduler.sde.alpha(half)) != float(SDE.alpha(half)):
        raise SystemExit("--model must be one of the paper's continuous VP SDE, beta from 0.1 to 20")
    score_fn = pipe.scheduler.score_fn(pipe.network)
    noise = torch.randn(images, *pipe.sample_shape, generator=torch.Generator().manual_seed(3)).double()

    def score(x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return score_fn(x.float(), t.float().expand(len(x))).double()

    truth = Truth(score, lambda alpha, sigma: noise * math.hypot(alpha, sigma), lambda x: math.nan)
    exact = with_ours(truth, 3, ("log_snr", 1e-3), 400)
    truth.distance = lambda x: float((x - exact).square().mean().sqrt())
    return truth


def with_diffusers(truth: Truth, kind: type, options: dict, levels: int) -> Tensor:
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


def with_azula(truth: Truth, order: int, stop: float, steps: int) -> Tensor:
    """The samples of azula's zEAB on its log-linear schedule, from our first noise level to `stop`."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VESchedule
    from azula.sample import zEABSampler

    first = float(SDE.sigma(torch.tensor(SDE.T)) / SDE.alpha(torch.tensor(SDE.T)))

    class Exact(Denoiser):
        schedule = VESchedule(stop, first)

        def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
            ratio = float(self.schedule.sigma(t))
            return DiracPosterior(x_t - ratio * truth.noise(x_t / math.sqrt(1 + ratio**2), ratio))

    sampler = zEABSampler(Exact(), order=order, steps=steps, silent=True, dtype=torch.float64)
    return sampler(truth.start(1.0, first))


def with_ours(truth: Truth, order: int, grid: tuple[str, float], levels: int) -> Tensor:
    """The samples of our multistep solver; order 4 is `predictor="exponential_multistep"`."""
    spacing, eps = grid
    scheduler = VPSDEScheduler(continuous=True, timestep_spacing=spacing, sampling_eps=eps)
    scheduler.predictor = ExponentialMultistep(order)
    scheduler.set_timesteps(levels)
    first = scheduler.levels[0]
    x = truth.start(float(SDE.alpha(first)), float(SDE.sigma(first)))
    for level, timestep in zip(scheduler.levels, scheduler.timesteps):
        noise = truth.noise(x, float(SDE.sigma(level) / SDE.alpha(level)))
        x = scheduler.step(noise, timestep, x).prev_sample
    return x


Sampler = Callable[[Truth, int], Tensor]


def contestants() -> dict[str, list[Sampler]]:
    """By name, one sampler for each grid: from a truth and a number of network calls to samples."""
    found: dict[str, list[Sampler]] = {}
    for name, (kind, options, calls_of) in PEERS.items():

        def peer(truth: Truth, calls: int, *, kind=kind, calls_of=calls_of, options: dict) -> Tensor:
            levels = max(n for n in range(2, calls + 1) if calls_of(n) <= calls)
            return with_diffusers(truth, kind, options, levels)

        found[name] = [partial(peer, options={**options, **grid}) for grid in GRIDS]
    if importlib.util.find_spec("azula") is not None:
        for order in (3, 4):
            found[f"azula zEAB {order}"] = [
                lambda truth, calls, order=order, stop=stop: with_azula(truth, order, stop, calls)
                for stop in AZULA_STOPS
            ]
    for order in OUR_ORDERS:
        found[f"ours, order {order}"] = [
            lambda truth, calls, order=order, grid=grid: with_ours(truth, order, grid, calls) for grid in OUR_GRIDS
        ]
    return found


def league(truth: Truth) -> dict[str, dict[int, float]]:
    """Distances by sampler and number of network calls, each of the best grid."""
    return {
        name: {calls: min(distance(sampler, truth, calls) for sampler in grids) for calls in CALLS}
        for name, grids in contestants().items()
    }


def distance(sampler: Sampler, truth: Truth, calls: int) -> float:
    """Infinite where a scheduler has no such grid, or diverges."""
    truth.calls = 0
    try:
        samples = sampler(truth, calls)
    except (TypeError, ValueError, ImportError):
        return math.inf
    assert truth.calls <= calls, (truth.calls, calls)
    value = truth.distance(samples)
    return value if math.isfinite(value) else math.inf


def main() -> None:
    """Measure, print the tables and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a pipeline folder, or the name of a shipped pipeline")
    parser.add_argument("--images", type=int, default=8, help="of the model")
    args = parser.parse_args()
    logging.set_verbosity_error()
    if args.model:
        truths = {f"{Path(args.model).name}: rms distance": trained(args.model, args.images)}
    else:
        truths = {"spectrum: Frechet distance": spectrum(), "mixture: W2": mixture()}
    figures = {}
    for title, truth in truths.items():
        figures[title] = table = league(truth)
        print(f"\n| {title} | " + " | ".join(f"{calls} calls" for calls in CALLS) + " |\n" + "|---" * 5 + "|")
        for name, row in sorted(table.items(), key=lambda item: math.prod(item[1].values())):
            print(f"| {name} | " + " | ".join(f"{row[calls]:.2g}" for calls in CALLS) + " |")
    save(f"samplers_{Path(args.model).name}" if args.model else "samplers", figures)


if __name__ == "__main__":
    main()
