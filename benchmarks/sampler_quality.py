"""docs/images/samplers.png: the KID of the shipped models by sampler and number of network calls.

    scoresde evaluate --model emoji-32-ve --data noto_emoji --split test --num-images 256 --metrics kid --output emoji \
        --sampler restart --sampler multistep --sampler ddim --sampler ancestral_karras --steps 10 --steps 20 --steps 50
    python benchmarks/sampler_quality.py emoji emoji-guided fashion ...

takes the figures from evaluations, in any number of folders, writes them to `benchmarks/results/sampler_quality.json`, draws
the picture and prints the rows of the table in docs/samplers.md. Without folders it draws the figures of that file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from documentation_figures import write
from result_file import RESULTS, save

from scoresde_pipelines.training.evaluation.report import draw_metric
from scoresde_pipelines.training.evaluation.result import EvaluationResult


matplotlib.use("Agg")
from matplotlib import pyplot as plt


NAME = "sampler_quality"
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
LABELS = {
    "restart": "restart",
    "multistep": "exponential_multistep",
    "ddim": "DDIM",
    "ancestral_karras": "ancestral, Karras grid",
    "reverse_diffusion": "reverse diffusion",
    "pc": "predictor-corrector",
}


def label(sampler: str) -> str:
    """A sampler's name in the picture; "default" is that of both models, and "x, guidance 2" has a class."""
    name, _, guidance = sampler.replace("default", "restart").partition(", ")
    return LABELS.get(name, name) + (f", class, {guidance}" if guidance else "")


def read(folders: list[Path]) -> dict[str, Any]:
    """By model, the points (calls, KID, standard error) of every sampler, and the KID of real images."""
    figures: dict[str, Any] = {}
    for result in map(EvaluationResult.load, folders):
        for row in result.rows:
            found = figures.setdefault(row.model, {"samplers": {}, "real": None})
            kid, real = row.metrics["kid"], result.real["kid"]
            points = found["samplers"].setdefault(label(row.sampler), [])
            point = [row.nfe, kid.value, kid.se]
            points += [] if point in points else [point]
            found["real"] = [real.value, real.se]
    return figures


def draw(figures: dict[str, Any]) -> None:
    """A panel for each model, both axes logarithmic."""
    figure, panels = plt.subplots(
        1, len(figures), figsize=(4.8 * len(figures), 3.8), layout="constrained", squeeze=False
    )
    for axes, (model, found) in zip(panels.flat, sorted(figures.items())):
        ordered = sorted(
            found["samplers"].items(), key=lambda item: list(LABELS.values()).index(item[0].split(", class")[0])
        )
        draw_metric(axes, "kid", {name: [tuple(point) for point in points] for name, points in ordered})
        calls = sorted({round(point[0]) for _, points in ordered for point in points})
        axes.set(title=model, yscale="log")
        axes.set_xticks(calls, map(str, calls))
        limits = axes.get_ylim()
        axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.set_ylim(limits)
        axes.minorticks_off()
    panels.flat[-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    write(figure, "samplers")


def table(figures: dict[str, Any]) -> str:
    """The rows of the table: sampler, calls, and a column for each model."""
    models = sorted(figures)
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for model in models:
        for name, points in figures[model]["samplers"].items():
            for calls, value, error in sorted(points):
                cells.setdefault((name, round(calls)), {})[model] = f"{value:.4f} +- {error:.4f}"
    rows = [
        f"| {name} | {calls} | {' | '.join(row.get(model, '') for model in models)} |"
        for (name, calls), row in cells.items()
    ]
    real = (f"{figures[model]['real'][0]:.4f} +- {figures[model]['real'][1]:.4f}" for model in models)
    return "\n".join([f"| KID | calls | {' | '.join(models)} |", *rows, f"| real images | | {' | '.join(real)} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="*", type=Path, help="output folders of scoresde evaluate")
    folders = parser.parse_args().evaluations
    if folders:
        save(NAME, read(folders))
    figures = json.loads((RESULTS / f"{NAME}.json").read_text("utf-8"))["figures"]
    print(table(figures))
    draw(figures)


if __name__ == "__main__":
    main()
