"""`python -m scoresde_pipelines.viz`: pictures from the command line."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..training.program_end import end_at_once, run_program


if __name__ == "__main__":
    end_at_once()

import torch

from ..evaluation_models import load_weak_network
from ..models import GaussianMixtureScoreModel
from ..pipeline_score_sde import ScoreSdePipeline
from ..schedulers import SDEScheduler, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from ..schedulers.checks import check_integer
from ..training.destinations import check_writable
from ..training.durable_files import written_whole
from .figures import plot_marginals, plot_quality, plot_score_field
from .grids import save_gif
from .trajectories import sample_trajectory


def scheduler_of(name: str) -> SDEScheduler:
    """A scheduler of the SDE "ve", "vp" or "subvp"; VE with noise up to 2, so that the data remain visible beside it."""
    if name == "ve":
        return VESDEScheduler(sigma_max=2.0)
    return VPSDEScheduler(continuous=True) if name == "vp" else SubVPSDEScheduler()


def main(arguments: list[str] | None = None) -> None:
    """Draws one picture and prints its path."""
    parser = argparse.ArgumentParser(prog="python -m scoresde_pipelines.viz", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    marginals = commands.add_parser("marginals", help="the paper's figure 2: densities and paths of 1-D data")
    field = commands.add_parser("score-field", help="densities, scores and samples of 2-D data")
    trajectory = commands.add_parser("trajectory", help="a GIF of a model's sampling: states and denoised images")
    quality = commands.add_parser("quality", help="an evaluation's figures against network calls")
    for command in (marginals, field):
        command.add_argument("--sde", choices=["ve", "vp", "subvp"], default="vp")
    for command in (marginals, field, trajectory):
        command.add_argument("--seed", type=int, default=3)
    for command in (marginals, field, trajectory, quality):
        command.add_argument("--output", type=Path, required=True, help="the picture to write")
    trajectory.add_argument("--model", default="emoji-32-ve", help="a shipped name, a folder or a Hub id")
    trajectory.add_argument("--num-images", type=int, default=4)
    trajectory.add_argument("--steps", type=int, default=50, help="noise levels")
    trajectory.add_argument("--weak-model", help="autoguidance by this model: as --model, or a training checkpoint")
    trajectory.add_argument("--weak-guidance-scale", type=float, help="of --weak-model; 1 is without, 2 by default")
    trajectory.add_argument("--max-frames", type=int, default=20)
    trajectory.add_argument("--scale", type=int, default=2, help="side in pixels of each pixel")
    quality.add_argument("--results", type=Path, required=True, help="folder of an evaluation")
    args = parser.parse_args(arguments)
    try:
        check_writable("--output", args.output)
        check_integer("--seed", getattr(args, "seed", 0), 0, 2**63 - 1)
        draw(args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(args.output.resolve())


def draw(args: argparse.Namespace) -> None:
    """The picture that the parsed arguments name."""
    if args.command == "trajectory":
        pipe = ScoreSdePipeline.from_pretrained(args.model)
        weak = None if args.weak_model is None else load_weak_network(args.weak_model)
        frames = sample_trajectory(
            pipe,
            args.num_images,
            args.steps,
            generator=torch.Generator().manual_seed(args.seed),
            max_frames=args.max_frames,
            scale=args.scale,
            weak_unet=weak,
            weak_guidance_scale=args.weak_guidance_scale,
        )
        save_gif(frames, args.output)
    elif args.command == "quality":
        plot_quality(args.results, args.output)
    elif args.command == "marginals":
        # Two modes of unequal weight and width, on the line and below in the plane.
        line = GaussianMixtureScoreModel(weights=[0.35, 0.65], means=[[-0.7], [0.6]], variances=[0.01, 0.03])
        save_figure(plot_marginals(line, scheduler_of(args.sde), seed=args.seed), args.output)
    else:
        means = [[-0.8, -0.3], [0.7, 0.4]]
        plane = GaussianMixtureScoreModel(weights=[0.4, 0.6], means=means, variances=[0.02, 0.06])
        save_figure(plot_score_field(plane, scheduler_of(args.sde), seed=args.seed), args.output)


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure of matplotlib in one step."""
    with written_whole(path) as scratch:
        figure.savefig(scratch)


if __name__ == "__main__":
    run_program(main)
