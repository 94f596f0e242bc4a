"""What the commands check while their options are parsed: before a model is loaded, with the name of the option.

Importing it needs no torch; a check imports what it needs when its option is given.
"""

import difflib
import glob
import math
import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer

from .training.argument_ranges import check_number_range


LARGEST_SEED = 2**63 - 1
DEVICES = ("cpu", "cuda", "mps", "xpu")


def one_of(name: str, choices: Collection[str], help: str | None = None) -> Any:
    """An option, or a repeated one, that is a name of a table; the shell completes it.

    Args:
        name: of the option, for the error.
        choices: looked at when the option is given, as a table of samplers may grow.
        help: instead of the list of the choices.
    """

    def check(value: Any) -> Any:
        for one in _listed(value):
            if one not in choices:
                raise typer.BadParameter(f"{name} must be one of {', '.join(choices)}, got {one!r}")
        return value

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return typer.Option(help=help or f"One of {', '.join(choices)}.", callback=check, autocompletion=complete)


def in_range(name: str, low: float, high: float = math.inf, ends: str = "[)") -> Callable[[Any], Any]:
    """A check that an option is a finite number from `low` to `high`; `ends` says which of them belong to the range."""

    def check(value: Any) -> Any:
        for one in _listed(value):
            _refused(partial(check_number_range, name, one, low, high, ends))
        return value

    return check


def check_seed(value: int) -> int:
    """A check that picture k can have the generator of `seed + k`."""
    if not 0 <= value <= LARGEST_SEED:
        raise typer.BadParameter(f"seed must be an integer from 0 to {LARGEST_SEED}, got {value}")
    return value


def check_device(value: str | None) -> str | None:
    """A check that this machine has the device."""
    kind = (value or "").split(":")[0]
    near = [] if kind in DEVICES else difflib.get_close_matches(kind, DEVICES, 1, 0.7)
    if near:  # other devices exist, and torch knows them
        raise typer.BadParameter(f"device must be an available device, got {value!r}: did you mean {near[0]!r}?")
    if value not in (None, "cpu"):  # which needs no torch to know of
        from .schedulers import checks

        _refused(lambda: checks.check_device("device", value))
    return value


def check_model(value: str) -> str:
    """A check that a name can be that of a model: a folder with a pipeline, a shipped name, or a Hub id."""
    _refused(lambda: _check_place(value))
    return value


def check_models(value: Any) -> Any:
    """`check_model` of names, where any are given, that may be training checkpoints and patterns, "runs/x/checkpoint-*"."""
    from .training.model_names import CHECKPOINT_WEIGHTS

    for one in _listed(value):
        if not glob.has_magic(one):
            _refused(partial(_check_place, one, CHECKPOINT_WEIGHTS))
        elif not glob.glob(one):
            raise typer.BadParameter(f"model must match a folder, got {one!r}")
    return value


def check_listed_models(value: Any) -> Any:
    """`check_models` of an option that may be left out: an empty list then, since typer 0.16 takes no None for a list."""
    return check_models(_listed(value))


def _check_place(name: str, *others: str) -> None:
    from .training.model_names import check_pipeline_folder, locate

    place = locate(name)
    if isinstance(place, Path):
        check_pipeline_folder(place, *others)


def check_run(value: Path) -> Path:
    """A check that a folder is that of a training run: it holds a pipeline."""
    if not value.is_dir():
        raise typer.BadParameter(f"run must be a folder that exists, got {str(value)!r}")
    _refused(lambda: _check_place(str(value)))
    return value


def check_file(parameter: typer.CallbackParam, value: Path) -> Path:
    """A check that a file exists."""
    if not value.is_file():
        raise typer.BadParameter(f"{parameter.name} must be a file that exists, got {str(value)!r}")
    return value


