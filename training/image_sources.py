"""Opens a data set of images: from the Hub, parquet files or a folder, with its splits and class labels.

Files of a folder are listed here and passed to `datasets` one by one: by itself it reads splits into file names
("photo of a train.png") and patterns into folder names ("x[1]").
"""

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..schedulers.checks import check_path, shown
from .hub_datasets import open_dataset
from .run_settings import SETTINGS_FILE


logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (
    ".apng", ".avif", ".bmp", ".dds", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx",
    ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".webp",
    ".xbm", ".xpm",
)  # fmt: skip
# Files that data sets have beside their images. Any other that is not read is named in a warning.
SIDE_FILES = (
    ".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".license", ".md", ".py", ".sh", ".txt", ".xml", ".yaml", ".yml",
)  # fmt: skip
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# What a file or folder name may begin with, and the split that it means, as in `datasets`.
SPLIT_WORDS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip


def load_images(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_data_dir: str | None = None,
    split: str = "train",
    cache_dir: str | None = None,
    whole_if_unsplit: bool = False,
) -> Any:
    """Opens a data set with the `datasets` library; returns a `datasets.Dataset`.

    A folder of parquet files has the splits that their names begin with ("train-00000.parquet"), or the names of their
    folders. A folder of images has splits where all its images lie in subfolders named so. Folders below give the class
    labels, column "label", where there are several at one depth; a `metadata.csv`, `.jsonl` or `.parquet` gives columns
    instead, as in the `imagefolder` format of `datasets`. Links to files and folders are followed; hidden files and
    folders, `__MACOSX` and folders of training runs are left out. A warning names files that are neither images nor usual
    beside them.

    Args:
        dataset_name: a Hub id, or a local folder that `datasets` understands.
        dataset_config_name: configuration of that data set.
        train_data_dir: a parquet file (all of it is read), or a folder of parquet files or images.
        split: "train", "test", "validation" or another name; a part of it is "train[:100]" or "train[10%:]".
        cache_dir: where `datasets` keeps what it prepares.
        whole_if_unsplit: read all of a folder without splits whatever `split` is, and log it. Otherwise such a folder is
            its split "train".

    Raises:
        ValueError: neither or both sources are given, nothing is there, or there is no such split.
    """
    if (dataset_name is None) == (train_data_dir is None):
        raise ValueError("give either dataset_name (a Hub id) or train_data_dir (a folder or parquet file), not both")
    if not isinstance(split, str):
        raise TypeError(f"split must be a text, got {type(split).__name__}")
    if dataset_name is not None:
        return open_dataset(dataset_name, dataset_config_name, split, cache_dir)
    path = check_path("train_data_dir", train_data_dir)
    if not path.exists():
        raise ValueError(f"train_data_dir must be an existing folder or file, got {shown(train_data_dir)}")
    name, part = split_and_part(split)
    files = [path] if path.is_file() else listed_files(path)
    parquet = [file for file in files if file.suffix == ".parquet" and file.name not in METADATA_FILES]
    if path.is_file() and not parquet:
        raise ValueError(f"train_data_dir must be a folder or a parquet file, got {shown(train_data_dir)}")
    images = [file for file in files if file.suffix.lower() in IMAGE_EXTENSIONS]
    if not path.is_file():
        _warn_of_others(path, [file for file in files if file not in {*(parquet or images)}])
    if parquet:
        chosen = parquet if path.is_file() else files_of_split(path, parquet, name, whole_if_unsplit, by_name=True)
        table = _from_parquet(chosen, cache_dir)
    else:
        if not images:
            hint = "; tar files (WebDataset) need --streaming" if any(file.suffix == ".tar" for file in files) else ""
            raise ValueError(
                f"train_data_dir must hold images or parquet files, {shown(train_data_dir)} has none{hint}"
            )
        chosen = files_of_split(path, images, name, whole_if_unsplit, by_name=False)
        tops = [path] if chosen == images else sorted({path / file.relative_to(path).parts[0] for file in chosen})
        if any(file.name in METADATA_FILES and any(map(file.is_relative_to, tops)) for file in files):
            table = _from_metadata(path, tops, chosen, cache_dir)
        else:
            table = _from_image_files(path, chosen, is_split=chosen != images)
    return table if part is None else table.select(_part_range(part, len(table)))


def listed_files(folder: Path) -> list[Path]:
    """All files below, sorted, without hidden ones, what macOS leaves in archives, and the folders of training runs.

    A run in the folder of its own data would otherwise read its samples as data when it is resumed.
    """
    return sorted(_files(folder, frozenset()))


