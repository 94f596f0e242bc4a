"""The columns of a data set: which one holds the images and which the labels, and single images without decoding."""

import io
import os
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from PIL import Image

from ..schedulers.checks import shown


LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "target", "cls", "json.label")  # the last: WebDataset

MOST_NUMBERS = 100_000  # classes without names: larger integers are something else


class ImageTable(Protocol):
    """What is needed of a data set: a `datasets.Dataset` or any sequence of `{"image": PIL.Image}`."""

    column_names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def find_image_column(dataset: ImageTable, image_column: str | None = None) -> str:
    """The column that holds images: the one named, else "image", "img", or the first whose values are images.

    Raises:
        ValueError: no column of that name, or none with images.
    """
    names = list(dataset.column_names)
    if image_column is not None:
        if image_column not in names:
            raise ValueError(f"image_column must be one of the columns {names}, got {shown(image_column)}")
        return str(image_column)
    features = getattr(dataset, "features", None) or {}
    first = {} if features else dataset[0]
    for name in ["image", "img", *names]:
        if name in names and (is_image_feature(features.get(name)) or isinstance(first.get(name), Image.Image)):
            return name
    raise ValueError(f"image_column must name the column with images, got None: no column of {names} holds any")


def find_label_column(dataset: ImageTable, label_column: str | None = None) -> str | None:
    """The column that holds class labels: the one named, else a `ClassLabel` column or one with a usual name, or None.

    Raises:
        ValueError: no column of that name.
    """
    names = list(dataset.column_names)
    if label_column is not None:
        if label_column not in names:
            raise ValueError(f"label_column must be one of the columns {names}, got {shown(label_column)}")
        return label_column
    features = getattr(dataset, "features", None) or {}
    classes = [name for name in names if hasattr(features.get(name), "names")]
    usual = [name for name in LABEL_COLUMNS if name in names]
    return next(iter([*(name for name in usual if name in classes), *classes, *usual]), None)


def read_labels(dataset: ImageTable, column: str) -> tuple[torch.Tensor, list[str] | None]:
    """The labels of all rows, int64 (N,), and the names of the classes where there are any.

    Strings become the indices of their sorted names; integers are taken as they are.

    Raises:
        ValueError: a label is missing, negative, too large, or neither an integer nor a string.
    """
    values = list(_column(dataset, column))
    names = getattr((getattr(dataset, "features", None) or {}).get(column), "names", None)
    texts = any(isinstance(value, str) for value in values)
    for row, value in enumerate(values):
        if not (isinstance(value, str) if texts else isinstance(value, int) and value >= 0):
            wanted = "strings alone" if texts else "strings or integers from 0"
            raise ValueError(f"label_column {column!r} must hold {wanted}, row {row} is {value!r}")
    if texts:
        names = sorted(set(values))
        index = {name: k for k, name in enumerate(names)}
        values = [index[value] for value in values]
    if names is None and max(values, default=0) >= MOST_NUMBERS:
        raise ValueError(
            f"label_column {column!r} must hold class numbers below {MOST_NUMBERS}, each of which gets an embedding, or "
            f"names as strings, got {max(values)}"
        )
    return torch.tensor(values, dtype=torch.int64), None if names is None else list(names)


def labels_by_name(dataset: ImageTable, label_column: str | None, class_names: list[str]) -> torch.Tensor | None:
    """The labels of another split as indices into `class_names`, int64 (N,); None where it has no label column.

    Raises:
        ValueError: it has a class that is not among them.
    """
    column = find_label_column(dataset, label_column)
    if column is None:
        return None
    labels, names = read_labels(dataset, column)
    used = labels.unique().tolist()
    named = {k: names[k] if names is not None and k < len(names) else str(k) for k in used}
    unknown = sorted(name for name in named.values() if name not in class_names)
    if unknown:
        raise ValueError(f"classes of the images must be among {class_names}, got {unknown}")
    table = torch.zeros(max(used, default=0) + 1, dtype=torch.int64)
    for k, name in named.items():
        table[k] = class_names.index(name)
    return table[labels]


class ImageRows:
    """The images of a table by row, opened without being decoded.

    Args:
        dataset: a data set.
        column: its column of images.
    """

    def __init__(self, dataset: ImageTable, column: str) -> None:
        self.column, self.rows, self.feature = column, dataset, None
        feature: Any = (getattr(dataset, "features", None) or {}).get(column)
        if is_image_feature(feature) and feature.decode and feature.mode is None:
            self.feature = feature
            undecoded = type(feature)(decode=False)
            self.rows = dataset.select_columns([column]).cast_column(column, undecoded)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Image.Image:
        """The image of a row, its header read and its pixels not yet where that is possible."""
        return open_image(self.rows[index][self.column], self.feature)

    def __iter__(self) -> Iterator[Image.Image | Exception]:
        """The images of all rows, or the error by which one did not open."""
        for value in _column(self.rows, self.column) if self.feature is not None else range(len(self)):
            try:
                yield open_image(value, self.feature) if self.feature is not None else self[value]
            except Exception as error:  # a damaged file may raise nearly anything
                yield error

    def name(self, index: int) -> str:
        """ "image 7 (cat.png)": the row, and its file where it is known."""
        path = self.path(index)
        return f"image {index} ({path})" if path else f"image {index}"

    def path(self, index: int) -> str | None:
        """The file of a row, where it is known."""
        value = self.rows[index][self.column] if self.feature is not None else None
        return value.get("path") if isinstance(value, dict) else None


def open_image(value: Any, feature: Any = None) -> Image.Image:
    """A value of an image column, its header read and its pixels not yet where that is possible.

    Args:
        value: a PIL image, or the bytes or path of a file, as `datasets` gives them undecoded.
        feature: the column's `datasets.Image`, for paths inside an archive or on the network.
    """
    if isinstance(value, Image.Image):
        return value
    if value is None:
        raise ValueError("the row holds no image")
    if value.get("bytes") is not None:
        return Image.open(io.BytesIO(value["bytes"]))
    if feature is not None and not os.path.isfile(value["path"]):
        return feature.decode_example(value)
    return Image.open(value["path"])


def is_image_feature(feature: Any) -> bool:
    """Whether a column of `datasets` holds images."""
    return type(feature).__name__ == "Image" and hasattr(feature, "decode_example")


def _column(dataset: Any, column: str, rows_at_once: int = 1000) -> Iterator[Any]:
    # A `datasets.Dataset` is read in slices, many times faster than row by row.
    if not hasattr(dataset, "select_columns"):
        yield from (dataset[index][column] for index in range(len(dataset)))
        return
    table = dataset.select_columns([column])
    for start in range(0, len(table), rows_at_once):
        yield from table[start : start + rows_at_once][column]
