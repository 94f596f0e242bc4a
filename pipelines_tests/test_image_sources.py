"""Folders of images and parquet files: every file is found, splits and classes are those of the folders."""

import json
import logging

import datasets
import pytest
from PIL import Image

from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images
from scoresde_pipelines.training.image_table import find_label_column, read_labels


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


def test_the_folder_of_a_training_run_holds_no_data(tmp_path):
    """A run in the folder of its data, resumed: its samples are no training images."""
    write(tmp_path / "data", "0.png", "1.png", "run/samples/0000.png")
    assert len(load_images(train_data_dir=str(tmp_path / "data"))) == 3
    (tmp_path / "data" / "run" / "run_settings.json").write_text("{}")
    assert len(load_images(train_data_dir=str(tmp_path / "data"))) == 2


def test_linked_folders_are_read_and_cycles_end(tmp_path):
    write(tmp_path / "elsewhere", "0.png", "1.png")
    write(tmp_path / "data", "a/0.png", "__b/1.png", "__MACOSX/2.png", ".hidden/3.png")
    (tmp_path / "data" / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / "data", target_is_directory=True)
    table = load_images(train_data_dir=str(tmp_path / "data"))
    assert table.features["label"].names == ["__b", "a", "c"]
    assert values(tmp_path / "data") == [10, 0, 0, 10]


def test_a_broken_link_is_a_broken_image(tmp_path):
    write(tmp_path, "0.png")
    (tmp_path / "1.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"image 1 \(.*1\.png\) cannot be read"):
        values(tmp_path)


def test_files_that_are_left_out_are_named(tmp_path, caplog):
    write(tmp_path, "0.png", "1.pfm.png")
    for name in ("phone.heic", "scan", "notes.txt", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    assert values(tmp_path) == [0, 10]
    assert "2 files of" in caplog.text and "phone.heic, scan" in caplog.text and "notes" not in caplog.text
    caplog.clear()
    write_parquet(tmp_path / "part.parquet", 7)
    assert values(tmp_path, cache_dir=str(tmp_path / "cache")) == [7]
    assert "4 files of" in caplog.text  # the images too


def test_images_without_metadata_are_counted(tmp_path, caplog):
    write(tmp_path, "0.png", "1.png", "2.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.png,x\n")
    assert values(tmp_path, cache_dir=str(tmp_path / "cache")) == [10]
    assert "2 of 3 images" in caplog.text and "the metadata has no row for them" in caplog.text
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text("no JSON")
    with pytest.raises(ValueError, match=r"metadata\.jsonl, .* cannot be read"):
        values(tmp_path, cache_dir=str(tmp_path / "cache"))


def test_test_images_are_not_trained_on_because_of_a_loose_image(tmp_path):
    write(tmp_path, "train/0.png", "test/1.png", "preview.png")
    with pytest.raises(ValueError, match=r"train_data_dir must hold all its images in folders of splits, or none"):
        values(tmp_path)
    (tmp_path / "preview.png").unlink()
    assert values(tmp_path) == [0]


def test_splits_within_the_classes_are_no_classes(tmp_path):
    write(tmp_path, "cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png")
    message = r"train_data_dir must have its folders of splits at the top, got 'cat.test.1.png' in .*: move them"
    with pytest.raises(ValueError, match=message):
        values(tmp_path)
    write(tmp_path, "car/4.png")  # beside a class that is not divided, "train" may be anything
    assert len(values(tmp_path)) == 5
    write(tmp_path / "vehicles", "land/train/0.png", "land/car/1.png")
    assert load_images(train_data_dir=str(tmp_path / "vehicles")).features["label"].names == ["car", "train"]
