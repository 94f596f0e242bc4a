"""Loading, formatting and ordering of training images; every picture here is known pixel by pixel."""

import io
import struct
import zlib
from collections import Counter
from itertools import islice

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from scoresde_pipelines.training.data import (
    ImageFormat,
    ImageStore,
    ShuffledBatches,
    find_image_column,
    image_batches,
    load_images,
    to_data_range,
    to_uint8,
)
from scoresde_pipelines.training.data_report import data_report
from scoresde_pipelines.training.image_table import find_label_column, read_labels
from scoresde_pipelines.training.stream_sources import open_stream


class Table(list):
    """A list of rows with column names, as `datasets` has them."""

    column_names = ("label", "picture")


def constant(value, size=(4, 4), mode="L"):
    return Image.new(mode, size, value)


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(path, images, bare=False):
    """A parquet file as `datasets` writes it, or (bare) one whose images are just `{"bytes": ...}`."""
    if bare:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame({"image": [{"bytes": encoded(image), "path": ""} for image in images]}).to_parquet(path)
    else:
        import datasets

        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict({"image": images}, features=features).to_parquet(path)


def test_parquet_and_image_folder_give_the_same_pixels(tmp_path):
    images = [constant(10 * k) for k in range(5)]
    (tmp_path / "parquet").mkdir()
    write_parquet(tmp_path / "parquet" / "train-0.parquet", images)
    write_parquet(tmp_path / "parquet" / "test-0.parquet", [constant(255)])
    write_parquet(tmp_path / "bare.parquet", images, bare=True)
    (tmp_path / "folder").mkdir()
    for k, image in enumerate(images):
        image.save(tmp_path / "folder" / f"{k}.png")
    for source in ("parquet", "parquet/train-0.parquet", "bare.parquet", "folder"):
        table = load_images(train_data_dir=str(tmp_path / source), cache_dir=str(tmp_path / "cache"))
        store = ImageStore(table, ImageFormat(4, 1))
        assert store[[3, 0, 4]][:, 0, 0, 0].tolist() == [30, 0, 40]
        assert len(store) == 5
    test = load_images(train_data_dir=str(tmp_path / "parquet"), split="test", cache_dir=str(tmp_path / "cache"))
    assert len(test) == 1


