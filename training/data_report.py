"""A summary of a data set from the headers of its images: printed before training; it also determines the channels."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .image_table import ImageRows, ImageTable, find_image_column, find_label_column, read_labels
from .pil_pictures import has_transparency, is_gray


@dataclass
class DataReport:
    """Counts over a data set.

    Attributes:
        count: number of rows.
        modes: images of each PIL mode.
        sizes: images of each (width, height).
        kinds: images that are "gray", "color", and either with transparency.
        broken: what cannot be opened, "image 7 (cat.png): reason". A file that is cut short after its header opens.
        label_column: the column of labels, if any.
        classes: images of each class, by name or number.
        of_stream: the rows are the first ones of a stream; there are more.
    """

    count: int
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    label_column: str | None = None
    classes: dict[str, int] = field(default_factory=dict)
    of_stream: bool = False

    @property
    def channels(self) -> int | None:
        """Channels of a network for these images: 3 where any image has color, else 1.

        None where every image may be transparent: then it is a choice between compositing (1 or 3) and keeping (4).
        """
        transparent = self.kinds["transparent gray"] + self.kinds["transparent color"]
        if not self.kinds or transparent == sum(self.kinds.values()):
            return None
        return 3 if self.kinds["color"] + self.kinds["transparent color"] else 1

    @property
    def warnings(self) -> list[str]:
        """What is likely to be a mistake: mixed gray and color, some transparent images, broken ones."""
        gray, found = self.kinds["gray"] + self.kinds["transparent gray"], sum(self.kinds.values())
        transparent = self.kinds["transparent gray"] + self.kinds["transparent color"]
        texts = []
        if 0 < gray < found:
            texts.append(f"{gray} of {found} images are gray and the others have color: gray ones fill three channels")
        if 0 < transparent < found:
            texts.append(f"{transparent} of {found} images may be transparent: they are composited on the background")
        if transparent and transparent == found:
            texts.append(
                "every image may be transparent: choose 1 or 3 channels to composite them, or 4 to keep opacity"
            )
        if self.broken:
            texts.append(f"{len(self.broken)} of {self.count} images cannot be opened, the first: {self.broken[0]}")
        return texts

    def conversions(self, channels: int, size: tuple[int, int]) -> list[str]:
        """What is done to the images for a network of so many channels and of this size (height, width), with counts."""
        kinds, found = self.kinds, sum(self.kinds.values())
        transparent = kinds["transparent gray"] + kinds["transparent color"]
        done = {
            "have color and become gray": (kinds["color"] + kinds["transparent color"]) * (channels == 1),
            "are gray and fill three channels": (kinds["gray"] + kinds["transparent gray"]) * (channels > 1),
            "may be transparent and are composited on white": transparent * (channels < 4),
            f"are not {size[1]} x {size[0]} pixels and are cut or resized": found - self.sizes[size[1], size[0]],
        }
        return [f"{count} of {found} images {what}" for what, count in done.items() if count]

    def __str__(self) -> str:
        """One paragraph."""
        sizes = _most_common((f"{width} x {height}", n) for (width, height), n in self.sizes.most_common())
        count = f"first {self.count} images of a stream" if self.of_stream else f"{self.count} images"
        parts = [count, f"modes {_most_common(self.modes.most_common())}", f"sizes {sizes}"]
        if self.classes:
            classes = _most_common(sorted(self.classes.items(), key=lambda item: -item[1]))
            parts.append(f"{len(self.classes)} classes in column {self.label_column!r}: {classes}")
        return "; ".join(parts) + "." + "".join(f" Warning: {text}." for text in self.warnings)


def data_report(dataset: ImageTable, image_column: str | None = None, label_column: str | None = None) -> DataReport:
    """Reads the headers of all images, and no pixels (some 20,000 images a second).

    Args:
        dataset: a data set, as `load_images` opens it.
        image_column, label_column: see `find_image_column` and `find_label_column`.

    Raises:
        ValueError: there is no image at all, or no such column.
    """
    if len(dataset) == 0:
        raise ValueError("the data set must hold at least one image, got none")
    rows = ImageRows(dataset, find_image_column(dataset, image_column))
    report = DataReport(len(dataset), label_column=find_label_column(dataset, label_column))
    for index, image in enumerate(rows):
        if isinstance(image, Exception):
            report.broken.append(f"{rows.name(index)}: {image}")
            continue
        report.modes[image.mode] += 1
        report.sizes[image.size] += 1
        report.kinds[
            ("transparent " if has_transparency(image) else "") + ("gray" if is_gray(image) else "color")
        ] += 1
    if report.label_column is not None:
        try:
            report.classes = _class_counts(dataset, report.label_column)
        except ValueError:
            if label_column is not None:
                raise
            report.label_column = None  # a column with a usual name may hold something else
    return report


def _class_counts(dataset: ImageTable, column: str) -> dict[str, int]:
    labels, names = read_labels(dataset, column)
    counts = Counter(labels.tolist())
    classes = range(len(names)) if names is not None else sorted(counts)
    return {names[k] if names is not None else str(k): counts[k] for k in classes}


def _most_common(counts: Iterable[tuple[str, int]], shown: int = 5) -> str:
    items = list(counts)
    text = ", ".join(f"{name} ({count})" for name, count in items[:shown])
    return text + (f" and {len(items) - shown} more" if len(items) > shown else "")
