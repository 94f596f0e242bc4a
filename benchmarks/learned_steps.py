"""Fitted steps on a network: distance to the exact flow on other starts, and KID, beside `exponential_multistep`.

    python benchmarks/learned_steps.py --model emoji-32-ve --data noto_emoji

Steps are fitted to 48 starts. On 256 others: the rms distance of the images to those of the same ODE solved with 80 calls
(its geometric mean over the images, in units of the data's standard deviation), and with `--data` the KID of
EfficientNet-Lite0 features against that many real images. With `--save` the fitted steps are written as a scheduler's
configuration. Other solvers at the same numbers of calls: `network_samplers.py --calls 4 5 6 8`.
"""

import argparse
import time
from pathlib import Path

import torch
from networks import EXACT_CALLS, Judge, distance, exact_flow, images, load, with_predictor
from result_file import save
from torch import Tensor

from scoresde_pipelines import fit_steps


FITTED = 48
OURS = ("learned_steps", "exponential_multistep")


def main() -> None:
    """Fit, measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-32-ve", help="a pipeline folder, or the name of a shipped pipeline")
    parser.add_argument(
        "--data", help="a folder, parquet file or Hub id whose split `test` the images are compared with"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 5, 6, 8])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--save", type=Path, help="a folder for the scheduler with the fitted steps")
    args = parser.parse_args()
    pipe = load(args.model)
    generator = torch.Generator().manual_seed(17)
    fitting, noise = (torch.randn(n, *pipe.sample_shape, generator=generator) for n in (FITTED, args.images))
    judge = Judge(pipe, args.data, args.images) if args.data else None
    exact = exact_flow(pipe, noise)
    figures: dict[str, dict[str, list[float]]] = {}

    def keep(name: str, calls: int, found: Tensor) -> None:
        row = [distance(pipe, found, exact), *(judge.kid(judge.features(found)) if judge else ())]
        figures.setdefault(name, {})[str(calls)] = row
        print(name, calls, *(f"{value:.4f}" for value in row), flush=True)

    keep("exact flow", EXACT_CALLS, exact)
    chosen = pipe.scheduler.config.predictor
    for calls in args.steps:
        began = time.perf_counter()
        with pipe.running():
            pipe.scheduler = fit_steps(pipe.score_fn(), pipe.scheduler, fitting, calls)
        print(f"{calls} calls fitted in {time.perf_counter() - began:.0f} s", flush=True)
        for predictor in OURS:
            keep(predictor, calls, images(pipe, with_predictor(pipe, predictor), calls, noise))
    save(f"learned_steps_{Path(args.model).name}", figures)
    if args.save:
        with_predictor(pipe, chosen).save_pretrained(args.save)


if __name__ == "__main__":
    main()
