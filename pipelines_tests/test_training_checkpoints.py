"""Checkpoint folders: atomic, rotated after the new one is complete, and `latest` blind to broken ones."""

import hashlib
import json

import pytest

from scoresde_pipelines.training import checkpoints


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
