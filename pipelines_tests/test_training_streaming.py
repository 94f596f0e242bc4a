"""Streamed training data: the order is the documented one, and a stopped run goes on with it to the bit."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from two_processes import run_in_two_processes

from scoresde_pipelines.models import NoiseConditionalClassifier
from scoresde_pipelines.training import train_classifier, train_unconditional
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.checkpoints import read_state
from scoresde_pipelines.training.data import ImageFormat
from scoresde_pipelines.training.data_report import data_report
from scoresde_pipelines.training.image_stream import ImageStream, check_bookmark
from scoresde_pipelines.training.pipeline_folder import load_pipeline_folder
from scoresde_pipelines.training.run_config import save_run_config
from scoresde_pipelines.training.safe_state import load_state_file
from scoresde_pipelines.training.stream_labels import StreamLabels
from scoresde_pipelines.training.stream_order import BlockShuffle
from scoresde_pipelines.training.stream_sources import first_rows, open_stream


ROOT = Path(__file__).resolve().parents[1]
SHARDS = ([0, 1, 2, 3, 4, 5, 6], [7, 8, 9], [10, 11, 12, 13, 14])  # the gray values of the images
NAMES = ["a", "b", "c"]  # the class of value k is k % 3
BLOCK = 4
QUICK = ["--resolution", "8", "--train_batch_size", "4", "--lr_warmup_steps", "0", "--report_to", "none", "--cpu"]
SIZE = ["--block_out_channels", "8", "8", "--layers_per_block", "1", "--attention_resolutions", "4"]
SIZE += ["--eval_batch_size", "0"]
STREAMING = ["--streaming", "--shuffle_buffer", str(BLOCK)]


def encoded(value):
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file.getvalue()


def write_parquet(folder, prefix="train"):
    """Shards with row groups of two."""
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    for number, values in enumerate(SHARDS):
        columns = {
            "image": [{"bytes": encoded(v), "path": f"{v}.png"} for v in values],
            "label": [v % 3 for v in values],
        }
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(folder / f"{prefix}-{number}.parquet", batch_size=2)
    return folder


def write_tars(folder, broken=(), extension="png"):
    """WebDataset shards of pictures, `cls` and `json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(SHARDS):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for v in values:
                picture = b"no picture" if v in broken else encoded(v)
                fields = {
                    extension: picture,
                    "cls": b"%d" % (v % 3),
                    "json": b'{"label": "%s"}' % NAMES[v % 3].encode(),
                }
                for name, content in fields.items():
                    entry = tarfile.TarInfo(f"{v:03d}.{name}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("parquet"))


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return write_tars(tmp_path_factory.mktemp("tars"))


def expected_order(epochs, seed=0, shards=SHARDS, block=BLOCK):
    """What the documentation says, written anew."""
    order = []
    for epoch in range(epochs):
        shuffled = np.random.default_rng([seed, epoch, 0]).permutation(len(shards))
        rows = [value for shard in shuffled for value in shards[shard]]
        for number, start in enumerate(range(0, len(rows), block)):
            part = rows[start : start + block]
            permutation = np.random.default_rng([seed, epoch, number + 1]).permutation(len(part))
            order += [part[index] for index in permutation]
    return order


def image_stream(folder, labels=None, skip=False, seed=0, column="image"):
    stream = open_stream(train_data_dir=str(folder))
    return ImageStream(stream, ImageFormat(8, 1), column, labels, block_size=BLOCK, seed=seed, skip_broken_images=skip)


def values(batch):
    return batch.images[:, 0, 0, 0].tolist()


def first(count, stream, size=1, **options):
    """The gray values of the first batches, one after the other."""
    return [value for batch in islice(stream.batches(size, **options), count) for value in values(batch)]


# ------------------------------------------------------------------ order


@pytest.mark.parametrize("kind", ["parquet", "png"])
def test_shards_and_blocks_are_permuted_as_documented(kind, parquet, tars):
    stream = image_stream(parquet if kind == "parquet" else tars, column="image" if kind == "parquet" else "png")
    order = expected_order(3)
    assert sorted(order[:15]) == sorted(order[15:30]) == list(range(15)) and order[:15] != order[15:30]
    assert first(9, stream, 5) == order
    by_name = open_stream(dataset_name=str(parquet))  # as a data set on the Hub is opened
    assert first(3, ImageStream(by_name, ImageFormat(8, 1), "image", block_size=BLOCK, seed=0), 5) == order[:15]
    assert first(3, image_stream(parquet, seed=5), 5) == expected_order(1, seed=5) != order[:15]


def test_a_folder_of_pictures_is_a_stream_of_its_names(tmp_path):
    for v in range(5):
        path = tmp_path / NAMES[v % 3] / f"{v}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(v))
    stream = open_stream(train_data_dir=str(tmp_path))
    assert stream.features["label"].names == NAMES
    # One shard per picture, in the order of the names: a/0, a/3, b/1, b/4, c/2.
    order = expected_order(2, shards=[[0], [3], [1], [4], [2]])
    assert first(10, image_stream(tmp_path)) == order


def test_processes_share_the_stream_and_threads_do_not_change_it(parquet):
    stream, order = image_stream(parquet), expected_order(4)
    ranks = [first(6, stream, 4, rank=rank, world_size=2, num_threads=3 * rank) for rank in range(2)]
    for rank, share in enumerate(ranks):
        assert share == [order[8 * number + 4 * rank + k] for number in range(6) for k in range(4)]


@pytest.mark.parametrize("kind", ["parquet", "png"])
@pytest.mark.parametrize("version", [None, "0.1"])
def test_a_bookmark_and_a_position_give_the_rest_of_the_stream(kind, version, parquet, tars):
    folder, column = (parquet, "image") if kind == "parquet" else (tars, "png")
    order = expected_order(4)
    batches = list(islice(image_stream(folder, column=column).batches(2), 24))
    assert len({json.dumps(batch.bookmark) for batch in batches}) == 13  # blocks, 4 an epoch
    resumed = image_stream(folder, column=column)
    for number, batch in enumerate(batches):
        bookmark = check_bookmark(json.loads(json.dumps(batch.bookmark)))
        assert 0 <= 2 * number - bookmark["position"] < BLOCK
        if version is not None:  # written by another version of `datasets`
            bookmark["datasets"], bookmark["state"] = version, {"other": 1}
        for start in (2 * number, 2 * number + 2, 2 * number + 8):  # the last is blocks later
            assert first(3, resumed, 2, start=start, bookmark=bookmark) == order[start : start + 6]
    assert first(3, resumed, 2, start=20) == order[20:26]


def test_no_more_than_a_block_is_held():
    read = []

    def rows(shards):
        for shard in shards:
            for v in SHARDS[shard]:
                read.append(v)
                yield {"value": v}

    features = datasets.Features({"value": datasets.Value("int64")})
    stream = datasets.IterableDataset.from_generator(rows, features=features, gen_kwargs={"shards": [0, 1, 2]})
    given = []
    for _, row in islice(BlockShuffle(stream, BLOCK, seed=0).read(), 40):
        given.append(row.example["value"])
        assert len(read) - len(given) < BLOCK
    assert given == expected_order(3)[:40]


# ------------------------------------------------------------------ broken data


def test_a_broken_image_is_named_or_left_out_wherever_it_is(tmp_path, caplog):
    folder = write_tars(tmp_path / "broken", broken=(9, 12))
    with pytest.raises(ValueError, match=r"image 2 of shard 2 \(012\.png\) cannot be read: .*identify"):
        first(15, image_stream(folder, column="png"))
    order_with_broken = expected_order(4)
    order = [v for v in order_with_broken if v not in (9, 12)]
    batches = list(islice(image_stream(folder, column="png", skip=True).batches(2), 24))
    assert [v for batch in batches for v in values(batch)] == order[:48]
    assert caplog.text.count("left out: image 2 of shard 1 (009.png)") == 2  # once an epoch, five lines in all
    resumed = image_stream(folder, column="png", skip=True)
    for number, batch in enumerate(batches):
        assert first(1, resumed, 2, start=2 * number, bookmark=batch.bookmark) == values(batch)
    # A run that stopped at a broken image goes on where it was when it is resumed without it.
    strict = image_stream(folder, column="png").batches(1)
    before = [next(strict) for _ in range(order_with_broken.index(12))]
    rest = first(20, resumed, start=len(before), bookmark=before[-1].bookmark)
    assert [v for batch in before for v in values(batch)] + rest == order[: len(before) + 20]
    shares = [first(6, resumed, 4, rank=rank, world_size=2) for rank in range(2)]
    assert shares[0][4:8] == order[8:12] and shares[1][4:8] == order[12:16]
    nothing = write_tars(tmp_path / "nothing", broken=range(15))
    with pytest.raises(ValueError, match="at least one image that can be decoded, got none"):
        first(1, image_stream(nothing, column="png", skip=True))


def test_a_shard_that_breaks_off_is_named(tmp_path):
    folder = write_tars(tmp_path)
    content = (folder / "1.tar").read_bytes()
    (folder / "1.tar").write_bytes(content[:4000])
    with pytest.raises(ValueError, match=r"shard 1 of the stream breaks off after row \d"):
        first(40, image_stream(folder, column="png"))
    (folder / "0.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"0\.tar cannot be read as webdataset"):
        open_stream(train_data_dir=str(folder))


@pytest.mark.parametrize(
    "change", [{"block": -1}, {"epoch": "0"}, {"shard": None}, {"state": 3}, {"datasets": None}, {"position": -1}]
)
def test_a_bookmark_of_another_form_is_refused(change, parquet):
    bookmark = next(image_stream(parquet).batches(1)).bookmark
    assert check_bookmark(bookmark) == bookmark and check_bookmark(None) is None
    with pytest.raises(ValueError, match="stream"):
        check_bookmark({**bookmark, **change})
    with pytest.raises(ValueError, match=r"stream must be a place in a stream .*, got 'x'"):
        check_bookmark("x")


def test_what_cannot_be_streamed_is_named(tmp_path, parquet):
    with pytest.raises(ValueError, match=r"split must be the name of a split .*, got 'train\[:5\]'"):
        open_stream(train_data_dir=str(parquet), split="train[:5]")
    with pytest.raises(ValueError, match=r"split must be one of those in .*, got 'test'"):
        open_stream(train_data_dir=str(parquet), split="test")
    with pytest.raises(ValueError, match=r"train_data_dir must be an existing folder or file, got '.*nowhere'"):
        open_stream(train_data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="give either dataset_name"):
        open_stream()


# ------------------------------------------------------------------ classes


def test_classes_are_those_of_the_data_set_or_of_class_names(parquet, tars, tmp_path):
    head = first_rows(open_stream(train_data_dir=str(parquet)), 5)
    assert head["label"] == [0, 1, 2, 0, 1] and head[4]["image"].getpixel((0, 0)) == 4
    assert StreamLabels(head).names == NAMES
    with pytest.raises(ValueError, match=r"class_names must be those of the data set, \['a', 'b', 'c'\], got \['x'\]"):
        StreamLabels(head, class_names=["x"])
    head = first_rows(open_stream(train_data_dir=str(tars)))
    assert len(head) == 15 and head["json.label"][:4] == ["a", "b", "c", "a"]
    with pytest.raises(ValueError, match=r"class_names must be given for a stream whose column 'cls' holds no names"):
        StreamLabels(head)
    (tmp_path / "names.txt").write_text("b\nc\na\n")
    by_number, by_name = (
        StreamLabels(head, None, NAMES),
        StreamLabels(head, "json.label", [str(tmp_path / "names.txt")]),
    )
    assert by_number.column == "cls" and by_name.names == ["b", "c", "a"]
    assert by_number.of_table(head).tolist() == [v % 3 for v in range(15)]
    by_name.follow(["c", "b", "a"])  # the names of a network
    for batch in islice(image_stream(tars, by_name, column="png").batches(5), 3):
        assert [["c", "b", "a"][k] for k in batch.labels] == [NAMES[v % 3] for v in values(batch)]
    few = StreamLabels(head, None, ["a", "b"])
    with pytest.raises(
        ValueError, match=r"image 1 of shard 2 \(011\.png\): label in column 'cls' must be .*0 to 1.*got 2"
    ):
        first(3, image_stream(tars, few, column="png"), 5)
    with pytest.raises(ValueError, match=r"label_column must name the column of the classes, got none"):
        StreamLabels(head.select_columns(["png", "__key__"]))
    with pytest.raises(ValueError, match="class_names must be different"):
        StreamLabels(head, None, ["a", "a"])


def test_the_report_says_that_it_is_of_the_first_images(tars):
    report = data_report(first_rows(open_stream(train_data_dir=str(tars)), 6), None, None)
    report.of_stream = True
    assert str(report) == (
        "first 6 images of a stream; modes L (6); sizes 8 x 8 (6); 3 classes in column 'cls': 0 (2), 1 (2), 2 (2)."
    )
    assert report.channels == 1


# ------------------------------------------------------------------ runs


def train(folder, output, *options, script=train_unconditional, size=SIZE):
    AcceleratorState._reset_state(reset_partial_state=True)
    argv = ["--train_data_dir", str(folder), "--output_dir", str(output), *QUICK, *size, *STREAMING, *options]
    try:
        script.main(argv)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    return output


def assert_equal_checkpoints(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir()) and "unet_ema.safetensors" in names
    for name in names:
        if not name.startswith("process") and name != "trainer_state.json":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("stopped", [2, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(parquet, tmp_path, stopped):
    # 8 images an update, 15 an epoch: it stops one image after an epoch's end, then two after the next, in a block each.
    options = ["--class_conditional", "--random_flip", "--dropout", "0.2", "--gradient_accumulation_steps", "2"]
    whole = train(parquet, tmp_path / "whole", *options, "--max_train_steps", "6")
    parts = train(parquet, tmp_path / "parts", *options, "--max_train_steps", str(stopped))
    state = read_state(parts / f"checkpoint-{stopped}")["progress"]
    assert state["images_seen"] == 8 * stopped and state["stream"]["position"] == {2: 12, 4: 27}[stopped]
    more = ["--max_train_steps", "6", "--resume_from_checkpoint", "latest", "--dataloader_num_workers", "2"]
    train(parquet, parts, *options, *more)
    assert_equal_checkpoints(whole / "checkpoint-6", parts / "checkpoint-6")
    other = [option if option != str(BLOCK) else "5" for option in STREAMING]
    with pytest.raises(ValueError, match="shuffle_buffer was 4 and is 5"):
        train(parquet, parts, *options, *more, *other)


def test_a_killed_run_goes_on_as_if_nothing_was(tars, tmp_path):
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "scoresde_pipelines.training.train_unconditional", "--train_data_dir", str(tars)]
    command += [*QUICK, *SIZE, *STREAMING, "--output_dir", str(output), "--max_train_steps", "100000"]
    threads = str(torch.get_num_threads())
    job = subprocess.Popen(
        [*command, "--checkpointing_steps", "3", "--checkpoints_total_limit", "2", "--dataloader_num_workers", "1"],
        env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (output / "checkpoint-3").is_dir() and job.poll() is None:
            time.sleep(0.01)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    assert job.wait(timeout=60) == -signal.SIGKILL, job.stderr.read()
    newest = max(int(path.name.split("-")[1]) for path in output.glob("checkpoint-*"))
    last = str(newest + 5)
    train(tars, output, "--max_train_steps", last, "--resume_from_checkpoint", "latest")
    whole = train(tars, tmp_path / "whole", "--max_train_steps", last)
    assert_equal_checkpoints(whole / f"checkpoint-{last}", output / f"checkpoint-{last}")


def test_two_processes_follow_one_and_one_goes_on_from_two(parquet, tmp_path):
    argv = [
        "--train_data_dir",
        str(parquet),
        *QUICK,
        *SIZE,
        *STREAMING,
        "--max_train_steps",
        "3",
        "--class_conditional",
    ]
    scripts = [{"module": "train_unconditional", "argv": [*argv, "--output_dir", str(tmp_path / "two")]}]
    codes, output = run_in_two_processes(scripts)
    assert codes == [[0, 0]], output
    options = ["--class_conditional", "--train_batch_size", "8"]
    one = train(parquet, tmp_path / "one", *options, "--max_train_steps", "3")
    ours, theirs = (
        load_state_file(run / "checkpoint-3" / "optimizer.safetensors")["state"] for run in (one, tmp_path / "two")
    )
    for key, state in ours.items():
        torch.testing.assert_close(theirs[key]["exp_avg"], state["exp_avg"], rtol=1e-3, atol=1e-6)
    places = [read_state(run / "checkpoint-3")["progress"]["stream"] for run in (one, tmp_path / "two")]
    assert places[0] == places[1] and places[0]["epoch"] == 1
    for run in (one, tmp_path / "two"):
        changed = ["--allow_changed_settings", "train_batch_size"]
        train(parquet, run, *options, "--max_train_steps", "4", "--resume_from_checkpoint", "latest", *changed)
        assert read_state(run / "checkpoint-4")["progress"]["images_seen"] == 32


def test_a_webdataset_with_classes_and_a_validation_split(tars, tmp_path):
    write_parquet(tmp_path / "data", "train")
    write_parquet(tmp_path / "data", "test")
    options = ["--class_conditional", "--max_train_steps", "2", "--validation_split", "test"]
    output = train(tmp_path / "data", tmp_path / "run", *options, "--validation_num_images", "6")
    line = json.loads((output / "evaluation.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 2 and 0.2 < line["validation_loss"] < 5
    output = train(tars, tmp_path / "tars", "--class_conditional", "--class_names", *NAMES, "--max_train_steps", "1")
    assert load_pipeline_folder(str(output)).class_names == NAMES
    size = ["--channels", "1", "--depth", "10", "--width", "1"]
    more = ["--class_names", *NAMES, "Other", "--max_train_steps", "2"]
    output = train(tars, tmp_path / "classifier", *more, script=train_classifier, size=size)
    assert NoiseConditionalClassifier.from_pretrained(output).config.num_classes == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--streaming"], "--streaming needs --max_train_steps"),
        (["--streaming", "--num_epochs", "3"], "--streaming needs --max_train_steps"),
        (["--class_names", "a"], "--class_names belongs to --streaming"),
        (["--streaming", "--max_train_steps", "1", "--shuffle_buffer", "0"],
         "--shuffle_buffer must be an integer of at least 1, got 0"),
        (["--streaming", "--max_train_steps", "1", "--validation_fraction", "0.1"], "--validation_fraction cannot be held"),
        (["--streaming", "--max_train_steps", "1", "--split", "train[:9]"], "--split and --validation_split must be names"),
        (["--streaming", "--max_train_steps", "1", "--eval_features", "x"], "--eval_features needs --validation_split"),
        (["--streaming", "--max_train_steps", "1", "--class_conditional", "--class_sampling", "balanced"],
         "--class_sampling must be natural with --streaming"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_go_together_are_named(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        parse_args(["--train_data_dir", "a", *arguments])
    assert message in capsys.readouterr().err


def test_the_yaml_of_a_run_streams_again(tmp_path):
    argv = ["--train_data_dir", "a", "--max_train_steps", "1", *STREAMING, "--class_names", "x", "y"]
    path = save_run_config(parse_args([*argv, "--output_dir", str(tmp_path)]), tmp_path)
    args = parse_args(["--config", str(path)])
    assert args.streaming and args.shuffle_buffer == BLOCK and args.class_names == ["x", "y"]
