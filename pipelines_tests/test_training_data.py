"""Loading, formatting and ordering of training images; every picture here is known pixel by pixel."""

import io
from collections import Counter
from itertools import islice

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
    random_flip,
    to_data_range,
    to_uint8,
)


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
    """A parquet file as `datasets` writes it, or (bare) one whose images are just ``{"bytes": ...}``."""
    if bare:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame({"image": [{"bytes": encoded(image), "path": ""} for image in images]}).to_parquet(path)
    else:
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict({"image": images}, features=features).to_parquet(path)


def test_parquet_and_image_folder_give_the_same_pixels(tmp_path):
    pytest.importorskip("datasets")
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
    with pytest.raises(ValueError, match=r"train_data_dir is '.*nowhere', which does not exist"):
        load_images(train_data_dir=str(tmp_path / "nowhere"))


def test_the_image_column_is_found_or_named():
    table = Table([{"label": 1, "picture": constant(0)}])
    assert find_image_column(table) == "picture"
    with pytest.raises(ValueError, match="image_column is 'image', but the data set has the columns"):
        find_image_column(table, "image")
    blind = Table([{"label": 1, "picture": 2}])
    with pytest.raises(ValueError, match=r"no column of .* holds images; name it with image_column"):
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


def test_large_images_are_resized_and_channels_converted():
    tall = constant((200, 100, 0), size=(20, 60), mode="RGB")
    assert (ImageFormat(10, 3, fit="crop")(tall) == np.array([200, 100, 0]).reshape(3, 1, 1)).all()
    padded = ImageFormat(12, 1, fit="pad")(tall)[0]
    gray = round(0.299 * 200 + 0.587 * 100)
    assert (padded[:, 4:8] == gray).all() and (padded[:, :4] == 0).all() and (padded[:, 8:] == 0).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"channels": 2}, "channels is 2"),
        ({"fit": "stretch"}, "fit is 'stretch', expected 'crop' or 'pad'"),
        ({"resolution": 0}, "resolution is 0"),
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
    assert to_uint8(torch.tensor([-3.0, 3.0]), (-1.0, 1.0)).tolist() == [0, 255]


def test_random_flip_mirrors_whole_images():
    images = torch.arange(4.0).expand(400, 1, 2, 4)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    kept, mirrored = (flipped == images).all(dim=(1, 2, 3)), (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    assert (kept | mirrored).all()
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 20)


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
