"""The pretrained pipelines that come inside the package."""

from pathlib import Path
from typing import overload

from .schedulers.checks import check_choice


_FOLDER = Path(__file__).parent / "pretrained"


@overload
def shipped() -> list[str]: ...


@overload
def shipped(name: str) -> str: ...


def shipped(name: str | None = None) -> list[str] | str:
    """Names of the shipped pipelines, or the folder of one of them, for `from_pretrained`.

    Args:
        name (`str`, *optional*): one of the names.

    Returns:
        A sorted list of names, or with `name` the path of its folder.

    Raises:
        ValueError: if there is no such pipeline.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdePipeline, shipped
    >>> pipe = ScoreSdePipeline.from_pretrained(shipped("fashion-mnist-32-vp"))
    >>> images = pipe(batch_size=4, num_inference_steps=50).images
    ```
    """
    names = sorted(path.parent.name for path in _FOLDER.glob("*/model_index.json"))
    if name is None:
        return names
    check_choice("name", name, names)
    return str(_FOLDER / name)


def shipped_folder(name: str) -> str | None:
    """The folder of a shipped pipeline, or None where no shipped pipeline has this name or a local folder has it.

    `training.pipeline_loading.resolve_pipeline` takes it as `named`.
    """
    return None if Path(name).is_dir() or name not in shipped() else shipped(name)