def test_sources_that_are_wrong_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"give either dataset_name .* or train_data_dir"):
        load_images()
    with pytest.raises(ValueError, match=r"train_data_dir must be an existing folder or file, got '.*nowhere'"):
        load_images(train_data_dir=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("open_images", [load_images, open_stream])
def test_a_data_set_that_cannot_be_had_is_named_at_once(open_images, tmp_path, monkeypatch):
    asked = []

    def no_network(*args, **kwargs):
        asked.append(args)
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    message = (
        "dataset_name must be a folder or a data set of the Hub, got 'nobody/none': there is no such folder, it is not in "
        "the cache of the Hub, and the Hub cannot be reached"
    )
    with pytest.raises(ValueError, match=message):
        open_images(dataset_name="nobody/none", cache_dir=str(tmp_path))
    assert asked == [("nobody/none",)]
    (tmp_path / "data" / "train").mkdir(parents=True)
    constant(0).save(tmp_path / "data" / "train" / "a.png")
    with pytest.raises(ValueError, match=r"dataset_name must be a data set with the split 'test', got .*data"):
        open_images(dataset_name=str(tmp_path / "data"), split="test", cache_dir=str(tmp_path))
    assert len(asked) == 1
    assert len(list(open_images(dataset_name=str(tmp_path / "data"), cache_dir=str(tmp_path)))) == 1


def test_the_image_column_is_found_or_named():
    table = Table([{"label": 1, "picture": constant(0)}])
    assert find_image_column(table) == "picture"
    with pytest.raises(ValueError, match=r"image_column must be one of the columns .*, got 'image'"):
        find_image_column(table, "image")
    blind = Table([{"label": 1, "picture": 2}])
    with pytest.raises(ValueError, match=r"image_column must name the column with images, got None: no column of"):
        find_image_column(blind)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_follow_the_stream_without_touching_the_global_generator(num_workers):
    store = ImageStore(Table([{"label": 0, "picture": constant(k)} for k in range(10)]), ImageFormat(4, 1))
    before = torch.get_rng_state()
    batches = image_batches(store, ShuffledBatches(10, 4, seed=3), num_workers)
    seen = [next(batches)[:, 0, 0, 0].tolist() for _ in range(5)]
    assert seen == list(islice(ShuffledBatches(10, 4, seed=3), 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_decoding_on_demand_equals_the_cache():
    table = Table([{"label": 0, "picture": constant((k, 2 * k, 3 * k), mode="RGB")} for k in range(6)])
    cached = ImageStore(table, ImageFormat(4, 3))
    lazy = ImageStore(table, ImageFormat(4, 3), max_cached_gb=0)
    assert lazy.cache is None and cached.cache is not None
    assert torch.equal(lazy[[5, 1]], cached[[5, 1]])
    assert cached[[5]][0, :, 0, 0].tolist() == [5, 10, 15]


def test_padding_keeps_pixels_and_cropping_keeps_the_centre():
    picture = Image.fromarray(np.arange(4 * 6, dtype=np.uint8).reshape(4, 6))
    padded = ImageFormat(8, 1, fit="pad", pad_value=99)(picture)[0]
    assert np.array_equal(padded[2:6, 1:7], np.asarray(picture))
    assert (padded[:2] == 99).all() and (padded[:, 0] == 99).all() and (padded[6:] == 99).all()
    cropped = ImageFormat(4, 1, fit="crop")(picture)[0]
    assert np.array_equal(cropped, np.asarray(picture)[:, 1:5])


def test_formats_need_not_be_square():
    picture = Image.fromarray(np.arange(4 * 6, dtype=np.uint8).reshape(4, 6))
    pixels = np.asarray(picture)
    assert np.array_equal(ImageFormat((4, 2), 1)(picture)[0], pixels[:, 2:4])
    assert np.array_equal(ImageFormat((2, 6), 1)(picture)[0], pixels[1:3])
    padded = ImageFormat((8, 6), 1, fit="pad", pad_value=7)(picture)[0]
    assert np.array_equal(padded[2:6], pixels) and (padded[[0, 1, 6, 7]] == 7).all()
    # 60 x 20 into 20 x 10: half the size covers it, a third fits into it.
    tall = constant((200, 100, 0), size=(20, 60), mode="RGB")
    assert (ImageFormat((20, 10), 3)(tall) == np.array([200, 100, 0]).reshape(3, 1, 1)).all()
    padded = ImageFormat((20, 10), 3, fit="pad")(tall)[0]
    assert padded.shape == (20, 10) and (padded[:, 1:8] == 200).all() and (padded[:, [0, 8, 9]] == 0).all()
    assert ImageStore(Table([{"label": 0, "picture": tall}]), ImageFormat((20, 10), 3))[[0]].shape == (1, 3, 20, 10)


def test_large_images_are_resized_and_channels_converted():
    tall = constant((200, 100, 0), size=(20, 60), mode="RGB")
    assert (ImageFormat(10, 3, fit="crop")(tall) == np.array([200, 100, 0]).reshape(3, 1, 1)).all()
    padded = ImageFormat(12, 1, fit="pad")(tall)[0]
    gray = round(0.299 * 200 + 0.587 * 100)
    assert (padded[:, 4:8] == gray).all() and (padded[:, :4] == 0).all() and (padded[:, 8:] == 0).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"channels": 2}, r"channels must be one of \[1, 3, 4\], got 2"),
        ({"fit": "stretch"}, r"fit must be one of \['crop', 'pad'\], got 'stretch'"),
        ({"resolution": 0}, "resolution must be one side or .*, got 0"),
        ({"resolution": True}, "resolution must be one side or .*, got True"),
        ({"resolution": (4, 0)}, r"resolution must be one side or .*, got \(4, 0\)"),
        ({"resolution": (4, 4, 4)}, r"resolution must be one side or .*, got \(4, 4, 4\)"),
        ({"pad_value": -1}, "pad_value must be an integer from 0 to 255, got -1"),
        ({"pad_value": 0.5}, "pad_value must be an integer from 0 to 255, got 0.5"),
        ({"background": 256}, "background must be an integer from 0 to 255, got 256"),
    ],
)
def test_wrong_formats_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ImageFormat(**{"resolution": 4, "channels": 1, **options})


