"""The pictures and tables of docs/inverse_problems.md on real data: the shipped models and held-out images.

    python benchmarks/conditional_galleries.py --data ../shared/data            # everything, 16 minutes on one thread
    python benchmarks/conditional_galleries.py --data ../shared/data --only classes --samples 10

`--data` holds the folders `fashion_mnist` and `noto_emoji` (parquet files with a test split). Pictures go to
docs/images, tables to benchmarks/results/conditional_galleries.md.

Restorations: PSNR over what was unknown, and an LPIPS-style distance: squared distance of the normalised activations of
the shipped feature classifier, summed over its layers (Zhang et al. 2018 with the features of the data's own classes). For
scale: the distance between two different held-out images. Classes: the share of generated images that the feature
classifier, which the sampler never sees, assigns to the wanted class.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from scoresde_pipelines import (
    ScoreSdeClassConditionalPipeline,
    ScoreSdeColorizationPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    shipped,
)
from scoresde_pipelines.models import NoiseConditionalClassifier
from scoresde_pipelines.schedulers import AveragePoolOperator
from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images
from scoresde_pipelines.training.feature_classifier import FeatureClassifier
from scoresde_pipelines.training.sampling import image_grid


ROOT = Path(__file__).resolve().parent.parent
CLASSIFIERS = ROOT / "scoresde_pipelines" / "shipped_classifiers"
MODELS = {"emoji": ("emoji-32-ve", "noto_emoji", "emoji-32"),
          "fashion": ("fashion-mnist-32-vp", "fashion_mnist", "fashion-mnist-32")}  # fmt: skip
CLASSES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
Run = Callable[..., object]


def load(pipeline_class, name: str, **kwargs):
    pipe = pipeline_class.from_pretrained(shipped(name), **kwargs)
    pipe.to(torch.float32).set_progress_bar_config(disable=True)
    return pipe


def save(images: Tensor, path: Path, columns: int) -> None:
    """Images (n, C, H, W) in [0, 1] as one picture of 64 colors or grays, `columns` wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image_grid((images * 255).round().to(torch.uint8), columns=columns, scale=2)
    picture.quantize(64).save(path, optimize=True)


# ---------------------------------------------------------------------- figures


def to_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


