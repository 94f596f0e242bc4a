"""The pictures and figures of docs/inverse_problems.md on the shipped models and held-out images.

    python benchmarks/conditional_galleries.py classes --data ../shared/data/fashion_mnist
    python benchmarks/conditional_galleries.py restore --data ../shared/data/noto_emoji --model emoji-32-ve

`classes`: one row a class; accuracy of an independent classifier on the images, by guidance scale.
`restore`: rows are image, what is known, two samples; PSNR over what was unknown, of each sample and of their mean.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor


ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from scoresde_pipelines import (  # noqa: E402
    ScoreSdeClassConditionalPipeline,
    ScoreSdeColorizationPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    shipped,
)
from scoresde_pipelines.models import NoiseConditionalClassifier  # noqa: E402
from scoresde_pipelines.schedulers import AveragePoolOperator  # noqa: E402
from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images  # noqa: E402
from scoresde_pipelines.training.feature_classifier import FeatureClassifier  # noqa: E402
from scoresde_pipelines.training.sampling import image_grid  # noqa: E402


CLASSIFIERS = ROOT / "scoresde_pipelines" / "shipped_classifiers"


def load(pipeline_class, name: str, **kwargs):
    pipe = pipeline_class.from_pretrained(shipped(name), **kwargs)
    pipe.to(torch.float32).set_progress_bar_config(disable=True)
    return pipe


def save(images: Tensor, path: Path, columns: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image_grid((images * 255).round().to(torch.uint8), columns=columns, scale=2).save(path)


def classes(args: argparse.Namespace) -> None:
    classifier = NoiseConditionalClassifier.from_pretrained(CLASSIFIERS / "fashion-mnist-32-noise-conditional")
    judge = FeatureClassifier.from_pretrained(CLASSIFIERS / "fashion-mnist-32").float().eval()
    pipe = load(ScoreSdeClassConditionalPipeline, "fashion-mnist-32-vp", classifier=classifier.eval())
    print(
        "| guidance scale | accuracy of an independent classifier | standard deviation within a class |\n|---|---|---|"
    )
    for scale in args.scales:
        images = pipe(
            list(range(10)),
            scale,
            num_samples=args.samples,
            num_inference_steps=args.steps,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        wanted = torch.arange(10).repeat_interleave(args.samples)
        with torch.no_grad():
            right = judge((images * 255).round().to(torch.uint8)).argmax(1) == wanted
        spread = images.reshape(10, args.samples, -1).std(dim=1).mean()
        print(f"| {scale:g} | {100 * float(right.float().mean()):.0f} % | {float(spread):.3f} |", flush=True)
        save(images, args.output / f"classes_scale_{scale:g}.png", args.samples)


def masks() -> dict[str, Tensor]:
    """White where to repaint, (32, 32)."""
    half, box, free = torch.zeros(32, 32), torch.zeros(32, 32), torch.zeros(32, 32)
    half[:, 16:], box[9:23, 9:23] = 1, 1
    generator = torch.Generator().manual_seed(0)
    y, x = 16.0, 3.0
    for angle in torch.randn(40, generator=generator).cumsum(0) * 0.5:
        y, x = (y + 2 * float(angle.sin())) % 32, (x + 2 * float(angle.cos())) % 32
        free[int(y) : int(y) + 4, int(x) : int(x) + 4] = 1
    return {
        "half": half,
        "box": box,
        "random 90 %": (torch.rand(32, 32, generator=generator) < 0.9).float(),
        "free": free,
    }


def psnr(images: Tensor, truth: Tensor, where: Tensor) -> float:
    return float(-10 * torch.log10(((images - truth) ** 2)[where.expand_as(images)].mean()))


def report(task: str, method: str, nfe: int, images: Tensor, truth: Tensor, where: Tensor) -> None:
    samples = images.reshape(len(truth), -1, *truth.shape[1:])
    each = psnr(images, truth.repeat_interleave(samples.shape[1], 0), where)
    spread = float(samples.std(dim=1)[where.expand_as(truth)].mean())
    mean = psnr(samples.mean(1), truth, where)
    print(f"| {task} | {method} | {nfe} | {each:.2f} | {mean:.2f} | {spread:.3f} |", flush=True)


def restore(args: argparse.Namespace) -> None:
    table = load_images(train_data_dir=str(args.data), split="test")
    channels = load(ScoreSdeInpaintPipeline, args.model).sample_shape[0]
    store = ImageStore(table.select(args.images), ImageFormat(32, channels, "pad" if channels == 1 else "crop"))
    truth = store[list(range(len(args.images)))].float() / 255
    options = {"num_samples": args.samples, "output_type": "pt"}
    print("| task | method | evaluations | PSNR, each sample | PSNR, their mean | standard deviation |")
    print("|---|---|---|---|---|---|")

    def gallery(task: str, known: Tensor, run, where: Tensor) -> None:
        rows = [truth, known]
        for method, settings in args.methods.items():
            out = run(method=method, generator=torch.Generator().manual_seed(0), **options, **settings)
            report(task, method, out.nfe, out.images, truth, where)
            rows += [out.images[k :: args.samples] for k in range(2)]
        save(
            torch.cat(rows),
            args.output / f"{args.model}_{task.replace(' ', '_').replace('%', 'percent')}.png",
            len(truth),
        )

    inpaint = load(ScoreSdeInpaintPipeline, args.model)
    for name, mask in masks().items():
        shown = torch.where(mask.bool(), torch.tensor(0.5), truth)
        gallery(name, shown, lambda mask=mask, **kw: inpaint(truth, mask, **kw), mask.bool())
    everywhere = torch.ones(32, 32, dtype=torch.bool)
    small = AveragePoolOperator(4).A(truth)
    enlarge = load(ScoreSdeInverseProblemPipeline, args.model)
    shown = small.repeat_interleave(4, -1).repeat_interleave(4, -2)
    gallery("4 x super-resolution", shown, lambda **kw: enlarge(small, AveragePoolOperator(4), 0.01, **kw), everywhere)
    if channels == 3:
        color, gray = load(ScoreSdeColorizationPipeline, args.model), truth.mean(1, keepdim=True)
        gallery("colorization", gray.expand_as(truth), lambda **kw: color(gray, **kw), everywhere)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("classes", "restore"))
    parser.add_argument("--data", type=Path, help="folder with the held-out images (parquet)")
    parser.add_argument("--model", default="emoji-32-ve", help="a shipped pipeline")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder for the pictures")
    parser.add_argument("--images", type=int, nargs="+", default=[3, 40, 90, 200], help="rows of the test split")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 1.0, 3.0])
    parser.add_argument("--replacement", action="store_true", help="the paper's method as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stochastic = {"num_inference_steps": args.steps // 2, "sampler": "scheduler", "solver_iterations": 1}
    args.methods = {"moment_matching": stochastic}
    if args.replacement:
        args.methods["replacement"] = {"num_inference_steps": args.steps}
    classes(args) if args.what == "classes" else restore(args)


if __name__ == "__main__":
    main()
