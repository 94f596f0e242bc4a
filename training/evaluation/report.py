"""What an evaluation writes besides `results.json`: a table, pictures, samples in a public layout, the model card."""

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ..durable_files import save_picture, write_text, written_whole
from ..sampling import image_grid
from .estimate import Estimate
from .feature_cache import ImageSelection
from .measures import HIGHER_IS_BETTER
from .plan import Plan
from .result import EvaluationResult, RowResult, metric_names


TITLES = {"kid": "KID", "fd": "FD", "fd_infinity": "FD, N to infinity", "is": "IS", "bpd": "bits/dim", "nn": "copies"}
GRID_IMAGES = 64


def write_report(result: EvaluationResult, plan: Plan, training: ImageSelection | None = None) -> list[str]:
    """Writes `table.md`, the grids and the plot below `plan.output`; returns what could not be written, and why.

    With the training images also the pictures of each row's nearest ones.
    """
    write_text(plan.output / "table.md", markdown_table(result))
    for folder in dict.fromkeys(row.folder for row in plan.rows):
        path = plan.output / "grids" / f"{folder}.png"
        save_picture(path, image_grid(plan.shards(folder, plan.seeds[0]).first_images(GRID_IMAGES)))
        if training is not None and plan.neighbours_path(folder).is_file():
            indices = load_file(plan.neighbours_path(folder))["indices"]
            shown = plan.shards(folder, plan.seeds[0]).first_images(len(indices))
            picture = neighbour_picture(shown, indices, training)
            save_picture(plan.neighbours_path(folder).with_suffix(".png"), picture)
    try:
        plot_quality(result, plan.output / "quality.png")
    except ImportError as error:
        return [f"no plot of quality against calls: {error}"]
    return []


def format_estimate(estimate: Estimate | None) -> str:
    """ "0.0123 +- 0.0045", with two digits of the error."""
    if estimate is None or not math.isfinite(estimate.value):
        return "-"
    if not math.isfinite(estimate.se):
        return f"{estimate.value:.4g}"
    digits = 4 if estimate.se == 0 else min(6, max(0, 1 - math.floor(math.log10(estimate.se))))
    return f"{estimate.value:.{digits}f} +- {estimate.se:.{digits}f}"


