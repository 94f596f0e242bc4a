"""KID of a shipped network by the noise level of the last call, in standard deviations of the data.

    python benchmarks/last_level.py --model emoji-32-ve --data noto_emoji --calls 20

The grids of `exponential_multistep` and `restart` end lower the more calls there are, as it is right where the score is
exact. Here they end at stated levels instead. EfficientNet-Lite0 features; image k is that of the generator of seed k.
"""

import argparse
from typing import Any

import torch
from result_file import save

from scoresde_pipelines import SDE, ScoreSdePipeline, sampling_loop, shipped
from scoresde_pipelines.evaluation import shipped_classifiers
from scoresde_pipelines.schedulers import ExponentialMultistep, Restart, TimeGrid
from scoresde_pipelines.schedulers.multistep import levels_between
from scoresde_pipelines.training.evaluation import load_features, open_real
from scoresde_pipelines.training.evaluation.kid import kernel_distance


BATCH = 64


class EndsAt(ExponentialMultistep):
    """The multistep solver on its own grid down to `last` standard deviations of the data."""

    def __init__(self, data_std: float, last: float):
        self.last_ratio = last * data_std
        super().__init__(data_std=data_std)

    def grid(self, sde: SDE, n: int, smallest_time: float) -> TimeGrid:
        """n levels from T down to the last one."""
        first = float(sde.noise_ratio(torch.tensor(sde.T, dtype=torch.float64)))
        return TimeGrid.through(levels_between(sde, first, self.last_ratio, n, self.data_std))


def solvers(data_std: float, last: float | None) -> dict[str, Any]:
    """Both solvers, to the level `last`; None for their own."""
    multistep = ExponentialMultistep(data_std=data_std) if last is None else EndsAt(data_std, last)
    restart = Restart(data_std=data_std)
    restart.solver = multistep
    return {"exponential_multistep": multistep, "restart": restart}


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the name of a shipped pipeline")
    parser.add_argument("--data", required=True, help="a folder, parquet file or Hub id with a split `test`")
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.06, 0.12, 0.2])
    parser.add_argument("--images", type=int, default=256)
    args = parser.parse_args()
    pipe = ScoreSdePipeline.from_pretrained(shipped(args.model))
    features = load_features(None, shipped_classifiers(), None)
    reference = open_real(args.data, "test", [pipe.sample_shape], args.images).reference
    real = torch.cat([features(batch.expand(-1, 3, -1, -1)) for batch in reference.batches(BATCH)])
    figures: dict[str, dict[str, list[float]]] = {}
    with pipe.running(), torch.no_grad():
        for last in (None, *args.levels):
            for name in solvers(1.0, None):
                parts = []
                for seeds in torch.arange(args.images).split(BATCH):
                    scheduler = pipe.scheduler.from_config(pipe.scheduler.config, timestep_spacing=None)
                    scheduler.predictor = solvers(scheduler.data_std, last)[name]
                    scheduler.set_timesteps(args.calls)
                    generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
                    noise = torch.stack([torch.randn(pipe.sample_shape, generator=one) for one in generators])
                    x = sampling_loop(scheduler, pipe.score_fn(), noise * scheduler.init_noise_sigma, generators)
                    pixels = (pipe.to_unit_range(x).clamp(0, 1) * 255).round().to(torch.uint8)
                    parts.append(features(pixels.expand(-1, 3, -1, -1)))
                found = kernel_distance(torch.cat(parts), real)
                figures.setdefault(name, {})[f"{last or 'own'}"] = [found.value, found.se]
                print(f"{name}, last level {last or 'its own'}: KID {found.value:.4f} +- {found.se:.4f}", flush=True)
    print(save(f"last_level_{args.model}", figures))


if __name__ == "__main__":
    main()
