"""Opens a data set as a stream, `datasets.IterableDataset`: read from its files while training, never as a whole.

Images stay encoded until they are used. A stream has shards, which can be read in any order: its files, or for a folder of
pictures equal parts of the list of their names.
"""

import glob
from collections.abc import Mapping
from typing import Any

from ..schedulers.checks import check_path
from .hub_datasets import open_dataset
from .image_sources import files_of_split, is_bare_image, listed_files, load_images, split_and_part
from .image_table import is_image_feature


FIRST_IMAGES = 256  # what is known of a stream before the run
PICTURE_SHARDS = 1024
FORMATS = {".parquet": "parquet", ".tar": "webdataset"}


def open_stream(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_data_dir: str | None = None,
    split: str = "train",
    cache_dir: str | None = None,
) -> Any:
    """Opens a data set with the `datasets` library as a stream of undecoded images; returns an `IterableDataset`.

    Args:
        dataset_name, dataset_config_name, cache_dir: see `load_images`.
        train_data_dir: a parquet or tar file, or a folder of parquet files, of tar files (WebDataset: the files of an
            example have one name and several extensions, as 0001.jpg and 0001.cls), or of images. Splits are found in
            names of files and folders as by `load_images`.
        split: the name of a split; no part of one.

    Raises:
        ValueError: neither or both sources are given, nothing is there, there is no such split, the files cannot be
            read, or the data set does not say what its columns hold.
    """
    if (dataset_name is None) == (train_data_dir is None):
        raise ValueError("give either dataset_name (a Hub id) or train_data_dir (a folder or file), not both")
    name, part = split_and_part(split)
    if part is not None:
        raise ValueError(f"split must be the name of a split where the data set is streamed, got {split!r}")
    from datasets import load_dataset

    if dataset_name is not None:
        return _undecoded(open_dataset(dataset_name, dataset_config_name, split, cache_dir, streaming=True))
    path = check_path("train_data_dir", train_data_dir)
    files = [path] if path.is_file() else listed_files(path) if path.exists() else []
    for suffix, builder in FORMATS.items():
        shards = [file for file in files if file.suffix == suffix and not file.name.startswith("metadata.")]
        if shards:
            chosen = shards if path.is_file() else files_of_split(path, shards, name, False, by_name=True)
            data_files = {"train": [glob.escape(str(file)) for file in chosen]}
            try:
                return _undecoded(load_dataset(builder, data_files=data_files, split="train", streaming=True))
            except Exception as error:  # a damaged file may raise nearly anything
                raise ValueError(f"{chosen[0]} cannot be read as {builder}: {error}") from error
    table = load_images(train_data_dir=train_data_dir, split=split, cache_dir=cache_dir)
    return _undecoded(table.to_iterable_dataset(num_shards=min(len(table), PICTURE_SHARDS)))


def _undecoded(stream: Any) -> Any:
    from datasets import Image as ImageFeature

    if stream.features is None:
        raise ValueError("the data set must say what its columns hold (`features`) to be streamed, got none")
    for name, feature in dict(stream.features).items():
        if is_bare_image(feature) or is_image_feature(feature):
            stream = stream.cast_column(name, ImageFeature(mode=getattr(feature, "mode", None), decode=False))
    return stream


def first_rows(stream: Any, count: int = FIRST_IMAGES) -> Any:
    """The first examples of a stream as a `datasets.Dataset` of its images, texts, numbers and classes.

    A column that holds a mapping, as the JSON files of a WebDataset do, gives one column per entry: "json.label".

    Raises:
        ValueError: the stream is empty, or cannot be read.
    """
    from datasets import Dataset, Features

    try:
        rows = list(stream.take(count))
    except Exception as error:  # a damaged file may raise nearly anything
        raise ValueError(f"the stream cannot be read: {error}") from error
    if not rows:
        raise ValueError("the data set must hold at least one image, got none")
    kinds: dict[str, Any] = {}
    for name, feature in stream.features.items():
        nested = {f"{name}.{key}": entry for key, entry in feature.items()} if isinstance(feature, dict) else {}
        kinds.update(nested or {name: feature})
    kept = {name: kind for name, kind in kinds.items() if type(kind).__name__ in ("Image", "ClassLabel", "Value")}
    features = {name: type(kind)(mode=kind.mode) if is_image_feature(kind) else kind for name, kind in kept.items()}
    columns = {name: [column_value(row, name) for row in rows] for name in features}
    return Dataset.from_dict(columns, features=Features(features))


def column_value(example: Mapping[str, Any], column: str) -> Any:
    """The value of a column; "json.label" is the entry "label" of the mapping in column "json". None where it is missing."""
    if column in example:
        return example[column]
    name, _, key = column.partition(".")
    inner = example.get(name)
    return inner.get(key) if key and isinstance(inner, Mapping) else None