def markdown_table(result: EvaluationResult) -> str:
    """The rows and the line "real" as Markdown."""
    names = metric_names(result)
    head = ["model", "sampler", "steps", "calls", *(TITLES.get(name, name) for name in names), "s/image"]
    lines = [head, ["---"] * len(head)]
    for row in result.rows:
        figures = [format_estimate(row.metrics.get(name)) for name in names]
        lines.append(
            [row.model, row.sampler, str(row.steps), f"{row.nfe:.4g}", *figures, f"{row.seconds_per_image:.3g}"]
        )
    real = [format_estimate(result.real.get(name)) for name in names]
    lines.append(["real images", "", "", "", *real, ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n" + _caption(result)


def _caption(result: EvaluationResult) -> str:
    settings, best = result.settings, result.best
    known = {"features": "features", "data": "data", "split": "split", "seeds": "seeds"}
    facts = [f"{title}: {settings[name]}" for name, title in known.items() if name in settings]
    if result.rows:
        facts.insert(0, f"{result.rows[0].num_images} images a row")
    text = "\n" + "; ".join(facts) + ". After +-: one standard error.\n"
    if best is not None and len(result.rows) > 1:
        text += f"\nBest by KID: {_name(best)}.\n"
        if equal := result.equal_to_best:
            text += f"Within the standard error of the difference from it: {'; '.join(map(_name, equal))}.\n"
    return text


def _name(row: RowResult) -> str:
    return f"{row.model}, {row.sampler}, {row.steps} steps"


def plot_quality(result: EvaluationResult, path: Path) -> None:
    """Every measured figure against network calls, one curve per model and sampler, with standard errors.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib is not installed: pip install 'scoresde_pipelines[eval]'") from error
    names = metric_names(result)
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(5 * columns, 4 * lines), layout="constrained")
    for axes, name in zip(figure.subplots(lines, columns, squeeze=False).flat, names):
        curves: dict[str, list[tuple[float, float, float]]] = {}
        for row in result.rows:
            point = (row.nfe, row.metrics[name].value, row.metrics[name].se)
            curves.setdefault(f"{row.model}, {row.sampler}", []).append(point)
        real = result.real.get(name)
        draw_metric(axes, name, curves, math.nan if real is None else real.value)
    figure.axes[0].legend(fontsize="small")
    with written_whole(path) as scratch:
        figure.savefig(scratch, dpi=120)


def draw_metric(
    axes: Any, name: str, curves: Mapping[str, Sequence[tuple[float, float, float]]], real: float = math.nan
) -> None:
    """One figure against network calls, into the axes of matplotlib.

    Args:
        curves: by label, points (calls, value, standard error); NaN for an error that is not known.
        real: the value of real images, or NaN.
    """
    for label, points in curves.items():
        calls, values, errors = zip(*sorted(points))
        known = [0 if math.isnan(error) else error for error in errors]
        axes.errorbar(calls, values, known, marker="o", capsize=3, label=label)
    if math.isfinite(real):
        axes.axhline(real, color="gray", linestyle="--", label="real images")
    direction = "higher" if name in HIGHER_IS_BETTER else "lower"
    title = f"{TITLES.get(name, name)} ({direction} is better)"
    axes.set(xlabel="network calls per image", ylabel=title, xscale="log")


def write_npz(plan: Plan, folder: str, path: Path) -> None:
    """All images of a row as `arr_0`, uint8 (N, H, W, 3): what guided-diffusion's and other evaluation suites read.

    Written batch by batch, so that memory stays flat; gray images are repeated.
    """
    batches: Iterator[Tensor] = (batch for seed in plan.seeds for batch in plan.shards(folder, seed).read("images"))
    first = next(batches)
    count, (height, width) = len(plan.seeds) * plan.num_images, first.shape[-2:]
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, 3)}
    with (
        written_whole(path) as scratch,
        zipfile.ZipFile(scratch, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for batch in chain([first], batches):
            rgb = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
            file.write(rgb.permute(0, 2, 3, 1).contiguous().numpy().tobytes())


def neighbour_picture(generated: Tensor, indices: Tensor, training: ImageSelection) -> Image.Image:
    """Generated images, each in a row with its nearest training images.

    Args:
        generated: uint8 (B, C, H, W).
        indices: of the nearest images of `training`, (B, K).
    """
    rows = []
    for image, nearest in zip(generated, indices.tolist()):
        row = [image[None], training.images[[training.indices[index] for index in nearest]]]
        channels = max(part.shape[1] for part in row)
        rows += [part.expand(-1, channels, -1, -1) for part in row]
    return image_grid(torch.cat(rows), columns=1 + indices.shape[1])


def write_card(card: Path, result: EvaluationResult, rows: Sequence[RowResult], data: str, split: str) -> None:
    """Writes figures into the `model-index` of a model card, over those of the same data, features and sampler.

    Args:
        card: a README.md; made where there is none.
        rows: of this model.
    """
    from huggingface_hub import ModelCard

    model_card: Any = ModelCard.load(card) if card.is_file() else ModelCard("---\ntags: []\n---\n")
    new = [_card_entry(result, row, metric, data, split) for row in rows for metric in row.metrics]
    new = [entry for entry in new if math.isfinite(entry.metric_value)]
    taken = {_card_key(entry) for entry in new}
    old = [entry for entry in model_card.data.eval_results or [] if _card_key(entry) not in taken]
    model_card.data.model_name = model_card.data.model_name or card.resolve().parent.name
    model_card.data.eval_results = [*old, *new]
    write_text(card, str(model_card))


def _card_entry(result: EvaluationResult, row: RowResult, metric: str, data: str, split: str) -> Any:
    from huggingface_hub import EvalResult

    name, estimate = data.rstrip("/").split("/")[-1], row.metrics[metric]
    return EvalResult(
        task_type="unconditional-image-generation",
        dataset_type=name,
        dataset_name=name,
        dataset_split=split,
        metric_type=metric,
        metric_name=f"{TITLES.get(metric, metric)} ({row.sampler}, {row.nfe:.4g} calls, {result.settings.get('features')})",
        metric_value=estimate.value,
        metric_args={"se": estimate.se, "num_images": row.num_images, "sampler": row.sampler, "steps": row.steps},
    )


def _card_key(entry: Any) -> tuple[str, str | None, str | None]:
    return entry.dataset_type, entry.dataset_split, entry.metric_name