def test_data_ranges_invert():
    levels = torch.arange(256, dtype=torch.uint8)
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        scaled = to_data_range(levels, (low, high))
        assert scaled[0].item() == low and scaled[-1].item() == pytest.approx(high)
        assert torch.equal(to_uint8(scaled, (low, high)), levels)
        floats = levels.float()  # stay as they are
        assert torch.equal(to_data_range(floats, (low, high)), scaled) and torch.equal(floats, levels.float())
    assert to_uint8(torch.tensor([-3.0, 3.0]), (-1.0, 1.0)).tolist() == [0, 255]


def test_the_stream_visits_every_image_once_per_epoch():
    stream = [index for batch in islice(ShuffledBatches(10, 4, seed=3), 10) for index in batch]
    epochs = [stream[10 * k : 10 * k + 10] for k in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_stream_continues_where_it_was_left():
    whole = list(islice(ShuffledBatches(10, 4, seed=3), 9))
    assert list(islice(ShuffledBatches(10, 4, seed=3, start=4 * 5), 4)) == whole[5:]


def test_processes_share_the_stream_without_overlap():
    single = list(islice(ShuffledBatches(10, 8, seed=3), 5))
    ranks = [list(islice(ShuffledBatches(10, 4, seed=3, rank=rank, world_size=2), 5)) for rank in range(2)]
    assert [first + second for first, second in zip(*ranks)] == single
    assert Counter(index for batch in single for index in batch) == Counter({k: 4 for k in range(10)})


# ---------------------------------------------------------------------- broken images


def damaged_folder(path):
    """Five gray images of which the third is cut short and the fourth is no image."""
    for k in range(5):
        Image.fromarray(np.full((64, 64), 10 * k, np.uint8)).save(path / f"{k}.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path.joinpath("2.png").write_bytes(encoded(Image.fromarray(noise))[:2000])
    path.joinpath("3.png").write_bytes(b"no image")
    return load_images(train_data_dir=str(path))


@pytest.mark.parametrize("max_cached_gb", [0, 4])
def test_a_broken_image_is_named_or_skipped(tmp_path, max_cached_gb, caplog):
    table = damaged_folder(tmp_path)
    with pytest.raises(ValueError, match=r"image 2 \(.*2.png\) cannot be read: .*truncated"):
        ImageStore(table, ImageFormat(4, 1), max_cached_gb=max_cached_gb)[[0, 1, 2]]
    store = ImageStore(table, ImageFormat(4, 1), max_cached_gb=max_cached_gb, skip_broken_images=True)
    assert list(store.kept) == [0, 1, 4] and len(store) == 3
    assert store[[2, 0, 1]][:, 0, 0, 0].tolist() == [40, 0, 10]
    assert [text.split(" cannot")[0][-6:] for text in store.broken] == ["2.png)", "3.png)"]
    assert "2 of 5 images are left out" in caplog.text


def test_a_picture_of_400_megapixels_is_named(tmp_path):
    header = encoded(Image.new("1", (8, 8)))
    chunk = b"IHDR" + struct.pack(">II", 20_000, 20_000) + header[24:29]
    (tmp_path / "bomb.png").write_bytes(header[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + header[33:])
    constant(3).save(tmp_path / "small.png")
    table = load_images(train_data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"image 0 \(.*bomb.png\) cannot be read: .*400000000 pixels"):
        ImageStore(table, ImageFormat(4, 1))
    assert ImageStore(table, ImageFormat(4, 1), skip_broken_images=True)[[0]][0, 0, 0, 0] == 3
    assert "bomb.png" in data_report(table).broken[0]


# ---------------------------------------------------------------------- reports and labels


def test_the_report_reads_all_images_not_the_first():
    pictures = [constant(9), constant(9, (6, 4)), constant((1, 2, 3), mode="RGB"), constant(0, mode="P")]
    report = data_report(Table([{"label": k % 2, "picture": picture} for k, picture in enumerate(pictures)]))
    assert (report.count, report.channels, report.broken) == (4, 3, [])
    assert report.modes == {"L": 2, "RGB": 1, "P": 1} and report.sizes == {(4, 4): 3, (6, 4): 1}
    assert report.kinds == {"gray": 3, "color": 1} and report.classes == {"0": 2, "1": 2}
    assert str(report) == (
        "4 images; modes L (2), RGB (1), P (1); sizes 4 x 4 (3), 6 x 4 (1); 2 classes in column 'label': 0 (2), 1 (2). "
        "Warning: 3 of 4 images are gray and the others have color: gray ones fill three channels."
    )


@pytest.mark.parametrize(
    "modes, channels",
    [
        (["L", "1", "I", "F", "LA"], 1),
        (["L", "LA", "RGBA"], 3),
        (["RGB", "RGBA"], 3),
        (["RGBA", "RGBA"], None),
        (["LA"], None),
        (["CMYK"], 3),
    ],
)
def test_channels_are_those_of_all_images(modes, channels):
    table = Table([{"label": 0, "picture": Image.new(mode, (2, 2))} for mode in modes])
    assert data_report(table).channels == channels


def test_labels_are_integers_strings_or_classes(tmp_path):
    import datasets

    table = datasets.Dataset.from_dict({"label": ["b", "a", "b"], "digit": [4, 0, 2], "part": [0.5, 0.5, 0.5]})
    labels, names = read_labels(table, "label")
    assert labels.tolist() == [1, 0, 1] and names == ["a", "b"]
    labels, names = read_labels(table, "digit")
    assert labels.tolist() == [4, 0, 2] and names is None
    with pytest.raises(ValueError, match=r"label_column 'part' must hold strings or integers from 0, row 0 is 0.5"):
        read_labels(table, "part")
    for values, row in (["a", None, "b"], 1), ([None, "a", "b"], 0):
        with pytest.raises(ValueError, match=rf"label_column 'label' must hold strings alone, row {row} is None"):
            read_labels(datasets.Dataset.from_dict({"label": values}), "label")
    with pytest.raises(ValueError, match=r"label_column 'id' must hold class numbers below 100000, .*, got 100000"):
        read_labels(datasets.Dataset.from_dict({"id": [3, 100_000]}), "id")
    classes = table.cast_column("digit", datasets.ClassLabel(names=list("vwxyz")))
    assert (find_label_column(table), find_label_column(classes)) == ("label", "digit")
    assert read_labels(classes, "digit")[1] == list("vwxyz")
    assert find_label_column(table, "part") == "part" and find_label_column(table.select_columns(["part"])) is None
    with pytest.raises(ValueError, match=r"label_column must be one of the columns .*, got 'kind'"):
        find_label_column(table, "kind")


@pytest.mark.parametrize("function", [to_uint8, to_data_range])
def test_images_that_are_not_finite_have_no_pixels(function):
    images = torch.zeros(1, 1, 2, 2).index_fill(3, torch.tensor([1]), float("nan"))
    with pytest.raises(ValueError, match=r"images must be finite, got NaN or infinity"):
        function(images, (-1.0, 1.0))
