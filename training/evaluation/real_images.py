"""Real images for an evaluation: a split of a data set, checked before anything is generated.

Which images are compared: the reference is a random choice (seed 0) of the split, as many as are generated with one seed.
The line "real" compares as many others with it: from the rest of the split where there are enough, else from the training
split, else what is left of the split, else one half of the reference with the other.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...schedulers.checks import check_choice, shown
from ..data import ImageFormat, ImageStore, load_images
from ..data_report import DataReport, data_report
from ..image_format import FITS
from .feature_cache import ImageSelection
from .plan import RealData


def open_split(data: str, split: str, whole_if_unsplit: bool = False) -> Any:
    """A `datasets.Dataset` of one split of a folder, a parquet file or a Hub id; `whole_if_unsplit` as in `load_images`.

    Raises:
        ValueError: there is no such split, or no images.
    """
    source: dict[str, Any] = {"train_data_dir": data} if Path(data).exists() else {"dataset_name": data}
    try:
        return load_images(**source, split=split, whole_if_unsplit=whole_if_unsplit)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"data must be images with the split {shown(split)}, got {shown(data)}: {error}") from error


@dataclass(frozen=True)
class OpenedData:
    """A split of real images that is good for an evaluation, whatever the models are.

    Attributes:
        data, split: where it is from.
        table: the opened split.
        report: what its images are.
        count: how many reference images are taken.
        training: the split that the models were trained on, for the metric "nn", and its name; None without it.
    """

    data: str
    split: str
    table: Any
    report: DataReport
    count: int
    training: tuple[Any, str] | None = None

    def for_models(self, shapes: Sequence[tuple[int, int, int]], fit: str | None = None) -> RealData:
        """The real images in the form of the models': see `open_real`.

        Raises:
            ValueError: images of another size or other channels than the models'.
        """
        image_format = _image_format(self.report, shapes, fit, self.data)
        order = torch.randperm(len(self.table), generator=torch.Generator().manual_seed(0)).tolist()
        store, training = ImageStore(self.table, image_format, max_cached_gb=0), None
        if self.training is not None:
            train_store = ImageStore(self.training[0], image_format, max_cached_gb=0)
            training = ImageSelection(train_store, range(len(train_store)), f"{self.training[1]} images")
        reference = ImageSelection(store, order[: self.count], f"{self.split} images")
        other = _other(store, order[self.count :], reference, self.data, self.split, image_format)
        return RealData(reference, other, training)


def open_data(
    data: str, split: str, num_images: int, *, num_reference: int | None = None, train_split: str | None = None
) -> OpenedData:
    """Opens and checks real images before there is a model: `open_real` in two steps.

    Raises:
        ValueError: no such split; too few images, or one that cannot be read.
    """
    count = num_reference or num_images
    table = open_split(data, split)
    if len(table) < count:
        raise ValueError(f"num_images must be at most {len(table)}, the images of {data} ({split}), got {count}")
    try:
        report = data_report(table)  # all images: the first one alone says little of a mixed folder
    except ValueError as error:
        raise ValueError(f"data must hold images, got {shown(data)}: {error}") from error
    if report.broken:
        raise ValueError(f"data must hold images that can be read, got {report.broken[0]} in {data}")
    training = None if train_split is None else (open_split(data, train_split), train_split)
    return OpenedData(data, split, table, report, count, training)


def open_real(
    data: str,
    split: str,
    shapes: Sequence[tuple[int, int, int]],
    num_images: int,
    *,
    fit: str | None = None,
    num_reference: int | None = None,
    train_split: str | None = None,
) -> RealData:
    """The real images of a table.

    Args:
        data: a folder, a parquet file or a Hub id.
        split: of the reference images.
        shapes: (channels, height, width) of the images of every model.
        num_images: how many each model generates with one seed.
        fit: "crop" or "pad"; None pads images that are at most an eighth too small on each side, and crops the rest.
        num_reference: how many reference images; None for `num_images`.
        train_split: the split that the models were trained on, for the metric "nn".

    Raises:
        ValueError: no such split; too few images; images of another size or other channels than the models'.
    """
    check_choice("fit", fit, FITS, optional=True)
    opened = open_data(data, split, num_images, num_reference=num_reference, train_split=train_split)
    return opened.for_models(shapes, fit)


def _other(
    store: ImageStore, rest: list[int], reference: ImageSelection, data: str, split: str, image_format: ImageFormat
) -> ImageSelection | None:
    """Real images for the line "real"; None where there are none besides the reference."""
    count = len(reference)
    if len(rest) < count and split != "train":
        try:
            train = ImageStore(open_split(data, "train"), image_format, max_cached_gb=0)
        except ValueError:
            train = None
        if train is not None and len(train) >= count:
            chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count].tolist()
            return ImageSelection(train, chosen, "other real images (train)")
    # Fewer than half as many would say little.
    return ImageSelection(store, rest[:count], "other real images") if len(rest) >= count / 2 else None


def _image_format(
    report: DataReport, shapes: Sequence[tuple[int, int, int]], fit: str | None, data: str
) -> ImageFormat:
    """How the data set's images are brought to the models' form."""
    sizes = {shape[1:] for shape in shapes}
    (height, width), *others = sizes
    if others:
        raise ValueError(f"model must name models of one image size, got {sorted(sizes)}")
    channels = 3 if report.kinds["color"] + report.kinds["transparent color"] else 1
    _check_channels(channels, {shape[0] for shape in shapes}, data)
    return ImageFormat((height, width), channels, fit or _fit_for(list(report.sizes), (width, height), data))


def _check_channels(channels: int, models: set[int], data: str) -> None:
    kind = {1: "gray", 3: "colour"}
    if not models <= {1, 3}:
        raise ValueError(f"model must generate images of 1 or 3 channels, got {sorted(models)}")
    if channels not in models:
        raise ValueError(
            f"data must hold {kind[next(iter(models))]} images like those of the model, got {kind[channels]} ones in {data}"
        )
    if len(models) > 1:
        warnings.warn(
            f"the images of {data} are {kind[channels]}: models of gray and of colour images are compared with them alike",
            stacklevel=4,
        )


def _fit_for(sizes: Sequence[tuple[int, int]], size: tuple[int, int], data: str) -> str:
    """ "pad" for images a little smaller than the model's, "crop" for images at least as large; sizes (width, height)."""
    if all(side >= wanted for own in sizes for side, wanted in zip(own, size)):
        return "crop"
    if all(0.75 * wanted <= side <= wanted for own in sizes for side, wanted in zip(own, size)):
        return "pad"
    least = min(sizes, key=lambda own: min(side / wanted for side, wanted in zip(own, size)))
    raise ValueError(
        f"data must hold images of the model's size, {size[0]} x {size[1]}, or larger ones, "
        f"got {least[0]} x {least[1]} in {data}; choose fit 'crop' (enlarges them) or 'pad' (adds a border)"
    )
