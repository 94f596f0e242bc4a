"""What the JSON files of a pipeline folder say about its model, before any weights are loaded; needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .training.durable_files import read_object


@dataclass(frozen=True)
class Classes:
    """The classes of a model, for the checks of `class_labels`.

    Attributes:
        numbers: by name; empty where the classes have no names.
        count: how many there are.
    """

    numbers: Mapping[str, int]
    count: int

    def check_count(self) -> None:
        """Raises ValueError where there are no classes."""
        if self.count == 0:
            raise ValueError(
                "classifier must be given where the network has no classes (num_class_embeds is not set), got None"
            )

    def ids(self, names: Sequence[str]) -> list[int]:
        """Numbers of the classes with these names; raises TypeError or ValueError where there is none."""
        for name in names:
            if name not in self.numbers:
                if not self.numbers:
                    raise TypeError(f"class_labels must be integers where the classes have no names, got {name!r}")
                raise ValueError(f"class_labels must be among {sorted(self.numbers)}, got {name!r}")
        return [self.numbers[name] for name in names]

    def numbered(self, labels: Sequence[str]) -> list[int]:
        """Numbers of classes that are given by name or number, as on a command line; a name that is a number wins."""
        return [int(one) if one not in self.numbers and one.isdecimal() else self.ids([one])[0] for one in labels]

    def check(self, labels: int | Sequence[int]) -> None:
        """Raises ValueError for a number that is that of no class."""
        many = [labels] if isinstance(labels, int) else labels
        if min(many) < 0 or max(many) >= self.count:
            raise ValueError(f"class_labels must lie in 0..{self.count - 1}, got {labels}")


def folder_classes(folder: Path) -> Classes | None:
    """The classes of the model in a folder; None where its files do not say, or are no pipeline: loading it says that."""
    try:
        index = read_object(folder / "model_index.json")
        names = index.get("id2label") or {}
        if (index.get("classifier") or [None])[-1] is not None:
            config = read_object(folder / "classifier" / "config.json")
            count = config.get("num_classes")
            if count is None:  # a classifier of transformers brings its own names
                names = config["id2label"]
                count = len(names)
        else:
            count = network_config(folder, index).get("num_class_embeds") or 0
            count = len(names) if count and names else count
        return Classes({str(name): int(number) for number, name in names.items()}, int(count))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def folder_shape(folder: Path) -> tuple[int, int, int] | None:
    """Channels, height and width of the images of the model in a folder; None as in `folder_classes`."""
    try:
        config = network_config(folder, read_object(folder / "model_index.json"))
        size = config["sample_size"]  # read as by `height_and_width`, which needs torch
        height, width = (size, size) if isinstance(size, int) else size
        return int(config["in_channels"]), int(height), int(width)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def network_config(folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a pipeline's network, which lies in a subfolder or (google/ncsnpp-*) flat."""
    place = folder / ("unet" if "unet" in index else "model")
    return read_object((place if place.is_dir() else folder) / "config.json")
