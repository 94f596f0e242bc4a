"""Fitted steps on a shipped network: distance to the exact flow on other starts, and KID, beside the unfitted solvers.

    python benchmarks/learned_steps.py --model emoji-32-ve --data test.parquet

Steps are fitted to 48 starts. On 256 others: the rms distance of the images to those of the same ODE solved with 80 calls
(its geometric mean over the images, in units of the data's standard deviation), and with `--data` the KID of
EfficientNet-Lite0 features against that many real images. DPM-Solver++ and UniPC are those of diffusers at the best of
four grids for every figure; diffusers knows VP models alone.
"""

import argparse
import time

import torch
from diffusers.utils import logging
from result_file import save
from samplers import GRIDS, PEERS, Asked, with_diffusers
from torch import Tensor

from scoresde_pipelines import ScoreSdePipeline, fit_steps, sampling_loop, shipped
from scoresde_pipelines.evaluation import shipped_classifiers
from scoresde_pipelines.schedulers import SDEScheduler
from scoresde_pipelines.training.evaluation import load_features, open_real
from scoresde_pipelines.training.evaluation.kid import kernel_distance


TEACHER_CALLS, FITTED, BATCH = 80, 48, 64
COMPARED = ("DDIM", "DPM-Solver++ 2M", "DPM-Solver++ 3M", "UniPC 3")
OURS = ("learned_steps", "exponential_multistep")


class NetworkTruth(Asked):
    """A network as the solvers of diffusers see it: its noise prediction at any noise ratio, from given starts."""

    def __init__(self, pipe: ScoreSdePipeline, noise: Tensor):
        self.score_fn, self.sde, self.unit, self.calls = pipe.score_fn(), pipe.scheduler.sde, noise, 0

    def start(self, alpha: float, sigma: float) -> Tensor:
        """The starts, on the marginal at alpha, sigma."""
        return self.unit * (alpha**2 + sigma**2) ** 0.5

    def noise(self, x: Tensor, ratio: float) -> Tensor:
        """The network's noise prediction where sigma / alpha = `ratio`."""
        t = self.sde.t_from_log_snr(-2 * torch.tensor(ratio, dtype=torch.float64).log())
        return -float(self.sde.sigma(t)) * self.score_fn(x, t)


def ours(pipe: ScoreSdePipeline, scheduler: SDEScheduler, predictor: str, calls: int, noise: Tensor) -> Tensor:
    """Images of a predictor, (B, C, H, W) in the data's range."""
    own = type(scheduler).from_config(scheduler.config, predictor=predictor)
    images = []
    for some in noise.split(BATCH):
        own.set_timesteps(calls)
        images.append(sampling_loop(own, pipe.score_fn(), some * own.init_noise_sigma))
    return torch.cat(images)


def theirs(pipe: ScoreSdePipeline, name: str, grid: dict, calls: int, noise: Tensor) -> Tensor | None:
    """Images of a solver of diffusers, or None where it has no such grid."""
    kind, options, _ = PEERS[name]
    try:
        truths = [NetworkTruth(pipe, some) for some in noise.split(BATCH)]
        return torch.cat([with_diffusers(one, kind, {**options, **grid}, calls).float() for one in truths])
    except (TypeError, ValueError, ImportError):
        return None


def main() -> None:
    """Fit, measure, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-32-ve", help="the name of a shipped pipeline")
    parser.add_argument(
        "--data", help="a folder, parquet file or Hub id whose split `test` the images are compared with"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 5, 6, 8])
    parser.add_argument("--images", type=int, default=256)
    args = parser.parse_args()
    logging.set_verbosity_error()
    pipe = ScoreSdePipeline.from_pretrained(shipped(args.model))
    generator = torch.Generator().manual_seed(17)
    fitting, noise = (torch.randn(n, *pipe.sample_shape, generator=generator) for n in (FITTED, args.images))
    features, real = None, None
    if args.data:
        features = load_features(None, shipped_classifiers(), None)
        reference = open_real(args.data, "test", [pipe.sample_shape], args.images).reference
        real = torch.cat([features(batch.expand(-1, 3, -1, -1)) for batch in reference.batches(BATCH)])
    figures: dict[str, dict[str, list[float]]] = {}

    def keep(name: str, calls: int, images: Tensor, exact: Tensor) -> None:
        rms = (images - exact).flatten(1).square().mean(1).sqrt() / pipe.scheduler.data_std
        row = [float(rms.log().mean().exp()), float(rms.square().mean().sqrt())]
        if features is not None and real is not None:
            pixels = (pipe.to_unit_range(images).clamp(0, 1) * 255).round().to(torch.uint8)
            pixels = pixels.expand(-1, 3, -1, -1)
            found = kernel_distance(torch.cat([features(some) for some in pixels.split(BATCH)]), real)
            row += [found.value, found.se]
        figures.setdefault(name, {})[str(calls)] = row
        print(name, calls, *(f"{value:.4f}" for value in row), flush=True)

    with pipe.running(), torch.no_grad():
        exact = ours(pipe, pipe.scheduler, OURS[1], TEACHER_CALLS, noise)
        keep("exact flow", TEACHER_CALLS, exact, exact)
        for calls in args.steps:
            began = time.perf_counter()
            fitted = fit_steps(pipe.score_fn(), pipe.scheduler, fitting, calls)
            print(f"{calls} calls fitted in {time.perf_counter() - began:.0f} s", fitted.config.learned_steps)
            for predictor in OURS:
                keep(predictor, calls, ours(pipe, fitted, predictor, calls, noise), exact)
            for name in COMPARED if hasattr(pipe.scheduler, "alphas_cumprod") else ():
                for grid in GRIDS:
                    images = theirs(pipe, name, grid, calls, noise)
                    if images is not None:
                        keep(f"{name} {grid}", calls, images, exact)
    save(f"learned_steps_{args.model}", figures)


if __name__ == "__main__":
    main()
