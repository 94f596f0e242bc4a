"""The paper's objective against EDM's, from random weights: equal networks, data, updates and samplers, two seeds.

Runs the training command and `evaluate`, and goes on after an interruption. Eight runs of 500 updates take about an hour of
one core:

python benchmarks/recipes.py --emoji noto_emoji --fashion fashion_mnist --output recipes
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from result_file import save

from scoresde_pipelines.evaluation import evaluate
from scoresde_pipelines.training.model_names import shipped


# What the two SDEs differ in: the shipped model whose architecture is trained, and its data and noise levels.
SDES: dict[str, dict[str, Any]] = {
    "ve": {"model": "emoji-32-ve", "data": "emoji", "options": "--channels 3 --sde ve --sigma_max 50"},
    "vp": {"model": "fashion-mnist-32-vp", "data": "fashion", "options": "--channels 1 --image_fit pad --sde vp"},
}
RECIPES = {
    "paper": {"ve": "--objective score_matching", "vp": "--objective score_matching"},
    "edm": {
        "ve": "--recipe edm --P_mean=-0.8 --P_std 1.4",
        "vp": "--recipe edm --P_mean=-0.3 --P_std 1.5",
    },
}
COMMON = (
    "--resolution 32 --train_batch_size 64 --learning_rate 5e-4 --lr_warmup_steps 100 --lr_scheduler linear "
    "--adam_beta2 0.99 --mixed_precision bf16 --channels_last --cpu --eval_batch_size 0 --report_to none "
    "--checkpointing_steps 100 --checkpoints_total_limit 1 --save_model_epochs 1000"
)
ROWS = (("restart", 20), ("ancestral_karras", 50), ("multistep", 50))


def network_config(sde: str, recipe: str, folder: Path) -> Path:
    """The shipped network's configuration without classes; under the paper's VE objective it divides by sigma."""
    config = json.loads((Path(shipped(SDES[sde]["model"])) / "unet" / "config.json").read_text())
    config.update(num_class_embeds=None, scale_by_sigma=sde == "ve" and recipe == "paper")
    path = folder / f"{sde}-{recipe}.json"
    path.write_text(json.dumps(config))
    return path


def train(sde: str, recipe: str, seed: int, args: argparse.Namespace) -> Path:
    """The folder of the trained pipeline; a finished run is not repeated, an interrupted one goes on."""
    folder = args.output / f"{sde}-{recipe}-{seed}"
    if (folder / "model_index.json").exists():
        return folder
    options = f"{COMMON} {SDES[sde]['options']} {RECIPES[recipe][sde]} --seed {seed} --max_train_steps {args.updates}"
    places = ["--train_data_dir", getattr(args, SDES[sde]["data"]), "--output_dir", str(folder)]
    places += ["--model_config_name_or_path", str(network_config(sde, recipe, args.output))]
    resume = ["--resume_from_checkpoint", "latest"] if any(folder.glob("checkpoint-*")) else []
    module = ["-m", "scoresde_pipelines.training.train_unconditional"]
    started = time.perf_counter()
    subprocess.run([sys.executable, *module, *options.split(), *places, *resume], check=True)
    print(f"{folder.name}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return folder


def distances(folder: Path, data: str, args: argparse.Namespace) -> dict[str, float]:
    """KID of each sampler in `ROWS`."""
    found = {}
    for sampler, steps in ROWS:
        output = args.output / "tables" / f"{folder.name}-{sampler}-{steps}"
        size = {"num_images": args.images, "batch_size": 64}
        result = evaluate(str(folder), data, output, samplers=sampler, steps=steps, metrics="kid", **size)
        found[f"{sampler}, {steps} calls"] = result.rows[0].metrics["kid"].value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", required=True, help="data of the VE runs")
    parser.add_argument("--fashion", required=True, help="data of the VP runs")
    parser.add_argument("--output", type=Path, required=True, help="runs and tables")
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {}
    for seed in args.seeds:
        for sde, settings in SDES.items():
            for recipe in RECIPES:
                folder = train(sde, recipe, seed, args)
                for row, value in distances(folder, getattr(args, settings["data"]), args).items():
                    table.setdefault(sde, {}).setdefault(row, {}).setdefault(recipe, []).append(value)
    for sde, rows in table.items():
        print(f"| {sde}, KID | {' | '.join(RECIPES)} |\n|---|{'---|' * len(RECIPES)}")
        for row, recipes in rows.items():
            cells = [f"{statistics.mean(v):.3f} ({', '.join(f'{x:.3f}' for x in v)})" for v in recipes.values()]
            print(f"| {row} | {' | '.join(cells)} |")
    print(save("recipes", table))


if __name__ == "__main__":
    main()
