"""AdamW against Muon from random weights: equal networks, data, objective and cost, over seeds.

The cost is processor time: an update with Muon takes 5 % longer than one with AdamW, so Muon gets 5 % fewer updates. Runs
the training command and `evaluate`, and goes on after an interruption. A run takes three to four minutes of one core:

OMP_NUM_THREADS=1 python benchmarks/optimizers.py --data fashion_mnist --output optimizers
OMP_NUM_THREADS=1 python benchmarks/optimizers.py --sde ve --data noto_emoji --updates 160 --seeds 0 1 --output optimizers
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from recipes import RECIPES, SDES
from result_file import save

from scoresde_pipelines.evaluation import evaluate
from scoresde_pipelines.training.model_names import shipped


COST = {"adamw": 1.0, "muon": 1.053}  # of an update
COMMON = (
    "--resolution 32 --train_batch_size 64 --lr_scheduler linear --adam_beta2 0.99 --mixed_precision bf16 --channels_last "
    "--cpu --eval_batch_size 0 --report_to none --checkpointing_steps 50 --checkpoints_total_limit 1 "
    "--save_model_epochs 1000 --validation_split test --validation_num_images 512"
)


def network_config(sde: str, folder: Path) -> Path:
    """The configuration of the shipped network, narrower and without classes: 1.8 M parameters."""
    config = json.loads((Path(shipped(SDES[sde]["model"])) / "unet" / "config.json").read_text())
    config.update(num_class_embeds=None, dropout=0.0, block_out_channels=[32, 64, 64, 64])
    path = folder / f"{sde}.json"
    path.write_text(json.dumps(config))
    return path


def train(optimizer: str, seed: int, args: argparse.Namespace) -> Path:
    """The folder of the trained pipeline; a finished run is not repeated, an interrupted one goes on."""
    folder = args.output / f"{args.sde}-{optimizer}-{args.learning_rate:g}-{seed}"
    if (folder / "model_index.json").exists():
        return folder
    updates = round(args.updates / COST[optimizer])
    options = f"{COMMON} {SDES[args.sde]['options']} {RECIPES['edm'][args.sde]} --optimizer {optimizer} --seed {seed}"
    options += f" --learning_rate {args.learning_rate} --lr_warmup_steps {updates // 10}"
    options += f" --max_train_steps {updates} --eval_steps {updates}"
    places = ["--train_data_dir", args.data, "--output_dir", str(folder)]
    places += ["--model_config_name_or_path", str(network_config(args.sde, args.output))]
    resume = ["--resume_from_checkpoint", "latest"] if any(folder.glob("checkpoint-*")) else []
    module = ["-m", "scoresde_pipelines.training.train_unconditional"]
    subprocess.run([sys.executable, *module, *options.split(), *places, *resume], check=True)
    return folder


def measured(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Held-out losses of the averaged weights, in all and by noise band, and the KID of `restart` in 20 calls."""
    last = json.loads((folder / "evaluation.jsonl").read_text().splitlines()[-1])
    losses = {name: value for name, value in last.items() if name.startswith("validation_loss")}
    size = {"num_images": args.images, "batch_size": 64}
    output = args.output / "tables" / folder.name
    result = evaluate(str(folder), args.data, output, samplers="restart", steps=20, metrics="kid", **size)
    return {**losses, "kid": result.rows[0].metrics["kid"].value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sde", choices=list(SDES), default="vp")
    parser.add_argument("--data", required=True, help="Fashion-MNIST for vp, emoji for ve, with a split test")
    parser.add_argument("--output", type=Path, required=True, help="runs and tables")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--updates", type=int, default=250, help="of AdamW")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    table: dict[str, dict[str, list[float]]] = {}
    for seed in args.seeds:
        for optimizer in COST:
            for name, value in measured(train(optimizer, seed, args), args).items():
                table.setdefault(name, {}).setdefault(optimizer, []).append(value)
    print(f"| {args.sde} | {' | '.join(COST)} |\n|---|{'---|' * len(COST)}")
    for name, row in table.items():
        cells = [f"{statistics.mean(v):.4f} ({', '.join(f'{x:.4f}' for x in v)})" for v in row.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    print(save(f"optimizers_{args.sde}", {**vars(args), "output": None, "table": table}))


if __name__ == "__main__":
    main()
