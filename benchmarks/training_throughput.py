"""Images per second of a training update, and the share of the device's measured matmul peak that it reaches.

    OMP_NUM_THREADS=1 python benchmarks/training_throughput.py --clock cpu       # one core of a busy host
    python benchmarks/training_throughput.py --device cuda --batch-size 128 --updates 10 --no-memory [--compile]

An update is that of `train_unconditional`: times, noise, forward, backward, gradient clipping, Adam and the moving average.
Operations are those of the matrix products and convolutions of forward and backward, without any shortcut: on a CPU in
float32, Winograd's algorithm needs fewer, and the share can exceed 1. The peak is the fastest of a few products of square
matrices in the same type; on a GPU of `DATASHEET`, the share of its stated bfloat16 peak stands beside it. The fastest
update counts. The host's time of an update is what it takes until everything is launched; where it is as long as the
update, the GPU waits for the CPU. Besides, the memory of what a forward pass keeps for the backward pass, in float32.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from result_file import save
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from scoresde_pipelines.models.official.presets import PRESETS
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.trainer import Trainer


NETWORKS = ("ve/cifar10_ncsnpp_continuous", "vp/cifar10_ddpmpp_continuous")
MEMORY = (*NETWORKS, "ve/church_ncsnpp_continuous", "ve/ffhq_ncsnpp_continuous")  # 32, 32, 256 and 1024 px
# Dense bfloat16 operations per second by NVIDIA's data sheets, by a part of the name; the first that fits.
DATASHEET = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12}
SETTINGS = {
    "float32": [],
    "float32, channels last": ["--channels_last"],
    "bfloat16": ["--mixed_precision", "bf16"],
    "bfloat16, channels last": ["--mixed_precision", "bf16", "--channels_last"],
}


def seconds(args: argparse.Namespace, call: Callable[[], Any]) -> float:
    """Wall time of a call, or with `--clock cpu` its processor time."""
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    if args.device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    call()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def matmul_peak(args: argparse.Namespace, dtype: torch.dtype) -> float:
    """Operations per second of the product of two square matrices, the fastest of several sizes."""
    rates = []
    for size in (4096, 8192) if args.device == "cuda" else (1024, 2048):
        a, b = (torch.randn(size, size, device=args.device).to(dtype) for _ in range(2))
        torch.mm(a, b)
        rates.append(2 * size**3 / min(seconds(args, lambda a=a, b=b: torch.mm(a, b)) for _ in range(5)))
    return max(rates)


def count(name: str) -> tuple[float, float]:
    """Operations of forward and backward for one image, and bytes that the forward pass keeps for the backward pass.

    On the device "meta", where nothing is computed and no CPU has an algorithm of its own.
    """
    preset, kept = PRESETS[name], {}
    size = preset.arguments()["sample_size"]
    with torch.device("meta"):
        network = preset.make_model()
        x, t = torch.empty(1, 3, size, size), torch.ones(1)
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # several tensors may share one
        return tensor

    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        network(x, t).sample.sum().backward()
    return float(counter.get_total_flops()), float(sum(storage.nbytes() for storage in kept.values()))


def datasheet_peak(args: argparse.Namespace, setting: str) -> float | None:
    """The stated operations per second of this GPU, if it is one of `DATASHEET` and the products are in bfloat16."""
    if args.device != "cuda" or not setting.startswith("bfloat16"):
        return None
    return next((peak for name, peak in DATASHEET.items() if name in torch.cuda.get_device_name()), None)


class Live(TorchDispatchMode):
    """Follows the memory of all tensors that are made in this context.

    Attributes:
        peak: most bytes that were there at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known or self.known[storage._cdata][0].expired():
                    self.known[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.known = {key: entry for key, entry in self.known.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.known.values()))
        return result


def checkpointed(name: str) -> float:
    """Bytes that one more image adds to the peak of forward and backward with `--gradient_checkpointing`, float32."""
    preset, peaks = PRESETS[name], []
    size = preset.arguments()["sample_size"]
    for batch in (16, 32):
        with torch.device("meta"):
            network = preset.make_model()
            x, t = torch.empty(batch, 3, size, size), torch.ones(batch)
        network.enable_gradient_checkpointing()
        with Live() as live:
            network(x, t).sample.sum().backward()
        peaks.append(live.peak)
    return (peaks[1] - peaks[0]) / 16


def make_trainer(name: str, options: list[str], args: argparse.Namespace, folder: Path) -> Trainer:
    """The training of a published network on a few images of noise."""
    AcceleratorState._reset_state(reset_partial_state=True)
    preset = PRESETS[name]
    config = {**preset.arguments(), "_class_name": preset.model_class}
    (folder / "config.json").write_text(json.dumps(config))
    size = int(config["sample_size"])
    pixels = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    words = ["--train_data_dir", str(folder), "--model_config_name_or_path", str(folder / "config.json")]
    words += [
        "--sde",
        name[:2],
        "--train_batch_size",
        str(args.batch_size),
        "--report_to",
        "none",
        "--max_train_steps",
        "9",
    ]
    words += ["--output_dir", str(folder / "run"), "--overwrite_output_dir", *options]
    words += ["--cpu"] if args.device == "cpu" else []
    words += ["--compile"] if args.compile else []
    return Trainer(parse_args(words))


def launch_seconds(trainer: Trainer, pictures: Any, args: argparse.Namespace) -> float:
    """Wall time until an update returns, which on a GPU is before it is done; the fastest of several."""
    times = []
    for _ in range(args.updates):
        if args.device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        trainer.update(pictures)
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str, setting: str, peak: float, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one network under one setting."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(name, SETTINGS[setting], args, Path(folder))
        pictures = trainer.source.read(0)
        trainer.update(pictures)  # prepares the device
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = [seconds(args, lambda: trainer.update(pictures)) for _ in range(args.updates)]
        host = launch_seconds(trainer, pictures, args)
        trainer.checkpoints.close()
    rate = args.batch_size / min(times)
    operations, activations = count(name)
    stated = datasheet_peak(args, setting)
    return {
        "network": name,
        "setting": setting + (", compiled" if args.compile else ""),
        "images_per_s": rate,
        "gflop_per_image": operations / 1e9,
        "share_of_matmul_peak": operations * rate / peak,
        "share_of_datasheet_peak": None if stated is None else operations * rate / stated,
        "host_ms_per_update": 1e3 * host,
        "float32_activations_gb_per_image": activations / 1e9,
        "slowest_update_is_slower_by": max(times) / min(times) - 1,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=sorted(PRESETS))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--updates", type=int, default=2, help="that are timed, after the first")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time of all threads")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave the memory of the networks out: a minute on a CPU"
    )
    parser.add_argument("--name", default="training_throughput", help="of the file in benchmarks/results")
    args = parser.parse_args()
    peaks = {kind: matmul_peak(args, getattr(torch, kind)) for kind in ("float32", "bfloat16")}
    print({kind: f"{peak / 1e9:.0f} GFLOP/s" for kind, peak in peaks.items()})
    found = []
    for name in args.networks:
        for setting in args.settings:
            found.append(measure(name, setting, peaks[setting.split(",")[0]], args))
            print({key: round(value, 3) if isinstance(value, float) else value for key, value in found[-1].items()})
    memory = {name: (count(name)[1] / 1e9, checkpointed(name) / 1e9) for name in (() if args.no_memory else MEMORY)}
    print("float32 activations of an image in GB, and with gradient checkpointing:", memory)
    save(
        args.name,
        {"float32_activations_gb_per_image": memory, "matmul_peak_flop_per_s": peaks, **vars(args), "runs": found},
    )


if __name__ == "__main__":
    main()