def check_classes(model: str, labels: Sequence[str]) -> None:
    """A check that a model has the classes, by number or name, where files of this machine say which it has.

    Raises:
        TypeError, ValueError: as the pipeline does.
    """
    from .model_facts import folder_classes
    from .training.model_names import locate

    place = locate(model)
    classes = folder_classes(place) if isinstance(place, Path) else None
    if labels and classes is not None:
        classes.check_count()
        classes.check(classes.numbered(labels))


def complete_model(incomplete: str) -> list[str]:
    """The shipped models whose names begin like this."""
    from .training.model_names import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


def check_data(value: str) -> str:
    """A check that a name can be that of a data set: a file or folder that exists, or a Hub id."""
    from .training.model_names import HUB_ID

    if not os.path.exists(value) and not HUB_ID.fullmatch(value):
        raise typer.BadParameter(
            f"data must be a folder or parquet file that exists, or a data set of the Hub, got {value!r}"
        )
    near = [] if "/" in value or os.path.exists(value) else difflib.get_close_matches(value, os.listdir(), 1, 0.8)
    if near:  # the Hub would be asked for minutes where there is no network
        raise typer.BadParameter(
            f"data must be a folder or parquet file that exists, got {value!r}: did you mean {near[0]!r}?"
        )
    return value


def check_text(value: str) -> str:
    """A check that a name is not empty."""
    if not value.strip():
        raise typer.BadParameter(f"must not be empty, got {value!r}")
    return value


def check_picture(value: Any) -> Any:
    """A check that one or several files are pictures that can be read."""
    from PIL import Image

    for path in _listed(value):
        if not os.path.isfile(path):
            raise typer.BadParameter(f"picture must be a file that exists, got {str(path)!r}")
        try:
            with Image.open(path) as opened:
                opened.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise typer.BadParameter(
                f"picture must be a file that Pillow reads, got {str(path)!r}: {error}"
            ) from error
    return value


def check_mask(image: Path, mask: Path) -> None:
    """Raises ValueError where a mask has another size than its picture, or is black everywhere."""
    from PIL import Image

    from .training.pil_pictures import to_8_bit, upright

    sizes = []
    for path in (image, mask):
        with Image.open(path) as opened:
            sizes.append("{} x {}".format(*upright(opened).size))
    if sizes[0] != sizes[1]:
        raise ValueError(f"mask must have the size of the picture, {sizes[0]} pixels, got {sizes[1]}")
    with Image.open(mask) as opened:
        if not any(to_8_bit(opened, 1, name="mask").histogram()[128:]):
            raise ValueError("mask must be white where to repaint, got one that is black everywhere")


def check_folder(parameter: typer.CallbackParam, value: Path) -> Path:
    """A check that files can be written into a folder, or where it does not exist yet, where it is to be made."""
    _writable(str(parameter.name), value)
    if value.is_file():
        raise typer.BadParameter(f"{parameter.name} must be a folder, got the file {str(value)!r}")
    return value


def check_new_folder(parameter: typer.CallbackParam, value: Path) -> Path:
    """A check that a folder can be made: there is nothing of its name, and where it is to lie can be written to."""
    if os.path.lexists(value):
        raise typer.BadParameter(f"{value} exists; name a folder that does not")
    return _writable(str(parameter.name), value)


def check_table(parameter: typer.CallbackParam, value: Path) -> Path:
    """A check that a table can be written: its ending says how, and its folder can be written to."""
    from .likelihood_table import FORMATS

    if value.suffix not in FORMATS or os.path.isdir(value):
        raise typer.BadParameter(f"{parameter.name} must be a file that ends in one of {FORMATS}, got {str(value)!r}")
    return _writable(str(parameter.name), value)


def _writable(name: str, value: Path) -> Path:
    from .training.destinations import check_writable

    _refused(lambda: check_writable(name, value))
    return value


def _listed(value: Any) -> Sequence[Any]:
    """The values of an option that may be repeated, or left out."""
    return value if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _refused(check: Callable[[], Any]) -> None:
    try:
        check()
    except (ValueError, TypeError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
