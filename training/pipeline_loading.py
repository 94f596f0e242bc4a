"""From a model's name to what is trained: the loading of pipeline folders."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers.models.modeling_utils import ModelMixin

from .. import models
from ..models import DDPMpp, NCSNpp
from ..models.weight_files import check_weight_files
from ..schedulers import SDEScheduler, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from ..schedulers.checks import shown
from ..schedulers.scheduling_conversion import to_sde_scheduler
from .durable_files import read_object
from .model_names import resolve_pipeline
from .safe_state import check_finite_state


NETWORKS: dict[str, Any] = {"ncsnpp": NCSNpp, "ddpmpp": DDPMpp}
SCHEDULERS: dict[str, Any] = {"ve": VESDEScheduler, "vp": VPSDEScheduler, "subvp": SubVPSDEScheduler}
INDEX, SCHEDULER_CONFIG = "model_index.json", "scheduler_config.json"
# Arguments of a pipeline's `from_pretrained` that its network takes as well.
NETWORK_OPTIONS = ("dtype", "torch_dtype", "variant", "use_safetensors", "low_cpu_mem_usage")
# With one of these, diffusers decides where each part of a network is.
OFFLOADING = {"device_map", "max_memory", "offload_folder", "offload_state_dict", "quantization_config", "provider"}


@dataclass
class Components:
    """What is trained: a network, the scheduler that fixes its SDE and parameterization, and the range of its data.

    Attributes:
        unet: a diffusers model (`ModelMixin` and `torch.nn.Module`).
        scheduler: an `SDEScheduler`.
        data_range: the values of black and white.
        class_names: names of the classes of a class-conditional network, by label.
    """

    unet: Any
    scheduler: Any
    data_range: tuple[float, float]
    class_names: list[str] | None = None


def load_pipeline_folder(
    name_or_path: str | Path,
    cache_dir: str | None = None,
    token: str | None = None,
) -> Components:
    """Loads a pipeline for fine-tuning: ours, or any UNet2DModel pipeline, whose scheduler is converted to ours.

    Args:
        name_or_path, cache_dir, token: see `resolve_pipeline`. Components lie in subfolders or (google/ncsnpp-*) flat.

    Raises:
        ValueError: there is no pipeline, its network is of an unknown class, lacks weights or has some that are not
            finite, or its scheduler describes no SDE of this package.
    """
    folder = resolve_pipeline(name_or_path, cache_dir, token)
    index = read_index(folder)
    key = "unet" if "unet" in index else "model"
    if key not in index:
        raise ValueError(f"the pipeline {name_or_path!r} has neither a unet nor a model; its index is {sorted(index)}")
    unet = load_network(folder / key if (folder / key).is_dir() else folder, str(index[key][1]))
    try:
        check_finite_state(unet.state_dict(), "unet")
    except FloatingPointError as error:
        raise ValueError(f"the weights in {folder} must be finite: {error}") from error
    scheduler = load_scheduler(folder, index)
    low, high = (index.get(name) for name in ("data_min", "data_max"))
    data_range = scheduler.data_range if low is None or high is None else (float(low), float(high))
    if not -math.inf < data_range[0] < data_range[1] < math.inf:
        raise ValueError(f"{folder / INDEX} must hold a finite data_min < data_max, got {data_range}")
    return Components(unet, scheduler, data_range, class_names(index.get("id2label")))


def load_scheduler(folder: Path, index: Mapping[str, Any]) -> SDEScheduler:
    """The scheduler of a pipeline folder with this `model_index.json`, converted to ours; errors as `to_sde_scheduler`."""
    config = SDEScheduler.load_config(folder / "scheduler" if (folder / "scheduler").is_dir() else folder)
    # As in diffusers, the class that the index names reads the configuration, whoever wrote it.
    _, name = index.get("scheduler") or (None, None)
    return to_sde_scheduler({**config, "_class_name": name or config.get("_class_name")})


def network_class(name: str) -> Any:
    """Our network class, or diffusers' model class, of this name."""
    found = getattr(models, name, None) or getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, ModelMixin)):
        ours = sorted(cls.__name__ for cls in NETWORKS.values())
        raise ValueError(f"the class of a network must be one of {ours} or a model of diffusers, got {name!r}")
    return found


