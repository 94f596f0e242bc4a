"""Files that are written whole or not at all: full disks, kills, damaged files, signals."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from scoresde_pipelines import NCSNpp, ScoreSdePipeline, VESDEScheduler
from scoresde_pipelines.likelihood_table import LikelihoodTable, Row
from scoresde_pipelines.training import checkpoint_manifest, destinations, durable_files
from scoresde_pipelines.training.evaluation.shards import Shards, keep_settings, save_atomically
from scoresde_pipelines.training.posthoc_ema import PowerAverages, SnapshotFolder, combine_snapshots, read_snapshots
from scoresde_pipelines.training.run_lock import LOCK_FILE, RunLock
from scoresde_pipelines.training.stream_order import BlockShuffle


@contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes: what a quota does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


WRITERS = {
    "text.md": lambda path: durable_files.write_text(path, "x" * 5000),
    "object.json": lambda path: durable_files.write_json(path, ["x" * 5000]),
    "tensors.safetensors": lambda path: save_atomically(path, {"x": torch.zeros(5000)}),
    "picture.png": lambda path: durable_files.save_picture(path, Image.effect_noise((99, 99), 50)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"old")
    with largest_file(3000), pytest.raises(OSError, match=f"File too large: {name} could not be written into"):
        WRITERS[name](path)
    assert (names(tmp_path), path.read_bytes()) == ([name], b"old")
    WRITERS[name](path)
    assert names(tmp_path) == [name] and path.stat().st_size > 3000


def test_what_a_killed_process_left_is_removed_when_the_file_is_written_again(tmp_path):
    code = (
        "import os, sys; from scoresde_pipelines.training.durable_files import written_whole\n"
        "with written_whole(sys.argv[1]) as scratch:\n"
        "    scratch.write_text('half'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "a.json"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    (left,) = names(tmp_path)
    of_another_file = tmp_path / left.replace("a.json", "b.json")
    of_another_file.write_text("half")
    durable_files.write_json(path, {"a": 1})
    assert names(tmp_path) == sorted([of_another_file.name, "a.json"])
    assert durable_files.read_object(path) == {"a": 1}


def test_a_row_is_added_whole_or_not_at_all(tmp_path):
    table = LikelihoodTable(tmp_path / "t.csv", {"seed": 0})
    rows = [Row(index, 3.5, 0.1, 0.2, 0.3, 0.4, 12, "a.png") for index in range(3)]
    table.append(rows[0])
    before = table.path.read_bytes()
    with largest_file(len(before) + 7), pytest.raises(OSError, match=r"a line of t\.csv could not be written"):
        table.append(rows[1])
    assert table.path.read_bytes() == before
    table.append(rows[2])
    assert table.rows() == {0: rows[0], 2: rows[2]}
    assert names(tmp_path) == ["t.csv", "t.csv.settings.json"]


@pytest.mark.parametrize("content", [b"[]", b"{", b"null", b"\xff"])
def test_damaged_settings_are_named(content, tmp_path):
    for path, use in (
        (tmp_path / "t.csv.settings.json", lambda: LikelihoodTable(tmp_path / "t.csv", {})),
        (tmp_path / "settings.json", lambda: keep_settings(tmp_path / "settings.json", {})),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name} is damaged"):
            use()


def test_a_pipe_in_place_of_a_file_is_not_read(tmp_path):
    for name in (LOCK_FILE, "object.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="must be a file"):
        durable_files.read_object(tmp_path / "object.json")
    with pytest.raises(ValueError, match=rf"output_dir must have .*{LOCK_FILE}"):
        RunLock(tmp_path).acquire()


@pytest.mark.parametrize("damage", ["truncated", "bit", "zeros", "of another batch"])
def test_a_damaged_batch_of_images_is_made_again(damage, tmp_path):
    shards = Shards(tmp_path, 4, 2)
    for first in (0, 2):
        shards.write(
            range(first, first + 2), torch.full((2, 1, 2, 2), first, dtype=torch.uint8), torch.ones(2, 3), 5, 1
        )
    path = shards.path(range(2))
    content = bytearray(path.read_bytes())
    assert shards.missing() == []
    content[-1] ^= 1
    path.write_bytes({"truncated": content[:-3], "bit": content, "zeros": bytes(len(content))}.get(damage, b""))
    assert shards.missing() == [range(0, 2)]


class Averaged:
    """Two averages of one network, of which snapshots of two steps lie in `folder`."""

    def __init__(self, folder):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        averages = PowerAverages(network, (0.05, 0.1))
        snapshots = SnapshotFolder(folder, averages, 4, 2)
        for step in range(1, 5):
            torch.nn.init.normal_(network.weight)
            averages.update(network)
            snapshots.after_update(step, True)
        self.folder, self.expected = snapshots.folder, averages.models[0].model.weight


def test_a_damaged_snapshot_is_named_and_not_averaged(tmp_path):
    run = Averaged(tmp_path)
    path = run.folder / "0.05-00000004.safetensors"
    assert read_snapshots(run.folder)[2].sha256 == checkpoint_manifest.hash_file(path)
    torch.testing.assert_close(combine_snapshots(run.folder, 0.05)[0]["weight"], run.expected, rtol=1e-4, atol=1e-5)
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    other = (run.folder / "0.1-00000004.safetensors").read_bytes()
    for damaged in (flipped, bytes(len(content)), content[:-9], other, b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path.name} is missing or damaged: its SHA-256"):
            combine_snapshots(run.folder, 0.07)
    path.unlink()
    for make in (lambda: None, lambda: os.mkfifo(path), lambda: (path.unlink(), path.mkdir())):
        make()
        with pytest.raises(ValueError, match=rf"{path.name} is missing or damaged: there is no such file"):
            combine_snapshots(run.folder, 0.07)


def test_a_damaged_index_of_snapshots_is_named(tmp_path):
    folder = Averaged(tmp_path).folder
    path = folder / "snapshots.json"
    entry = json.loads(path.read_text())[0]
    values = [{"file": "../x.safetensors"}, {"sigma_rel": None}, {"updates": 0}, {"step": -1}, {"unknown": 1}]
    for damaged in ("{", "[1]", "null", *(json.dumps([{**entry, **value}]) for value in values)):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"snapshots\.json is damaged"):
            read_snapshots(folder)


def test_snapshots_of_two_networks_are_not_averaged(tmp_path):
    folder = Averaged(tmp_path).folder
    index = json.loads((folder / "snapshots.json").read_text())
    save_file({"weight": torch.zeros(1, 2)}, folder / index[0]["file"])
    del index[0]["sha256"]  # of an earlier version
    durable_files.write_json(folder / "snapshots.json", index)
    with pytest.raises(ValueError, match=r"must be of the same network .* \['bias', 'weight'\]"):
        combine_snapshots(folder, 0.07)


def test_a_place_beyond_the_end_of_a_stream_is_refused():
    import datasets

    stream = datasets.Dataset.from_dict({"x": list(range(6))}).to_iterable_dataset(num_shards=2)
    order = BlockShuffle(stream, 2, 0)
    places = [place for _, (place, _) in zip(range(6), order.read())]
    assert places[-1]["block"] == 2
    for change in ({"shard": 2}, {"shard": 1, "shard_row": 3, "state": None}):
        with pytest.raises(ValueError, match="must lie before the end of the data set"):
            next(order.read({**places[-1], **change}))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_command_that_is_ended_cleans_up(name, tmp_path, monkeypatch):
    from typer import testing as typer_testing

    from scoresde_pipelines import cli
    from scoresde_pipelines.pipeline_score_sde import ScoreSdePipeline

    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)

    def ended(*args, **kwargs):
        with durable_files.staged_folder(tmp_path / "new" / ".incomplete-x", "the pictures", "") as staged:
            (staged / "half").write_text("written")
            signal.raise_signal(number)

    monkeypatch.setattr(ScoreSdePipeline, "from_pretrained", ended)
    try:
        arguments = ["sample", "--model", "emoji-32-ve", "--output", str(tmp_path / "out")]
        result = typer_testing.CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 128 + number and names(tmp_path) == []
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_folder_that_cannot_be_replaced_comes_back(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("1")
    with pytest.raises(FileNotFoundError):
        durable_files.replace_folder(tmp_path / "missing", tmp_path / "old")
    assert names(tmp_path) == ["old"] and (tmp_path / "old" / "a").read_text() == "1"


def killed(call, number, work):
    """Whether a process that runs `work()` is killed at the call `number` of `os.<call>`."""
    pid = os.fork()
    if pid == 0:
        original, count = getattr(os, call), []

        def ends(*args, **kwargs):
            count.append(1)
            if len(count) == number:
                os._exit(9)
            return original(*args, **kwargs)

        setattr(os, call, ends)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def fill(folder, text):
    with durable_files.filled_folder(folder, "the pictures", "", "last") as staged:
        for name in ("a", "b", "last", "z"):
            (staged / name).write_text(text)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("call", ["replace", "rename", "fsync", "mkdir"])
@pytest.mark.parametrize("there", [False, True])
def test_a_killed_process_leaves_a_folder_that_is_complete_or_does_not_look_so(call, there, tmp_path):
    folder, number, contents = tmp_path / "out", 1, {("new",) * 4, ("old",) * 4 if there else None}
    while True:
        durable_files.remove(folder)
        if there:
            fill(folder, "old")
        ended = killed(call, number, partial(fill, folder, "new"))
        if (folder / "last").exists():
            assert tuple((folder / name).read_text() for name in ("a", "b", "last", "z")) in contents
        else:
            assert ended and (there or not folder.exists())
        if not ended:
            break
        if not there:
            fill(folder, "again")  # what was left is no obstacle, and goes
            assert names(tmp_path) == ["out"] and names(folder) == ["a", "b", "last", "z"]
        number += 1
    assert number > 1 or (call == "rename" and there) or (call == "replace" and not there)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    assert killed("replace", 2, partial(durable_files.replace_folder, tmp_path / "new", tmp_path / "old"))
    assert names(tmp_path) == [".old-old", "new"]
    assert killed("replace", 2, partial(durable_files.replace_folder, tmp_path / "new", tmp_path / "old"))
    assert (tmp_path / "old" / "a").read_text() == "old"
    durable_files.replace_folder(tmp_path / "new", tmp_path / "old")
    assert names(tmp_path) == ["old"] and (tmp_path / "old" / "a").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_pipeline_that_is_half_written_over_another_one_does_not_load(tmp_path):
    old, new = pipeline(0), pipeline(1)
    number = 0
    while True:
        durable_files.remove(tmp_path / "p")
        old.save_pretrained(tmp_path / "p")
        number += 1
        if not killed("makedirs", number, partial(new.save_pretrained, tmp_path / "p")):
            break
        if number == 1:  # before anything is written
            continue
        with pytest.raises(OSError, match=r"model_index\.json"):
            ScoreSdePipeline.from_pretrained(tmp_path / "p")
    assert number > 2
    weights = [pipe.unet.state_dict() for pipe in (ScoreSdePipeline.from_pretrained(tmp_path / "p"), new)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="save_directory must be a folder, got the file"):
        new.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("there", [False, True])
def test_a_pipeline_that_does_not_fit_leaves_no_new_files_and_says_so(there, tmp_path):
    folder = tmp_path / "p"
    if there:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    message = "File too large: the pipeline could not be written into .*p, and its part was removed"
    with largest_file(10_000), pytest.raises(OSError, match=message) as caught:
        pipeline(0).save_pretrained(folder)
    assert caught.value.errno == errno.EFBIG
    assert (names(folder) if there else names(tmp_path)) == (["notes.txt"] if there else [])


def pipeline(seed):
    torch.manual_seed(seed)
    network = NCSNpp(sample_size=8, block_out_channels=(8, 8), layers_per_block=1)
    return ScoreSdePipeline(network.eval(), VESDEScheduler(sigma_max=10.0))


def full(*args, **kwargs):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("kind", ["file", "read-only"])
@pytest.mark.parametrize(
    "words",
    ["sample --model M", "inpaint --model M --image I --mask I", "export --model M", "ema run --sigma_rel .1",
     "evaluate --model M --data D", "likelihood --model M --data D", "convert C"],
)  # fmt: skip
def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(words, kind, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from scoresde_pipelines import cli

    (tmp_path / "file").write_text("x")
    Image.new("L", (8, 8)).save(tmp_path / "i.png")
    if kind == "read-only":
        monkeypatch.setattr(destinations.tempfile, "TemporaryFile", full)
    given = {"M": "emoji-32-ve", "I": str(tmp_path / "i.png"), "D": str(tmp_path), "C": str(tmp_path / "file")}
    place = str(tmp_path / ("file" if kind == "file" else "new") / "out")
    name = "folder" if words.startswith("convert") else "--output"
    if words.startswith("likelihood"):
        place += ".csv"
    command = [*(given.get(word, word) for word in words.split()), *([] if name == "folder" else [name]), place]
    result = CliRunner().invoke(cli.app, command, env={"COLUMNS": "500", "TERMINAL_WIDTH": "500"})
    assert result.exit_code == 2 and name in result.output, result.output
    assert ("ile system" if kind == "read-only" else "lie below a file") in result.output
    assert names(tmp_path) == ["file", "i.png"]
