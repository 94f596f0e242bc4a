"""The three tiny networks of the recorded sampler figures (golden/samplers/nets.safetensors), as float64 scores."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from scoresde_pipelines import SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.models.official.config import preset_from_official_config
from scoresde_pipelines.models.official.keys import from_official


SCHEDULERS = {
    "ve": lambda: VESDEScheduler(sigma_max=50.0),
    "vp": lambda: VPSDEScheduler(continuous=True),
    "subvp": lambda: SubVPSDEScheduler(),
}


def network_score(shared_dir: Path, sde: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The score of the recorded network of "ve", "vp" or "subvp"."""
    name, folder = f"net_{sde}", shared_dir / "golden" / "samplers"
    description = json.loads((folder / "cases.json").read_text())["nets"][name]
    network = preset_from_official_config(description["config"]).make_model()
    state = load_file(folder / "nets.safetensors")
    official = {key.removeprefix(f"{name}."): v.float() for key, v in state.items() if key.startswith(f"{name}.")}
    network.load_state_dict(from_official(network, official))
    return SCHEDULERS[sde]().score_fn(network.eval().double())
