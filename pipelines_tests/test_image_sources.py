"""Folders of images and parquet files: every file is found, splits and classes are those of the folders."""

import json
import logging

import pytest
from PIL import Image

from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images
from scoresde_pipelines.training.image_table import find_label_column, read_labels


datasets = pytest.importorskip("datasets")


def write(root, *names):
    """Gray images of value 0, 10, 20, ... under these names."""
    for k, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 10 * k).save(path)


def write_parquet(path, *values):
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image()})
    images = [Image.new("L", (4, 4), value) for value in values]
    datasets.Dataset.from_dict({"image": images}, features=features).to_parquet(path)


def values(root, split="train", **options):
    """The gray values of the images that are read."""
    store = ImageStore(load_images(train_data_dir=str(root), split=split, **options), ImageFormat(4, 1))
    return store[range(len(store))][:, 0, 0, 0].tolist()


def test_a_file_named_like_a_split_is_one_image_of_all(tmp_path):
    write(tmp_path, "a.png", "b.png", "c.png", "photo of a train.png", "test.PNG")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    assert values(tmp_path) == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("name", ["x[1]", "a*b", "what?", "{c}", "[!d]"])
def test_names_with_pattern_characters_are_names(tmp_path, name):
    write(tmp_path, f"{name}/{name}.png", f"{name}/e.png", "x1/other.png")
    assert sorted(values(tmp_path / name)) == [0, 10]
    write_parquet(tmp_path / name / "p" / f"train {name}.parquet", 7)
    assert values(tmp_path / name / "p", cache_dir=str(tmp_path / "cache")) == [7]


def test_folders_are_classes(tmp_path):
    write(tmp_path, "train/0.png", "car/1.png", "car/2.png", "plane/3.png")  # "train" is a class here
    table = load_images(train_data_dir=str(tmp_path))
    assert table.features["label"].names == ["car", "plane", "train"] and find_label_column(table) == "label"
    labels, names = read_labels(table, "label")
    assert labels.tolist() == [0, 0, 1, 2] and names == ["car", "plane", "train"]
    assert values(tmp_path) == [10, 20, 30, 0]


def test_folders_named_like_splits_are_splits(tmp_path):
    write(tmp_path, "train/cat/0.png", "train/dog/1.png", "test/cat/2.png", "test/dog/3.png", "val/cat/4.png")
    for split, expected in {"train": [0, 10], "test": [20, 30], "validation": [40], "val": [40]}.items():
        assert values(tmp_path, split) == expected
    assert load_images(train_data_dir=str(tmp_path), split="test").features["label"].names == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"split must be one of .*'test', 'train', .* got 'tset'"):
        values(tmp_path, "tset")


def test_a_folder_without_splits_is_the_training_set(tmp_path, caplog):
    write(tmp_path, "a.png", "b.png")
    with pytest.raises(ValueError, match=r"split must be 'train' for a folder without splits, .* got 'test'"):
        values(tmp_path, "test")
    with caplog.at_level(logging.WARNING):
        assert values(tmp_path, "test", whole_if_unsplit=True) == [0, 10]
    assert "has no splits: all 2 files are read for the split 'test'" in caplog.text


def test_a_part_of_a_split(tmp_path):
    write(tmp_path, *(f"{k}.png" for k in range(10)))
    assert values(tmp_path, "train[:2]") == [0, 10]
    assert values(tmp_path, "train[80%:]") == [80, 90]
    assert values(tmp_path, "train[-3:-1]") == [70, 80]
    with pytest.raises(ValueError, match=r"split must be a name, or a part of it"):
        values(tmp_path, "train[:2")


def test_metadata_is_that_of_imagefolder(tmp_path):
    write(tmp_path, "x[1]/a.png", "x[1]/b.png")
    rows = [{"file_name": name, "caption": name[0].upper()} for name in ("a.png", "b.png")]
    (tmp_path / "x[1]" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = load_images(train_data_dir=str(tmp_path / "x[1]"), cache_dir=str(tmp_path / "cache"))
    assert table["caption"][:] == ["A", "B"]
    assert values(tmp_path / "x[1]", cache_dir=str(tmp_path / "cache")) == [0, 10]


def test_parquet_files_have_the_splits_of_their_names(tmp_path):
    write_parquet(tmp_path / "named" / "train-0.parquet", 1)
    write_parquet(tmp_path / "named" / "test-0.parquet", 2)
    write_parquet(tmp_path / "foldered" / "train" / "0.parquet", 3)
    write_parquet(tmp_path / "foldered" / "test" / "0.parquet", 4)
    write_parquet(tmp_path / "plain" / "data.parquet", 5)
    cache = {"cache_dir": str(tmp_path / "cache")}
    assert (values(tmp_path / "named", **cache), values(tmp_path / "named", "test", **cache)) == ([1], [2])
    assert (values(tmp_path / "foldered", **cache), values(tmp_path / "foldered", "test", **cache)) == ([3], [4])
    assert values(tmp_path / "plain", **cache) == values(tmp_path / "plain" / "data.parquet", "test", **cache) == [5]
    with pytest.raises(ValueError, match=r"split must be one of .*\['test', 'train'\], got 'tset'"):
        values(tmp_path / "named", "tset", **cache)
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(ValueError, match=r"damaged.parquet cannot be read as parquet"):
        values(tmp_path / "damaged.parquet", **cache)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"train_data_dir must hold images or parquet files, .* has none"):
        values(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"train_data_dir must be a folder or a parquet file, got .*a.txt"):
        values(tmp_path / "a.txt")