@torch.no_grad()
def perceptual(classifier: FeatureClassifier, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS-style distances (n,) of images (n, C, H, W) in [0, 1]."""
    h = torch.cat([to_bytes(a), to_bytes(b)]).float() / 127.5 - 1
    distance = torch.zeros(len(a))
    for layer in classifier.body:
        h = layer(h)
        if isinstance(layer, torch.nn.SiLU):
            left, right = functional.normalize(h, dim=1).chunk(2)
            distance += (left - right).square().sum(1).mean((1, 2))
    return distance


def psnr(images: Tensor, truth: Tensor, where: Tensor) -> float:
    return float(-10 * torch.log10(((images - truth) ** 2)[where.expand_as(images)].mean()))


class Report:
    """A markdown file that grows line by line, and is printed meanwhile."""

    def __init__(self, path: Path):
        self.path, self.lines = path, list[str]()

    def add(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(self.lines) + "\n")

    def table(self, title: str, *columns: str) -> None:
        self.add(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")

    def row(self, *cells: object) -> None:
        self.add(f"| {' | '.join(map(str, cells))} |")


# ---------------------------------------------------------------------- classes


def classes(args: argparse.Namespace, report: Report) -> None:
    classifier = NoiseConditionalClassifier.from_pretrained(CLASSIFIERS / "fashion-mnist-32-noise-conditional").float()
    judge = FeatureClassifier.from_pretrained(CLASSIFIERS / "fashion-mnist-32").float().eval()
    pipe = load(ScoreSdeClassConditionalPipeline, "fashion-mnist-32-vp", classifier=classifier.eval())
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, predictor="ancestral", corrector=None)
    images_each = len(args.scales) and args.samples * 10
    title = (
        f"Accuracy of an independent classifier (%), {images_each} images a scale, {args.class_steps} ancestral steps."
    )
    report.table(title, "guidance scale", "all", *CLASSES, "standard deviation within a class")
    for scale in args.scales:
        generator = torch.Generator().manual_seed(0)
        images = pipe(list(range(10)), scale, num_samples=args.samples, num_inference_steps=args.class_steps,
                      generator=generator, output_type="pt").images  # fmt: skip
        with torch.no_grad():
            guesses = judge(to_bytes(images)).argmax(1).reshape(10, args.samples)
        right = 100 * (guesses == torch.arange(10)[:, None]).float().mean(1)
        spread = images.reshape(10, args.samples, -1).std(dim=1).mean()
        report.row(f"{scale:g}", f"{right.mean():.0f}", *(f"{share:.0f}" for share in right), f"{spread:.3f}")
        shown = images.reshape(10, args.samples, *images.shape[1:])[:, :10].flatten(0, 1)
        save(shown, args.output / f"classes_scale_{scale:g}.png", min(args.samples, 10))


# ---------------------------------------------------------------------- restorations


def masks() -> dict[str, Tensor]:
    """White where to repaint, (32, 32)."""
    half, box, free = torch.zeros(32, 32), torch.zeros(32, 32), torch.zeros(32, 32)
    half[:, 16:], box[8:24, 8:24] = 1, 1
    generator = torch.Generator().manual_seed(0)
    y, x = 16.0, 3.0
    for angle in torch.randn(40, generator=generator).cumsum(0) * 0.5:
        y, x = (y + 2 * float(angle.sin())) % 32, (x + 2 * float(angle.cos())) % 32
        free[int(y) : int(y) + 4, int(x) : int(x) + 4] = 1
    scattered = (torch.rand(32, 32, generator=generator) < 0.9).float()
    return {"half": half, "box": box, "random 90 %": scattered, "free-form": free}


def tasks(model: str, truth: Tensor) -> Iterator[tuple[str, Tensor, Run, Tensor]]:
    """Name, what is known as a picture, a function that restores, and where to compare."""
    inpaint = load(ScoreSdeInpaintPipeline, model)
    for name, mask in masks().items():
        shown = torch.where(mask.bool(), torch.tensor(0.5), truth)
        yield name, shown, lambda mask=mask, **options: inpaint(truth, mask, **options), mask.bool()
    everywhere = torch.ones(32, 32, dtype=torch.bool)
    if truth.shape[1] == 3:
        color, gray = load(ScoreSdeColorizationPipeline, model), truth.mean(1, keepdim=True)
        yield "colorization", gray.expand_as(truth), lambda **options: color(gray, **options), everywhere
    enlarge, small = load(ScoreSdeInverseProblemPipeline, model), AveragePoolOperator(4).A(truth)
    shown = small.repeat_interleave(4, -1).repeat_interleave(4, -2)
    run = lambda **options: enlarge(small, AveragePoolOperator(4), 0.01, **options)  # noqa: E731
    yield "4 x super-resolution", shown, run, everywhere


def restore(key: str, args: argparse.Namespace, report: Report) -> None:
    model, folder, judge = MODELS[key]
    table = load_images(train_data_dir=str(args.data / folder), split="test")
    channels = 1 if key == "fashion" else 3
    store = ImageStore(table.select(args.images), ImageFormat(32, channels, "pad" if channels == 1 else "crop"))
    truth = store[list(range(len(args.images)))].float() / 255
    classifier = FeatureClassifier.from_pretrained(CLASSIFIERS / judge).float().eval()
    stochastic = {"num_inference_steps": args.steps // 2, "sampler": "scheduler", "solver_iterations": 1}
    methods = {"moment_matching": stochastic, "replacement": {"num_inference_steps": args.steps}}
    others = float(perceptual(classifier, truth, truth.roll(1, 0)).mean())
    title = (f"{model}: {len(truth)} held-out images, {args.samples_each} samples of each. Perceptual distance of two "
             f"different images: {others:.2f}.")  # fmt: skip
    report.table(title, "task", "method", "evaluations", "PSNR of a sample, dB", "PSNR of their mean, dB",
                 "perceptual distance", "standard deviation")  # fmt: skip
    for task, shown, run, where in tasks(model, truth):
        rows = [truth, shown]
        for method, settings in methods.items():
            generator = torch.Generator().manual_seed(0)
            out = run(method=method, num_samples=args.samples_each, output_type="pt", generator=generator, **settings)
            samples = out.images.reshape(len(truth), args.samples_each, *truth.shape[1:])
            repeated = truth.repeat_interleave(args.samples_each, 0)
            report.row(
                task,
                method.replace("_", " "),
                out.nfe,
                f"{psnr(out.images, repeated, where):.2f}",
                f"{psnr(samples.mean(1), truth, where):.2f}",
                f"{float(perceptual(classifier, out.images, repeated).mean()):.3f}",
                f"{float(samples.std(dim=1, correction=0)[where.expand_as(truth)].mean()):.3f}",
            )
            rows += list(samples.unbind(1))[: 3 if method == "moment_matching" else 1]
        name = task.replace(" %", "").replace(" ", "_")
        save(torch.cat(rows), args.output / f"{model}_{name}.png", len(truth))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with fashion_mnist and noto_emoji")
    parser.add_argument("--only", choices=("classes", *MODELS), nargs="+", default=["classes", *MODELS])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder for the pictures")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "conditional_galleries.md")
    parser.add_argument("--images", type=int, nargs="+", default=[3, 40, 61, 90, 123, 200], help="test rows")
    parser.add_argument("--samples-each", type=int, default=3, help="samples of each held-out image")
    parser.add_argument("--steps", type=int, default=100, help="evaluations of a restoration, about")
    parser.add_argument("--samples", type=int, default=10, help="images of each class")
    parser.add_argument("--class-steps", type=int, default=60)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 1.0, 2.0, 4.0, 8.0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    started, report = time.monotonic(), Report(args.results)
    report.add("Made by `python benchmarks/conditional_galleries.py --data DATA`; see docs/inverse_problems.md.")
    for key in args.only:
        classes(args, report) if key == "classes" else restore(key, args, report)
        print(f"{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
