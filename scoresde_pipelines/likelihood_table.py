"""A table of per-image likelihoods on disk, written row by row by any number of processes, resumable.

Every process appends whole lines to one file, one write per row, and reads the file to find the missing rows. No
process waits for another, so different amounts of work cannot block them, and an interrupted run can be continued. A second
file keeps the settings, so that rows of different settings never mix.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .training.durable_files import append_text, read_object, written_whole


@dataclass(frozen=True)
class Row:
    """One image: its index in the data set, the fields of `ScoreSdeLikelihoodOutput`, and its file where it has one."""

    index: int
    bits_per_dim: float
    standard_error: float
    probe_error: float
    dequantization_error: float
    solver_error: float
    nfe: int
    file: str = ""


COLUMNS = [field.name for field in fields(Row)]
FORMATS = (".csv", ".jsonl")


class LikelihoodTable:
    """The table at `path`, ".csv" or ".jsonl" (one JSON object a line), and `path`.settings.json.

    Args:
        path: where it is or will be.
        settings: everything that decides the values; JSON-serialisable.

    Raises:
        ValueError: for another ending, or if the table there was made with other settings or has other columns.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        if path.suffix not in FORMATS:
            raise ValueError(f"output must end in one of {FORMATS}, got {str(path)!r}")
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = path.with_name(path.name + ".settings.json")
        _create_whole(kept, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        old = read_object(kept)
        changed = sorted(name for name in {*old, *settings} if old.get(name) != settings.get(name))
        if changed:
            raise ValueError(
                f"{path} was begun with other settings of {changed}: {[old.get(name) for name in changed]} instead of "
                f"{[settings.get(name) for name in changed]}; choose another output"
            )
        _create_whole(path, ",".join(COLUMNS) + "\n" if path.suffix == ".csv" else "")
        with path.open(encoding="utf-8") as table:
            header = table.readline().strip()
        if path.suffix == ".csv" and header != ",".join(COLUMNS):
            raise ValueError(f"output must have the columns {','.join(COLUMNS)}, got {header!r} in {path}")
        self._end_broken_line()

    def rows(self) -> dict[int, Row]:
        """The complete rows by index; a line that a crash cut off is not one."""
        return {row.index: row for row in self._parse()}

    def append(self, row: Row) -> None:
        """Adds a row to the end of the file."""
        append_text(self.path, self._format(row))

    def summary(self, limit: int | None = None) -> tuple[float, float, int]:
        """Mean bits/dim of the first `limit` images, its standard error over the images, and how many are there."""
        rows = self.rows()
        values = [row.bits_per_dim for index, row in rows.items() if limit is None or index < limit]
        count = len(values)
        if not count:
            return math.nan, math.nan, 0
        mean = math.fsum(values) / count
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1) if count > 1 else math.nan
        return mean, math.sqrt(variance / count), count

    def _format(self, row: Row) -> str:
        if self.path.suffix == ".jsonl":
            return json.dumps(asdict(row)) + "\n"
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(asdict(row).values())
        return line.getvalue()

    def _parse(self) -> Iterator[Row]:
        for line in self.path.read_text("utf-8").splitlines(keepends=True):
            try:
                values = (
                    json.loads(line) if self.path.suffix == ".jsonl" else dict(zip(COLUMNS, next(csv.reader([line]))))
                )
                row = Row(**{field.name: field.type(values[field.name]) for field in fields(Row)})  # type: ignore[operator]
            except (ValueError, KeyError, TypeError):
                continue
            if line.endswith("\n"):
                yield row

    def _end_broken_line(self) -> None:
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            append_text(self.path, "\n")


def _create_whole(path: Path, text: str) -> None:
    # Appears with its contents or not at all, and once, however many processes try.
    with suppress(FileExistsError), written_whole(path, replace=False) as scratch:
        scratch.write_text(text, "utf-8")
