"""KID of a network's images by `last_noise_level`, the noise level of the last call in standard deviations of the data.

    python benchmarks/last_level.py --model emoji-32-ve --data noto_emoji --calls 10 20 50

The grids of `exponential_multistep` and `restart` end lower the more calls there are, as it is right where the score is
exact; a scheduler's `last_noise_level` bounds them. EfficientNet-Lite0 features. With each of two seeds 256 images; all
rows of a seed share their noise. The table has the KID of all images together and of each seed's.
"""

import argparse
from pathlib import Path

import torch
from networks import Judge, images, load, unit_noise, with_predictor
from result_file import save


SOLVERS = ("exponential_multistep", "restart")


def main() -> None:
    """Measure, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a pipeline folder, or the name of a shipped pipeline")
    parser.add_argument("--data", required=True, help="a folder, parquet file or Hub id with a split `test`")
    parser.add_argument("--calls", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.06, 0.12, 0.2, 0.3])
    parser.add_argument("--solvers", nargs="+", default=SOLVERS, choices=SOLVERS)
    parser.add_argument("--images", type=int, default=256, help="of each seed")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    pipe = load(args.model)
    judge = Judge(pipe, args.data, args.images)
    print("| KID | calls | " + " | ".join(f"{level:g}" for level in args.levels) + " |")
    print("|---|---" + "|---" * len(args.levels) + "|", flush=True)
    figures: dict[str, dict[str, dict[str, list]]] = {}
    for solver in args.solvers:
        for calls in args.calls:
            row = figures.setdefault(solver, {}).setdefault(str(calls), {})
            for level in args.levels:
                scheduler = with_predictor(pipe, solver, last_noise_level=level)
                found = []
                for seed in range(args.seeds):
                    noise, generators = unit_noise(pipe, range(seed * args.images, (seed + 1) * args.images))
                    found.append(judge.features(images(pipe, scheduler, calls, noise, generators)))
                row[f"{level:g}"] = [judge.kid(torch.cat(found)), *map(judge.kid, found)]
            cells = [
                f"{value:.4f} +- {se:.4f} ({', '.join(f'{kid:.4f}' for kid, _ in each)})"
                for (value, se), *each in row.values()
            ]
            print(f"| `{solver}` | {calls} | " + " | ".join(cells) + " |", flush=True)
    print(save(f"last_level_{Path(args.model).name}", figures))


if __name__ == "__main__":
    main()
