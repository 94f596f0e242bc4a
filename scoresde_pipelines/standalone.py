"""Pipelines in a form that diffusers loads without this package: their classes come along as source files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .network_use import check_finite_weights
from .pipeline_base import SDEPipelineBase
from .pipeline_class_conditional import ScoreSdeClassConditionalPipeline
from .pipeline_score_sde import ScoreSdePipeline
from .registration import PACKAGE
from .schedulers.checks import check_flag
from .source_bundle import bundle
from .training.destinations import check_writable
from .training.durable_files import filled_folder, holds_files


INDEX = "model_index.json"
CARD = """---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [diffusers, score-based-generative-modeling, scoresde_pipelines]
---

# {title}

A `{pipeline}` of the Python package scoresde_pipelines that needs diffusers alone: the classes are in the Python files of
this folder, which are run when it is loaded.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("path/or/repository", trust_remote_code=True)
images = pipeline({call}).images
```

Uploading, evaluation and training are in the package.
"""


def export_standalone(pipeline: SDEPipelineBase | str | Path, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a pipeline such that `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` needs no package.

    The images are those of the package, up to the rounding of another process. Network, scheduler and pipeline are of the
    folder's own files (`unet/scoresde_unet.py`, `scheduler/scoresde_scheduler.py`, `pipeline.py`), which hold the sources of
    this package's modules.

    Args:
        pipeline: a pipeline of this package, or a name for `ScoreSdePipeline.from_pretrained`: a shipped name, a folder or
            a Hub id.
        folder: to write; must not exist, or be empty.
        overwrite: replace what `folder` holds.

    Returns:
        The folder.

    Raises:
        TypeError: `pipeline` is of a class of another package, or has a component of one.
        ValueError: `folder` holds files, or is a file; the weights of the pipeline are not finite.
        OSError: there is no such model, or `folder` cannot be written.
    """
    check_flag("overwrite", overwrite)
    target = check_writable("folder", folder)
    if target.is_file() or (target.is_dir() and holds_files(target) and not overwrite):
        raise ValueError(
            f"folder must be a new or an empty folder, got {str(target)!r}; overwrite=True replaces a folder"
        )
    pipe = ScoreSdePipeline.from_pretrained(pipeline) if isinstance(pipeline, (str, Path)) else pipeline
    if not isinstance(pipe, SDEPipelineBase) or _library(pipe) != PACKAGE:
        raise TypeError(f"pipeline must be a name or a pipeline of {PACKAGE}, got {_name(pipe)}")
    check_finite_weights("pipeline", pipe.unet)
    files = _files(pipe)
    with filled_folder(target, "the pipeline", "nothing was replaced", INDEX, clear=True) as staged:
        pipe.save_pretrained(str(staged))
        index = json.loads((staged / INDEX).read_text("utf-8"))
        index["_class_name"] = ["pipeline", type(pipe).__name__]
        for name, module in files.items():
            if name != "pipeline":
                index[name][0] = Path(module).stem
            (staged / module).write_text(bundle([_class(pipe, name)], f"The {name} of a model."), "utf-8")
        (staged / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
        (staged / "README.md").write_text(_card(pipe, target.resolve().name), "utf-8")
    return target


def _class(pipe: Any, name: str) -> type:
    return type(pipe) if name == "pipeline" else type(getattr(pipe, name))


def _files(pipe: Any) -> Mapping[str, str]:
    """The file of each component that is of a class of this package, and of the pipeline."""
    files = {"pipeline": "pipeline.py"}
    for name, component in pipe.components.items():
        if component is not None and not hasattr(component, "save_pretrained"):
            raise TypeError(f"{name} must have save_pretrained to be exported, got {_name(component)}")
        if _library(component) == PACKAGE:
            files[name] = f"{name}/scoresde_{name}.py"
        elif component is not None and _library(component) not in ("diffusers", "transformers"):
            raise TypeError(
                f"{name} must be of a class of {PACKAGE}, diffusers or transformers to be exported, got {_name(component)}"
            )
    return files


def _library(component: Any) -> str:
    return type(component).__module__.split(".")[0]


def _name(component: Any) -> str:
    return f"{type(component).__module__}.{type(component).__qualname__}"


def _card(pipe: Any, title: str) -> str:
    call = "..."  # a picture, a measurement
    if isinstance(pipe, ScoreSdeClassConditionalPipeline):
        call = f"class_labels={list(pipe.labels)[:2] or [0, 1]}"
    elif isinstance(pipe, ScoreSdePipeline):
        call = "batch_size=4"
    return CARD.format(title=title, pipeline=type(pipe).__name__, call=call)