def _files(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    # `rglob` leaves out folders that are links. A link to a folder above would never end.
    above |= {os.path.realpath(folder)}
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in ("__MACOSX", "__pycache__"):
            continue
        if path.is_dir():
            if os.path.realpath(path) not in above and not (path / SETTINGS_FILE).exists():
                yield from _files(path, above)
        elif path.is_file() or path.is_symlink():  # a broken link is an image that cannot be read
            yield path


def _warn_of_others(root: Path, files: list[Path]) -> None:
    left = [str(file.relative_to(root)) for file in files if file.suffix.lower() not in SIDE_FILES]
    left = [name for name in left if Path(name).name not in (*METADATA_FILES, "Thumbs.db", "LICENSE", "README")]
    if left:
        shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        logger.warning("%d files of %s are left out, being no images by their names: %s", len(left), root, shown)


def files_of_split(root: Path, files: list[Path], split: str, whole_if_unsplit: bool, by_name: bool) -> list[Path]:
    """The files of a split; all where there are no splits.

    Args:
        by_name: file names may begin with the split, as those of parquet files do; otherwise folders alone count.
    """
    chosen = [file for file in files if by_name and file.name.startswith(split)]
    if chosen:
        return chosen
    words = [_split_words(file.relative_to(root), by_name) for file in files]
    if not by_name:
        _check_depth(root, files)
    # A folder "train" beside folders "car" and "plane" is a class and no split.
    if not (any(words) if by_name else all(words)):
        test = [str(file) for file, own in zip(files, words) if own and "train" not in own]
        loose = not by_name and any(len(file.relative_to(root).parts) == 1 for file in files)
        if loose and test:
            raise ValueError(
                f"train_data_dir must hold all its images in folders of splits, or none: {str(root)!r} has images beside "
                f"its folders of splits, and {test[0]!r} would be a training image: move them into a folder"
            )
        if split != "train" and not whole_if_unsplit:
            raise ValueError(f"split must be 'train' for a folder without splits, {str(root)!r}, got {shown(split)}")
        if split != "train":
            logger.warning("%s has no splits: all %d files are read for the split %r", root, len(files), split)
        return files
    wanted = {split, SPLIT_WORDS.get(split, split)}
    chosen = [file for file, own in zip(files, words) if own and wanted & own]
    if not chosen:
        names = sorted(set().union(*words))
        raise ValueError(f"split must be one of those in {str(root)!r}, {names}, got {shown(split)}")
    return chosen


def _check_depth(root: Path, files: list[Path]) -> None:
    """Raises ValueError for splits within the classes, as cat/train and cat/test: they would be the classes."""
    inner = [{part.lower() for part in file.relative_to(root).parts[1:-1]} & SPLIT_WORDS.keys() for file in files]
    if all(inner) and len({word for own in inner for word in own}) > 1:
        raise ValueError(
            f"train_data_dir must have its folders of splits at the top, got {str(files[0].relative_to(root))!r} in "
            f"{str(root)!r}: move them, as train/cat"
        )


def _split_words(path: Path, by_name: bool) -> set[str]:
    # The split that a file is in, by its top folder (images) or by its own name or a folder's (parquet).
    names = [path.name, *path.parts[:-1]] if by_name else list(path.parts[:1] if len(path.parts) > 1 else ())
    for name in names:
        word = re.split(r"[^a-z]", name.lower())[0] if by_name else name.lower()
        if name == path.name:
            word = next((start for start in ("train", "test", "validation") if word.startswith(start)), word)
        if word in SPLIT_WORDS:
            return {word, SPLIT_WORDS[word]}
    return set()


def _from_parquet(files: Sequence[Path], cache_dir: str | None) -> Any:
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    data_files = {"train": [glob.escape(str(file)) for file in files]}
    try:
        table = load_dataset("parquet", data_files=data_files, split="train", cache_dir=cache_dir)
    except Exception as error:  # a damaged file may raise nearly anything
        raise ValueError(f"{', '.join(map(str, files[:3]))} cannot be read as parquet: {error}") from error
    for name, feature in table.features.items():
        if is_bare_image(feature):
            table = table.cast_column(name, ImageFeature())
    return table


def is_bare_image(feature: Any) -> bool:
    """Whether a column holds encoded images as bare {"bytes": ...}: files that `datasets` did not write."""
    return isinstance(feature, dict) and "bytes" in feature


def _from_metadata(root: Path, tops: list[Path], images: list[Path], cache_dir: str | None) -> Any:
    from datasets import load_dataset

    data_files = {"train": [f"{glob.escape(str(top))}/**" for top in tops]}
    try:
        table = load_dataset("imagefolder", data_files=data_files, split="train", cache_dir=cache_dir)
    except Exception as error:  # a damaged file may raise nearly anything
        raise ValueError(f"{root}: {', '.join(METADATA_FILES)} cannot be read beside the images: {error}") from error
    if len(table) < len(images):
        logger.warning(
            "%d of %d images of %s are left out: the metadata has no row for them",
            len(images) - len(table),
            len(images),
            root,
        )
    return table


def _from_image_files(root: Path, images: Sequence[Path], is_split: bool) -> Any:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    columns: dict[str, list] = {"image": [str(file.absolute()) for file in images]}
    features: dict[str, Any] = {"image": ImageFeature()}
    folders = [file.relative_to(root).parts[int(is_split) : -1] for file in images]
    names = sorted({parts[-1] for parts in folders if parts})
    if len({len(parts) for parts in folders}) == 1 and len(names) > 1:
        columns["label"] = [names.index(parts[-1]) for parts in folders]
        features["label"] = ClassLabel(names=names)
    return Dataset.from_dict(columns, features=Features(features))


def split_and_part(split: str) -> tuple[str, tuple[str, str] | None]:
    """The name of a split, and the two ends of the part that is meant where there is one."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if match is None:
        raise ValueError(
            f"split must be a name, or a part of it as in 'train[:100]' or 'train[10%:]', got {shown(split)}"
        )
    return match[1], None if "[" not in split else (match[2] or "", match[3] or "")


def _part_range(part: tuple[str, str], count: int) -> range:
    # As a slice; percentages round to the nearest image.
    ends = [None if not end else round(int(end[:-1]) / 100 * count) if end.endswith("%") else int(end) for end in part]
    return range(*slice(*ends).indices(count))