def load_network(folder: str | Path, class_name: str, **options: Any) -> Any:
    """The network in a folder. Missing weights are an error; diffusers would only warn and leave them uninitialised.

    Args:
        folder: with a `config.json` and weights.
        class_name: see `network_class`.
        options: those of `from_pretrained` of diffusers.

    Raises:
        ValueError: there is no such class, or weights are missing, of another shape or integers; names them.
    """
    # Where these are no JSON, diffusers ends in errors that do not name them.
    for path in (Path(folder) / "config.json", *Path(folder).glob("*.index.json")):
        if path.is_file():
            content = read_object(path)
            if path.name != "config.json" and not isinstance(content.get("weight_map"), dict):
                raise ValueError(f"{path} must hold the files of all tensors under 'weight_map'")
    network, info = network_class(class_name).from_pretrained(folder, output_loading_info=True, **options)
    for problem in ("missing_keys", "mismatched_keys"):
        keys = [str(key) for key in info.get(problem, ())]
        if keys:
            raise ValueError(
                f"{folder} must hold all weights of {class_name}, {problem}: {keys[:5]} ({len(keys)} in all)"
            )
    check_weight_files(Path(folder), network)
    return network


def class_names(id2label: Any) -> list[str] | None:
    """The names of the classes in the order of their labels, as `label_names`; None where there are none."""
    names = label_names(id2label)
    return [names[label] for label in sorted(names)] if names else None


def label_names(id2label: Any) -> dict[int, str] | None:
    """Names of classes by number, checked; in JSON the numbers are strings."""
    if id2label is None:
        return None
    try:
        names = {int(number): name for number, name in id2label.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(f"id2label must be a dictionary of names by class number, got {shown(id2label)}") from error
    if not all(isinstance(name, str) for name in names.values()):
        raise TypeError(f"id2label must hold names that are texts, got {shown(id2label)}")
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"id2label must name the classes 0..{len(names) - 1}, got {sorted(names)}")
    return names


def read_index(folder: Path) -> dict[str, Any]:
    """The `model_index.json` of a pipeline folder.

    Raises:
        ValueError: it or the scheduler's configuration is no JSON dictionary, it is missing, or does not name a library
            and a class for the network and the scheduler; names the file.
    """
    if not (folder / INDEX).is_file():
        raise ValueError(f"{str(folder)!r} is not a pipeline: it has no {INDEX}")
    index = read_object(folder / INDEX)
    for path in (folder / "scheduler" / SCHEDULER_CONFIG, folder / SCHEDULER_CONFIG):
        if path.is_file():
            read_object(path)
    if not isinstance(index.get("_class_name", ""), str):
        raise ValueError(f"{folder / INDEX} must name a class under '_class_name', got {index['_class_name']!r}")
    for key in {"unet", "model", "scheduler"} & {*index}:
        entry = index[key]
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(name, str) for name in entry):
            raise ValueError(f"{folder / INDEX} must name a library and a class under {key!r}, got {entry!r}")
    ends = [index.get(key) for key in ("data_min", "data_max")]
    for key, end in zip(("data_min", "data_max"), ends):
        if end is not None and (not isinstance(end, (int, float)) or not math.isfinite(end)):
            raise ValueError(f"{folder / INDEX} must hold a finite data_min < data_max, got {end!r} for {key}")
    if index.get("id2label") is not None and not isinstance(index["id2label"], dict):
        raise ValueError(
            f"{folder / INDEX} must hold a dictionary of names under 'id2label', got {index['id2label']!r}"
        )
    return index
