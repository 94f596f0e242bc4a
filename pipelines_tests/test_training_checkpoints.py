"""Checkpoint folders: atomic, rotated after the new one is complete, and `latest` blind to broken ones."""

import hashlib
import json
import logging
import os
import pickle

import pytest

from scoresde_pipelines.training import checkpoint_folder, checkpoints


def write(output_dir, step, content="weights"):
    folder = checkpoints.working_folder(output_dir, step)
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "unet.safetensors").write_text(content)
    return checkpoints.commit(output_dir, step, {"step": step})


def names(output_dir):
    return sorted(path.name for path in output_dir.iterdir())


def test_a_checkpoint_appears_under_its_name_only_when_complete(tmp_path):
    folder = checkpoints.working_folder(tmp_path, 7)
    folder.mkdir()
    (folder / "unet.safetensors").write_text("half of the wei")
    assert checkpoints.find_checkpoint(tmp_path, "latest") is None
    path = checkpoints.commit(tmp_path, 7, {"step": 7, "images_seen": 56})
    assert names(tmp_path) == ["checkpoint-7"]
    assert checkpoints.find_checkpoint(tmp_path, "latest") == path
    assert checkpoints.read_state(path)["images_seen"] == 56


def test_latest_is_by_number_and_ignores_other_folders(tmp_path):
    for step in (90, 100, 8):
        write(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-500").mkdir()  # as if made by hand, or by a script that does not finish
    assert checkpoints.find_checkpoint(tmp_path, "latest").name == "checkpoint-100"


@pytest.mark.parametrize("damage", ["cut off", "missing", "state cut off", "state missing"])
def test_latest_steps_back_from_a_damaged_checkpoint(tmp_path, damage):
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    state, weights = newest / checkpoints.STATE_FILE, newest / "sub" / "unet.safetensors"
    if damage == "cut off":
        weights.write_text("wei")
    elif damage == "missing":
        weights.unlink()
    elif damage == "state cut off":
        state.write_text(state.read_text()[:-5])
    else:
        state.unlink()
    assert checkpoints.find_checkpoint(tmp_path, "latest").name == "checkpoint-1"
    with pytest.raises(ValueError, match=r"'checkpoint-2', which is not a complete checkpoint.*\['checkpoint-1'\]"):
        checkpoints.find_checkpoint(tmp_path, "checkpoint-2")


def test_a_named_checkpoint_is_found_by_name_and_by_path(tmp_path):
    path = write(tmp_path, 3)
    assert checkpoints.find_checkpoint(tmp_path, "checkpoint-3") == path
    assert checkpoints.find_checkpoint(tmp_path / "elsewhere", str(path)) == path


def test_rotation_keeps_the_newest_and_what_is_not_a_checkpoint(tmp_path):
    for step in (1, 2, 3, 10):
        write(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    checkpoints.working_folder(tmp_path, 4).mkdir()
    checkpoints.rotate(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-3", "checkpoint-best"]
    checkpoints.rotate(tmp_path, None)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-3", "checkpoint-best"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    write(tmp_path, 5, "old")
    path = write(tmp_path, 5, "new, longer")
    assert (path / "sub" / "unet.safetensors").read_text() == "new, longer"
    assert json.loads((path / checkpoints.STATE_FILE).read_text())["files"] == {
        "sub/unet.safetensors": {"size": 11, "sha256": hashlib.sha256(b"new, longer").hexdigest()}
    }


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("code was executed",))


def change_state(folder, change):
    """Changes `trainer_state.json` and makes its own checksum right again, as somebody with bad intentions would."""
    path = folder / checkpoints.STATE_FILE
    state = json.loads(path.read_text())
    change(state)
    state.pop("sha256", None)
    state["sha256"] = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(state))


def add(name, content=b"x"):
    return lambda folder: (folder / name).write_bytes(content)


def state_as(text):
    return lambda folder: (folder / checkpoints.STATE_FILE).write_text(text)


def entry(name, value):
    return lambda folder: change_state(folder, lambda state: state["files"].__setitem__(name, value))


def field(name, value):
    return lambda folder: change_state(folder, lambda state: state.__setitem__(name, value))


def without(name):
    return lambda folder: change_state(folder, lambda state: state.pop(name))


def link_out(folder):
    secret = folder.parent / "secret.json"
    secret.write_text("{}")
    (folder / "extra.json").symlink_to(secret)


def weights_behind_a_link(folder):
    path = folder / "sub" / "unet.safetensors"
    os.replace(path, folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def linked_folder(folder):
    (folder / "more").symlink_to(folder.parent)


def flipped_bit(folder):
    path = folder / "sub" / "unet.safetensors"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "zeros": (add("sub/unet.safetensors", bytes(7)), "sub/unet.safetensors is damaged"),
    "flipped bit": (flipped_bit, "sub/unet.safetensors is damaged"),
    "longer": (add("sub/unet.safetensors", b"weights+"), "sub/unet.safetensors has 8 bytes, but 7 were written"),
    "list": (state_as("[]"), "trainer_state.json must hold an object, got list"),
    "number": (state_as("7"), "trainer_state.json must hold an object, got int"),
    "null": (state_as("null"), "trainer_state.json must hold an object, got NoneType"),
    "empty": (state_as("{}"), "trainer_state.json must have the format 2, got None"),
    "nested": (state_as("[" * 100_000), "trainer_state.json is not JSON"),
    "zeros in state": (state_as("\0" * 300), "trainer_state.json is not JSON"),
    "not text": (add("trainer_state.json", b"\xff\xfe"), "trainer_state.json is not JSON"),
    "other step": (
        lambda folder: state_as((folder / "trainer_state.json").read_text().replace('"step": 2', '"step": 3'))(folder),
        "trainer_state.json is damaged",
    ),
    "step as text": (field("step", "2"), "must hold the step as an integer from 0, got '2'"),
    "step below 0": (field("step", -2), "must hold the step as an integer from 0, got -2"),
    "step as bool": (field("step", True), "must hold the step as an integer from 0, got True"),
    "no step": (without("step"), "must hold the step as an integer from 0, got None"),
    "no files": (without("files"), "must list the files of the checkpoint, got None"),
    "files as list": (field("files", ["unet"]), "must list the files of the checkpoint"),
    "size alone": (
        entry("sub/unet.safetensors", 7),
        "must list sub/unet.safetensors with its size and SHA-256, got 7",
    ),
    "no hash": (entry("sub/unet.safetensors", {"size": 7}), "with its size and SHA-256"),
    "listed, not there": (entry("b.json", {"size": 1, "sha256": ""}), "b.json is missing"),
    "parent": (entry("../b.json", {"size": 1, "sha256": ""}), "lists '../b.json'"),
    "hidden parent": (entry("sub/../../b.json", {"size": 1, "sha256": ""}), "lists 'sub/../../b.json'"),
    "absolute": (entry("/etc/b.json", {"size": 1, "sha256": ""}), "lists '/etc/b.json'"),
    "drive": (entry("C:\\b.json", {"size": 1, "sha256": ""}), "lists 'C:"),
    "listed pickle": (entry("b.pkl", {"size": 1, "sha256": ""}), "lists 'b.pkl'"),
    "unknown file": (add("notes.txt"), "notes.txt does not belong to the checkpoint"),
    "unknown state": (add("more.safetensors"), "more.safetensors does not belong to the checkpoint"),
    "link": (link_out, "extra.json is not a plain file"),
    "weights behind a link": (weights_behind_a_link, "sub/unet.safetensors is not a plain file"),
    "linked folder": (linked_folder, "more is not a plain file"),
    "pipe": (lambda folder: os.mkfifo(folder / "pipe.json"), "pipe.json is not a plain file"),
    **{
        name: (add(name, pickle.dumps(Hostile())), f"{name} may hold pickled objects")
        for name in ("optimizer.bin", "random_states_0.pkl", "scaler.pt", "x.PTH", "sub/a.pickle", "model.ckpt")
    },
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_or_hostile_checkpoint_is_named_and_passed_over(kind, tmp_path, caplog):
    damage, reason = DAMAGE[kind]
    good = write(tmp_path, 1)
    newest = write(tmp_path, 2)
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.find_checkpoint(tmp_path, "latest") == good
    assert f"skipped checkpoint-2 in {tmp_path}: " in caplog.text and reason in caplog.text
    with pytest.raises(ValueError, match="'checkpoint-2', which is not a complete checkpoint: ") as error:
        checkpoints.find_checkpoint(tmp_path, "checkpoint-2")
    assert reason in str(error.value)
    assert checkpoints.read_state(newest) is None


def test_where_no_checkpoint_is_complete_nothing_begins_in_silence(tmp_path):
    flipped_bit(write(tmp_path, 2))
    (tmp_path / "checkpoint-7").mkdir()
    with pytest.raises(ValueError, match=r"no checkpoint in .* is complete") as error:
        checkpoints.find_checkpoint(tmp_path, "latest")
    assert "checkpoint-7: trainer_state.json is missing" in str(error.value)
    assert "checkpoint-2: sub/unet.safetensors is damaged" in str(error.value)


def test_a_checkpoint_of_the_earlier_format_is_refused_with_the_way_out(tmp_path):
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    for name in ("optimizer.bin", "random_states_0.pkl", "scheduler.bin", "unet_ema.safetensors"):
        (folder / name).write_bytes(b"")
    (folder / "trainer_state.json").write_text(json.dumps({"step": 4, "files": {"optimizer.bin": 0}}))
    with pytest.raises(
        ValueError, match=r"optimizer.bin, random_states_0.pkl, scheduler.bin may hold pickled"
    ) as error:
        checkpoints.find_checkpoint(tmp_path, "checkpoint-4")
    assert "--pretrained_model_name_or_path" in str(error.value) and "unet_ema.safetensors" in str(error.value)


class Killed(BaseException):
    """The end of the process."""


@pytest.mark.parametrize("call", range(12))
def test_a_kill_at_any_renaming_or_deletion_leaves_whole_checkpoints(call, tmp_path, monkeypatch):
    write(tmp_path, 1)
    write(tmp_path, 2, "old")
    (tmp_path / "checkpoint-best").mkdir()
    calls = []

    def counted(function):
        def wrapper(path, *more, **options):
            if len(calls) == call:
                if function is remove and path.is_dir():  # killed when half of the folder is deleted
                    next(path.rglob("*.safetensors"), path / "none").unlink(missing_ok=True)
                raise Killed
            calls.append(path)
            return function(path, *more, **options)

        return wrapper

    replace, remove = os.replace, checkpoint_folder.remove
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_folder.os, "replace", counted(replace))
        patch.setattr(checkpoint_folder, "remove", counted(remove))
        try:
            write(tmp_path, 2, "new")
            checkpoints.rotate(tmp_path, 1, 2)
        except Killed:
            pass
    for path in tmp_path.glob("checkpoint-?"):
        assert checkpoints.read_state(path) is not None
    checkpoint_folder.remove_leftovers(tmp_path)
    assert [name for name in names(tmp_path) if name.startswith(".")] == []
    assert "checkpoint-2" in names(tmp_path) and "checkpoint-best" in names(tmp_path)
    assert checkpoints.find_checkpoint(tmp_path, "latest").name == "checkpoint-2"
    content = (tmp_path / "checkpoint-2" / "sub" / "unet.safetensors").read_text()
    assert content in ("old", "new") and (content == "new" or call < 4)


def test_rotation_never_deletes_what_was_just_written(tmp_path):
    # The run went back to step 1, and its earlier attempt had come to step 5.
    for step in (5, 1, 2):
        write(tmp_path, step)
    checkpoints.rotate(tmp_path, 1, 2)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-5"]
