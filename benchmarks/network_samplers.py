"""Samplers on a trained network, ours beside those of diffusers and azula, at equal numbers of network calls.

    python benchmarks/network_samplers.py --model fashion-mnist-32-vp --data fashion_mnist

All start from the same noise. For every number of calls: the rms distance of the images to those of the exact flow, which
samplers with noise do not have, and the KID of EfficientNet-Lite0 features against as many real images. Everyone is told
the network's noise prediction at its own noise levels, unrounded. The solvers of diffusers: those for VP networks at their
default grid and at Karras' (a VE network is none of theirs), those of EDM for every network. Azula where it is installed.
`learned_steps` where the model's configuration has steps for the number of calls.
"""

import argparse
import importlib.util
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from diffusers.utils import logging
from networks import (
    BATCH,
    EXACT_CALLS,
    Judge,
    distance,
    exact_flow,
    images,
    load,
    network_truth,
    unit_noise,
    with_predictor,
)
from result_file import save
from samplers import PEERS, Asked, with_azula, with_diffusers
from tables import network_table
from torch import Tensor

from scoresde_pipelines import ScoreSdePipeline


VP_PEERS = ("DDIM", "DPM-Solver++ 2M", "DPM-Solver++ 3M", "UniPC 3", "DEIS 3", "Heun (EDM)")
VP_GRIDS = ({}, {"use_karras_sigmas": True})
EDM_PEERS: dict[str, tuple[type, dict]] = {
    "EDM Euler": (EDMEulerScheduler, {}),
    "EDM DPM-Solver++ 2M": (EDMDPMSolverMultistepScheduler, {"solver_order": 2}),
    "EDM DPM-Solver++ 3M": (EDMDPMSolverMultistepScheduler, {"solver_order": 3}),
}
EDM_GRIDS = ({"sigma_schedule": "karras"}, {"sigma_schedule": "exponential"})
EDM_LAST = 0.002  # the default of diffusers' schedulers, as a part of a data range of 2
AZULA_STOPS = (1e-3, 1e-2)

Contestant = Callable[[Asked, int], Tensor]


def with_edm(asked: Asked, kind: type, options: dict, calls: int, data_std: float) -> Tensor:
    """The samples of a scheduler of diffusers for preconditioned networks; its state is x / alpha."""
    ratio = partial(torch.tensor, dtype=torch.float64)
    first, trained = (float(asked.sde.noise_ratio(ratio(t))) for t in (asked.sde.T, 1e-5))
    scheduler = kind(sigma_min=max(EDM_LAST, trained), sigma_max=first, sigma_data=data_std, **options)
    scheduler.set_timesteps(calls)
    sigmas = scheduler.sigmas.double().tolist()
    y = asked.start(1.0, sigmas[0])
    for sigma, timestep in zip(sigmas, scheduler.timesteps):
        clean = y - sigma * asked.scaled_noise(y, sigma)
        variance = sigma**2 + data_std**2
        output = (clean - data_std**2 / variance * y) * math.sqrt(variance) / (sigma * data_std)
        scheduler.is_scale_input_called = True
        y = scheduler.step(output, timestep, y).prev_sample
    return y


def peers(pipe: ScoreSdePipeline) -> dict[str, dict[str, Contestant]]:
    """By name and setting, the samplers of other packages that take this network."""
    found: dict[str, dict[str, Contestant]] = {}
    for name in VP_PEERS if hasattr(pipe.scheduler, "alphas_cumprod") else ():
        kind, options, calls_of = PEERS[name]
        for grid in VP_GRIDS:

            def peer(asked: Asked, calls: int, *, kind=kind, calls_of=calls_of, options: dict) -> Tensor:
                levels = max(n for n in range(2, calls + 1) if calls_of(n) <= calls)
                return with_diffusers(asked, kind, options, levels)

            found.setdefault(name, {})[str(grid or "default")] = partial(peer, options={**options, **grid})
    for name, (kind, options) in EDM_PEERS.items():
        for grid in EDM_GRIDS:
            sampler = partial(with_edm, kind=kind, options={**options, **grid}, data_std=pipe.scheduler.data_std)
            found.setdefault(name, {})[grid["sigma_schedule"]] = lambda asked, calls, it=sampler: it(
                asked, calls=calls
            )
    if importlib.util.find_spec("azula") is not None:
        for stop in AZULA_STOPS:
            found.setdefault("azula zEAB 3", {})[str(stop)] = lambda asked, calls, stop=stop: with_azula(
                asked, 3, stop, calls
            )
    return found


def peer_images(pipe: ScoreSdePipeline, sampler: Contestant, calls: int, noise: Tensor) -> Tensor | None:
    """Images (B, C, H, W), or None where a scheduler has no such grid, or diverges."""
    parts = []
    for some in noise.split(BATCH):
        asked = Asked(network_truth(pipe, some), pipe.scheduler.sde)
        try:
            parts.append(sampler(asked, calls).float())
        except (TypeError, ValueError):
            return None
        assert asked.calls <= calls, (asked.calls, calls)
    found = torch.cat(parts)
    return found if bool(torch.isfinite(found).all()) else None


def main() -> None:
    """Measure, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a pipeline folder, or the name of a shipped pipeline")
    parser.add_argument("--data", required=True, help="a folder, parquet file or Hub id with a split `test`")
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--images", type=int, default=256)
    args = parser.parse_args()
    logging.set_verbosity_error()
    pipe = load(args.model)
    judge = Judge(pipe, args.data, args.images)
    noise, _ = unit_noise(pipe, range(args.images))
    exact = exact_flow(pipe, noise)
    figures: dict[str, dict[str, dict[str, list]]] = {}

    def keep(name: str, setting: str, calls: int, found: Tensor | None, *, compared: bool = True) -> None:
        if found is not None:
            row = [distance(pipe, found, exact) if compared else None, *judge.kid(judge.features(found))]
            figures.setdefault(name, {}).setdefault(setting, {})[str(calls)] = row
            print(name, setting, calls, row, flush=True)

    keep("exact flow", "", EXACT_CALLS, exact)
    fitted = pipe.scheduler.config.get("learned_steps") or {}
    others = peers(pipe)
    for calls in args.calls:
        for predictor in ("exponential_multistep", "restart", *(["learned_steps"] if str(calls) in fitted else [])):
            _, generators = unit_noise(pipe, range(args.images))
            found = images(pipe, with_predictor(pipe, predictor), calls, noise, generators)
            keep(f"ours: {predictor}", "", calls, found, compared=predictor != "restart")
        for name, settings in others.items():
            for setting, sampler in settings.items():
                keep(name, setting, calls, peer_images(pipe, sampler, calls, noise))
        print(save(f"network_samplers_{Path(args.model).name}", figures), flush=True)  # of all calls so far
    print(network_table({Path(args.model).name: figures}, "kid"))


if __name__ == "__main__":
    main()
