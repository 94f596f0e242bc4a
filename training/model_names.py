"""The one resolver of model names: folders, shipped models, Hub repositories, `repository@revision`.

Every `from_pretrained` of a pipeline, the training script and all commands use it. Importing it needs no torch.
"""

import difflib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import overload


# Folders inside the package; training lies below the pipelines and does not import them, but may read their files.
PRETRAINED = Path(str(resources.files(__package__.partition(".")[0]))) / "pretrained"
EXPECTED = "a shipped name, a folder or a Hub id"
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)?")
CHECKPOINT_WEIGHTS = "unet_ema.safetensors"  # in the folder of a training checkpoint
PATTERNS = ["*.json", "*.safetensors", "*.bin", "README.md"]


class ModelNotFoundError(OSError, ValueError):
    """A name that is no model; an `OSError` as diffusers raises it, and a `ValueError` as every other bad argument."""


@dataclass(frozen=True)
class HubName:
    """A repository on the Hub, and a branch, tag or commit of it or None."""

    repository: str
    revision: str | None = None


@overload
def shipped() -> list[str]: ...


@overload
def shipped(name: str) -> str: ...


def shipped(name: str | None = None) -> list[str] | str:
    """Names of the shipped pipelines, or the folder of one of them.

    `from_pretrained` and all commands take the names as well.

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
    names = sorted(path.parent.name for path in PRETRAINED.glob("*/model_index.json"))
    if name is None:
        return names
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"name must be one of the shipped pipelines {names}, got {name!r}")
    return str(PRETRAINED / name)


def locate(name: str | Path) -> Path | HubName:
    """What a model's name means, without access to the network.

    A local folder comes before a shipped model of the same name: a fine-tuned copy in the working directory is what its
    user means. `@revision` belongs to Hub ids alone.

    Raises:
        ModelNotFoundError: it is a path at which there is no folder, or no valid name.
    """
    text = str(os.fspath(name) if isinstance(name, os.PathLike) else name)
    try:
        folder = Path(text).expanduser()
        is_folder, is_file = bool(text) and folder.is_dir(), Path(text).is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, or the home of a user who is not known
        raise ModelNotFoundError(f"model must be {EXPECTED}, got {text[:200]!r}: {str(error)[:100]}") from error
    if is_folder:
        return folder
    if is_file:
        raise ModelNotFoundError(f"model must be {EXPECTED}, got {text!r}, which is a file")
    if text in shipped():
        return Path(shipped(text))
    if text.startswith((".", "~", "/", "\\")) or isinstance(name, os.PathLike) or text.count("/") > 1:
        raise ModelNotFoundError(f"model must be {EXPECTED}, got {text!r}: there is no such folder")
    repository, at, revision = text.partition("@")
    if repository in shipped():
        raise ModelNotFoundError(f"model must have no revision where it is shipped, got {text!r}")
    no_id = "/" not in repository or not HUB_ID.fullmatch(repository)
    if no_id or (at and not revision) or "--" in repository or ".." in repository:
        raise ModelNotFoundError(
            f"model must be {EXPECTED}, got {text!r}: there is no such folder or shipped model{_nearest(repository)}, "
            "and it is no Hub id (owner/name or owner/name@revision)"
        )
    return HubName(repository, revision or None)


def check_pipeline_folder(folder: Path, *others: str) -> Path:
    """`folder`, if there is a pipeline in it, or one of `others`, files of a training checkpoint.

    Raises:
        ModelNotFoundError: there is none.
    """
    if not any((folder / name).is_file() for name in ("model_index.json", *others)):
        raise ModelNotFoundError(
            f"model must be {EXPECTED}, got {str(folder)!r}: no model_index.json is in this folder"
        )
    return folder


@contextmanager
def hub_errors(name: HubName) -> Iterator[None]:
    """Turns every failure of a download into one error that names the model and says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    network: tuple[type[BaseException], ...] = (OSError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled)
    try:
        import httpx
    except ImportError:  # huggingface_hub before 1.0 uses requests, whose errors are OSErrors
        pass
    else:
        network += (httpx.HTTPError,)
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    try:
        logger.addFilter(_connects)
        yield
    except network as error:
        at = "" if name.revision is None else f"@{name.revision}"
        raise ModelNotFoundError(
            f"model must be {EXPECTED}, got {name.repository + at!r}: there is no such folder or shipped model"
            f"{_nearest(name.repository)}, {reason_of(name, error)}"
        ) from error
    finally:
        logger.removeFilter(_connects)


def _connects(record: logging.LogRecord) -> bool:
    """Leaves out that diffusers could not connect: what is in the cache loads without, and otherwise the error says it."""
    return not str(record.msg).startswith("Couldn't connect to the Hub")


def _nearest(name: str) -> str:
    """The shipped model that was meant by a name with a slip, as a question; or else all of them."""
    near = difflib.get_close_matches(name, shipped(), n=1)
    return f" (did you mean {near[0]!r}?)" if near else f" (shipped are {', '.join(shipped())})"


def reason_of(name: HubName, error: BaseException) -> str:
    """Why there is no download, as the end of a sentence that says that there is no such folder."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return "it is not in the cache of the Hub, and HF_HUB_OFFLINE is set"
    causes = _causes(error)
    for kind, text in (
        (GatedRepoError, "and on the Hub one has to be granted access to it"),  # a RepositoryNotFoundError itself
        (RepositoryNotFoundError, "and none on the Hub that this account can read"),
        (RevisionNotFoundError, f"and the repository on the Hub has no revision {name.revision!r}"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return text
    if any(
        isinstance(cause, (ConnectionError, TimeoutError)) or "Connect" in type(cause).__name__ for cause in causes
    ):
        return "it is not in the cache of the Hub, and the Hub cannot be reached"
    answers = [cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)]
    if answers:
        return f"and the Hub answered with the HTTP status {answers[0]}" + (", not found" if answers[0] == 404 else "")
    return f"and no download from the Hub: {' '.join(str(error).split())[:100] or type(error).__name__}"


def _causes(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def check_hub_name(name: str | Path) -> None:
    """Asks the Hub, or its cache, for the first file of a pipeline that is no folder: a slip is told before any work.

    Raises:
        ModelNotFoundError: there is no such model, or the Hub cannot be reached.
    """
    place = locate(name)
    if isinstance(place, Path):
        return
    from huggingface_hub import snapshot_download  # it does not try again and again, as hf_hub_download

    with hub_errors(place):
        snapshot_download(place.repository, revision=place.revision, allow_patterns=["model_index.json"])


def resolve_pipeline(name: str | Path, cache_dir: str | None = None, token: str | None = None) -> Path:
    """The folder of a pipeline, which is downloaded if it is on the Hub and not in the cache.

    Args:
        name: see `locate`.
        cache_dir, token: as in `huggingface_hub.snapshot_download`.

    Raises:
        ModelNotFoundError: there is no such model, or the download fails.
    """
    place = locate(name)
    if isinstance(place, Path):
        return place
    from huggingface_hub import snapshot_download

    with hub_errors(place):
        return Path(
            snapshot_download(
                place.repository, revision=place.revision, cache_dir=cache_dir, token=token, allow_patterns=PATTERNS
            )
        )
