"""The classes of a stream. Their names are known before the run: from the data set, or from `--class_names`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .image_table import find_label_column
from .stream_sources import column_value


def read_class_names(words: Sequence[str]) -> list[str]:
    """The names that `--class_names` gives: its words, or the lines of the text file that is its only word.

    Raises:
        ValueError: a name is empty or given twice.
    """
    names = list(words)
    if len(names) == 1 and Path(names[0]).is_file():
        names = [line.strip() for line in Path(names[0]).read_text("utf-8").splitlines()]
    if not names or not all(names) or len(set(names)) < len(names):
        raise ValueError(f"class_names must be different and not empty, got {names}")
    return names


class StreamLabels:
    """Reads the classes of examples.

    Args:
        head: the first rows, see `stream_sources.first_rows`.
        label_column: see `find_label_column`.
        class_names: names in the order of the labels, see `read_class_names`; None where the data set has names.

    Attributes:
        column: the column of the labels.
        names: the names of the classes, in the order of the labels.

    Raises:
        ValueError: there is no column of labels, or the names of the classes are missing, or twice and different.
    """

    def __init__(self, head: Any, label_column: str | None = None, class_names: Sequence[str] | None = None) -> None:
        column = find_label_column(head, label_column)
        if column is None:
            raise ValueError(
                f"label_column must name the column of the classes, got none: no column of {head.column_names} has one "
                "of the usual names"
            )
        own: list[str] | None = getattr(head.features[column], "names", None)
        given = None if class_names is None else read_class_names(class_names)
        names = given if own is None else own
        if names is None:
            raise ValueError(
                f"class_names must be given for a stream whose column {column!r} holds no names of classes: all names in "
                f"the order of the labels from 0, or a text file with one a line; its first label is "
                f"{head.select_columns([column])[0][column]!r}, and later ones are not known"
            )
        if own is not None and given is not None and list(own) != given:
            raise ValueError(f"class_names must be those of the data set, {list(own)}, got {given}")
        self.column, self.names = column, list(names)
        self._target = list(range(len(self.names)))

    def follow(self, class_names: Sequence[str]) -> None:
        """Labels become indices into these names, those of a network; all `names` are among them."""
        self._target = [list(class_names).index(name) for name in self.names]

    def label(self, value: Any) -> int:
        """The class of one value: a name or a number.

        Raises:
            ValueError: it is neither one of `names` nor the number of one.
        """
        index = self.names.index(value) if isinstance(value, str) and value in self.names else value
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(self.names):
            some = ", ".join(self.names[:5]) + (", ..." if len(self.names) > 5 else "")
            raise ValueError(
                f"label in column {self.column!r} must be a number from 0 to {len(self.names) - 1} or one of {some} "
                f"(class_names), got {value!r}"
            )
        return self._target[index]

    def of_example(self, example: Mapping[str, Any]) -> int:
        """The class of an example of the stream."""
        return self.label(column_value(example, self.column))

    def of_table(self, table: Any) -> torch.Tensor | None:
        """The classes of all rows, int64, shape (N,); None where it does not have the column."""
        if self.column not in table.column_names:
            return None
        return torch.tensor([self.label(value) for value in table.select_columns([self.column])[self.column]])
