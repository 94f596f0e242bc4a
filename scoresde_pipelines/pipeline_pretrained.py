"""Where the pipelines come from: names, folders, the Hub, and other pipelines."""

import glob
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import logging

from .hub_upload import PushPipelineMixin
from .pipeline_components import NETWORK_LIBRARIES
from .registration import PACKAGE
from .training.destinations import check_writable
from .training.durable_files import disk_errors, explain_disk_error, remove
from .training.model_names import HubName, check_pipeline_folder, hub_errors, locate
from .training.pipeline_loading import NETWORK_OPTIONS, OFFLOADING, load_network, load_scheduler, read_index


@contextmanager
def _without_bar() -> Iterator[None]:
    """No bar of diffusers while it counts two components: the network is loaded before, and downloads have their own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _reported(name: str, component: Any, folder: Path) -> Any:
    """`component`, after the line that diffusers logs for those that it loads itself."""
    logger = logging.get_logger("diffusers.pipelines.pipeline_utils")
    logger.info(f"Loaded {name} as {type(component).__name__} from {folder}.")
    return component


def _of_network(option: Any) -> Any:
    """An option of loading for the network: a dtype may be given by the component's name, as in diffusers."""
    return option.get("unet", option.get("default", torch.float32)) if isinstance(option, dict) else option


def _check_variant(folder: Path, variant: str | None) -> None:
    """Raises ValueError unless there are weights of this variant, such as "fp16", with the words of diffusers."""
    if variant is not None and not any(folder.rglob(f"*.{glob.escape(str(variant))}[.-]*")):
        raise ValueError(
            f"variant must be one that is in {folder}, got {variant!r}: You are trying to load the model files of the "
            f"`variant={variant}`, but no such modeling files are available."
        )


class PretrainedPipeline(PushPipelineMixin, DiffusionPipeline):
    """A pipeline with the components `unet` and `scheduler`, as it is loaded, taken from another one, and published."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Loads a pipeline: a folder, a shipped name, a Hub id or `repository@revision`, in this order.

        Other arguments as in `DiffusionPipeline.from_pretrained`. Repositories that call the network `model`
        (google/ncsnpp-*) load as well, flat or in subfolders.

        Raises:
            ModelNotFoundError (an OSError and a ValueError): there is no such folder or repository, or no pipeline in it.
        """
        place = locate(pretrained_model_name_or_path)
        folder = cls._downloaded(place, kwargs) if isinstance(place, HubName) else place
        index = read_index(check_pipeline_folder(folder))
        if "_class_name" not in index:
            raise ValueError(f"{folder / 'model_index.json'} must name a class under '_class_name', got none")
        cls._check_libraries(folder, index, kwargs)
        library, _ = index.get("scheduler", (None, None))
        if library in NETWORK_LIBRARIES and "scheduler" not in kwargs:
            kwargs["scheduler"] = _reported("scheduler", load_scheduler(folder, index), folder)
        key = "unet" if "unet" in index else "model"
        library, network = index.get(key, (None, None))
        if library in NETWORK_LIBRARIES and "unet" not in kwargs and not OFFLOADING & {*kwargs}:
            options = {name: _of_network(kwargs[name]) for name in NETWORK_OPTIONS if name in kwargs}
            _check_variant(folder, kwargs.get("variant"))
            place = folder / key if (folder / key).is_dir() else folder
            kwargs["unet"] = _reported("unet", load_network(place, network, **options), place)
        elif key == "model" and "unet" not in kwargs:
            raise ValueError(
                f"{folder / 'model_index.json'} must name a network of {NETWORK_LIBRARIES}, got {library}"
            )
        with _without_bar():
            return super().from_pretrained(str(folder), **kwargs)

    @classmethod
    def _check_libraries(cls, folder: Path, index: dict[str, Any], given: dict[str, Any]) -> None:
        """Raises ValueError where a component would be looked for in a module that is not imported yet.

        Older diffusers import it, and a file of that name in the working folder is then executed.
        """
        if given.get("trust_remote_code"):
            return
        for name in inspect.signature(cls.__init__).parameters:
            library = (
                index[name][0] if name not in given and isinstance(index.get(name), list) and index[name] else None
            )
            if isinstance(library, str) and library not in (*NETWORK_LIBRARIES, "transformers", *sys.modules):
                raise ValueError(
                    f"{folder / 'model_index.json'} must name an imported library under {name!r}, got {library!r}: a "
                    "pipeline does not choose what is imported; import it first if it is yours"
                )

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As in `DiffusionPipeline`; there is no `model_index.json` until all is written: half a pipeline does not load.

        Raises:
            TypeError, ValueError: `save_directory` is a file, or cannot be written to.
            OSError: the disk is full; new files are removed.
        """
        folder = check_writable("save_directory", save_directory)
        if folder.is_file():
            raise ValueError(f"save_directory must be a folder, got the file {str(folder)!r}")
        remove(folder / "model_index.json")
        before = {folder, *folder.rglob("*")} if folder.exists() else set()
        try:
            with disk_errors():
                return super().save_pretrained(str(save_directory), *args, **kwargs)
        except OSError as error:
            for path in {folder, *folder.rglob("*")} - before:
                remove(path)
            raise explain_disk_error(error, "the pipeline", folder, "model_index.json is not there") from error

    @classmethod
    def _downloaded(cls, place: HubName, options: dict[str, Any]) -> Path:
        given = options.get("revision")
        if None not in (given, place.revision) and given != place.revision:
            raise ValueError(f"revision must be the one of the name, {place.revision!r}, got {given!r}")
        with hub_errors(place):
            return Path(cls.download(place.repository, **{**options, "revision": place.revision or given}))

    @classmethod
    def _get_signature_types(cls) -> dict[str, tuple[Any, ...]]:
        # diffusers before 0.37 leaves annotations like `float | None` out and then fails to find them; what is empty
        # is not checked.
        unchecked = dict.fromkeys(inspect.signature(cls.__init__).parameters, (inspect.Signature.empty,))
        return {**unchecked, **super()._get_signature_types()}

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        config = super().load_config(*args, **kwargs)
        if isinstance(config, dict) and "unet" not in config and "model" in config:
            config["unet"] = config.pop("model")
        if isinstance(config, dict) and (config.get("scheduler") or [None])[0] == "diffusers":
            # `load_scheduler` has read it: diffusers no longer exports all that it knows (ScoreSdeVpScheduler).
            config["scheduler"] = [PACKAGE, "SDEScheduler"]
        if isinstance(config, dict):  # components that another pipeline may have, and did not: nothing to warn of
            known = inspect.signature(cls.__init__).parameters
            for name in [name for name, value in config.items() if value == [None, None] and name not in known]:
                del config[name]
        return config

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Any:
        """This pipeline with the components of another one, shared and not copied: ours, or a stock pipeline's.

        Args:
            pipeline: with a `unet` and a `scheduler`.
            kwargs: components and options that replace those of `pipeline`.
        """
        if not isinstance(pipeline, DiffusionPipeline):
            raise TypeError(f"pipeline must be a DiffusionPipeline, got {type(pipeline).__name__}")
        components, options = cls._get_signature_keys(cls)
        given = {name: value for name, value in pipeline.components.items() if name in components}
        given |= {name: pipeline.config[name] for name in options if name in pipeline.config}
        missing = {"unet", "scheduler"} - {*given, *kwargs}
        if missing:
            raise ValueError(
                f"pipeline must have a unet and a scheduler, got {type(pipeline).__name__} without {missing}"
            )
        return cls(**{**given, **kwargs})
