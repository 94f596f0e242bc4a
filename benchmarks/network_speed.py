"""Forward and training-step time of our networks beside those they replace, in one run, with outputs compared.

    python benchmarks/network_speed.py                                   # against diffusers' UNet2DModel
    python benchmarks/network_speed.py --official ../score_sde_pytorch   # and against a checkout of the official code
    python benchmarks/network_speed.py --device cuda --compile --dtype bfloat16 --batch-sizes 128
    python benchmarks/network_speed.py --memory                          # peak memory of the 1024 px network

Three times each: one call, one of the calls of a sampling loop (ours then keeps its filters packed, as the pipelines do),
and a training step. Rounds alternate between the contestants and each one's fastest counts, so that a drifting host treats
all alike. All compute in `--dtype`; `--compile` compiles ours alone. Networks have full size and fresh weights (initial
scale 1, so that nothing is silent); beside the official code they are the same.
"""

import argparse
import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import official_code
import torch
from diffusers import UNet2DModel
from result_file import save
from torch import nn

from scoresde_pipelines.models import packed_filters
from scoresde_pipelines.models.official.config import preset_from_official_config
from scoresde_pipelines.models.official.keys import from_official
from scoresde_pipelines.models.official.presets import PRESETS
from scoresde_pipelines.models.unet2d_conversion import to_unet2d


NETWORKS = ("ve/cifar10_ncsnpp_continuous", "vp/cifar10_ddpmpp_continuous", "ve/church_ncsnpp_continuous")
# What a diffusers user would take where UNet2DModel cannot express the network: the published DDPM layout, widened and
# deepened to the same number of blocks.
PEER: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 4,
    "attention_head_dim": None,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
MODES = ("forward", "sampling", "both")


class Contestant:
    """A network with its name and a way to call it."""

    def __init__(self, name: str, network: nn.Module, args: argparse.Namespace, ours: bool) -> None:
        self.name, self.args = name, args
        network = network.to(args.device)
        if ours:
            network = network.to(memory_format=torch.channels_last)
        self.network: Callable[..., Any] = torch.compile(network, fullgraph=True) if ours and args.compile else network
        self.parameters = list(network.parameters())
        self.loop = partial(packed_filters, network) if ours else contextlib.nullcontext
        self.times: dict[str, list[float]] = {mode: [] for mode in MODES}

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The output, whatever it comes wrapped in."""
        with self._precision():
            output = self.network(x, t)
        return output if torch.is_tensor(output) else output.sample

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.args.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.args.device, torch.bfloat16)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> float:
        """Milliseconds of one evaluation; one call before it warms the memory up."""
        with torch.no_grad():
            self(x, t)
            return min(timed(self.args, lambda: self(x, t)) for _ in range(2))

    def sampling(self, x: torch.Tensor, t: torch.Tensor) -> float:
        """Milliseconds of one evaluation in a sampling loop."""
        with self.loop():
            return self.forward(x, t)

    def both(self, x: torch.Tensor, t: torch.Tensor) -> float:
        """Milliseconds of a forward and backward pass, as in training."""
        milliseconds = timed(self.args, lambda: self(x, t).float().square().mean().backward())
        for parameter in self.parameters:
            parameter.grad = None
        return milliseconds


def timed(args: argparse.Namespace, call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    if args.device == "cuda":
        torch.cuda.synchronize()
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    start = clock()
    call()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (clock() - start)


def contestants(name: str, args: argparse.Namespace) -> Iterator[Contestant]:
    """Ours first, then the official network with equal weights (if there is a checkout), then the peer."""
    torch.manual_seed(0)
    if args.official:
        config = official_code.official_config(name)
        config.device, config.model.dropout, config.model.init_scale = args.device, 0.0, 1.0
        official = official_code.official_network(config)
        ours = preset_from_official_config(config).make_model()
        ours.load_state_dict(from_official(ours, official.state_dict()))
        yield Contestant("ours", ours, args, True)
        yield Contestant("official", official, args, False)
    else:
        preset = PRESETS[name]
        ours = type(preset.make_model())(**{**preset.model, "dropout": 0.0, "init_scale": 1.0})
        yield Contestant("ours", ours, args, True)
    try:
        peer = to_unet2d(ours)
    except ValueError:
        peer = UNet2DModel(**PEER)
    yield Contestant("UNet2DModel", peer, args, False)


def measure(found: list[Contestant], x: torch.Tensor, t: torch.Tensor, args: argparse.Namespace) -> None:
    """Fill in the contestants' times, round by round."""
    for one in found:
        one.both(x, t)
    for _ in range(args.rounds):
        for one in found:
            for mode, times in one.times.items():
                times.append(getattr(one, mode)(x, t))


def compare(name: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one network at one batch size; print a table and return its figures."""
    size = PRESETS[name].arguments()["sample_size"]
    x = torch.rand(batch, 3, size, size, device=args.device)
    t = torch.linspace(0.5, 20.0, batch, device=args.device)
    found = list(contestants(name, args))
    outputs = []
    for one in found:
        with torch.no_grad(), one.loop():
            outputs.append(one(x, t))
    measure(found, x, t, args)
    ours = found[0]
    figures: dict[str, Any] = {"network": name, "batch": batch, "dtype": args.dtype, "clock": args.clock}
    print(f"\n{name}, batch {batch}, {args.device}, {args.dtype}, {args.clock} time")
    print(f"{'':14}{'parameters':>12}" + "".join(f"{mode:>12}" for mode in MODES) + "   ours is faster")
    for one in found:
        best = {mode: min(times) for mode, times in one.times.items()}
        ratios = [time / min(ours.times[mode]) for mode, time in best.items()]
        millions = sum(parameter.numel() for parameter in one.parameters) / 1e6
        row = "".join(f"{time:9.1f} ms" for time in best.values()) + "   " + ", ".join(f"{r:.2f} x" for r in ratios)
        print(f"{one.name:14}{millions:10.2f} M{row}")
        figures[one.name] = {f"{mode}_ms": round(time, 1) for mode, time in best.items()}
        figures[one.name] |= {"ours_is_faster": [round(ratio, 2) for ratio in ratios]}
    if args.official:
        error = float((outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max())
        print(f"largest difference of the outputs, relative: {error:.1e}")
        figures["largest_difference"] = float(f"{error:.1e}")
    return figures


def measure_memory(args: argparse.Namespace) -> None:
    """One forward of the 1024 px network at batch 1."""
    network = PRESETS["ve/ffhq_ncsnpp_continuous"].make_model().eval().to(args.device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with torch.no_grad():
        output = network(torch.rand(1, 3, 1024, 1024, device=args.device), 1.0).sample
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - start
    print(f"1024 px, batch 1: output {tuple(output.shape)} in {seconds:.1f} s, peak memory {peak:.2f} GiB", end="")
    print("" if args.device == "cuda" else f" ({before / 2**20:.2f} GiB before the call)")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of yang-song/score_sde_pytorch")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true", help="compile ours with torch.compile")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="cpu: processor time, for a host that is busy otherwise",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=sorted(PRESETS))
    parser.add_argument("--name", default="network_speed", help="name of the file of results")
    parser.add_argument("--memory", action="store_true", help="measure the 1024 px network's memory instead")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory:
        measure_memory(args)
        return
    if args.official:
        official_code.import_official(args.official.resolve())
    save(args.name, [compare(name, batch, args) for name in args.networks for batch in args.batch_sizes])


if __name__ == "__main__":
    main()
