"""One run per folder: the lock of a training run, held by its process alone."""

import json
import os
import threading

from scoresde_pipelines.training.run_lock import LOCK_FILE, RunLock


def in_child(work):
    """Runs `work` in a forked process; returns the message of its ValueError, or None."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
        except ValueError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        message = file.read()
    os.waitpid(child, 0)
    return message or None


def test_a_second_run_in_the_folder_is_refused_until_the_first_has_ended(tmp_path):
    first = RunLock(tmp_path)
    first.acquire()
    refused = (
        f"output_dir must be a folder that no other run writes to, got {tmp_path}, where the process {os.getpid()}"
    )
    assert in_child(RunLock(tmp_path).acquire).startswith(refused)
    assert in_child(RunLock(tmp_path / "other").acquire) is None

    messages = []

    def in_thread():
        try:
            RunLock(tmp_path).acquire()
        except ValueError as error:
            messages.append(str(error))

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert messages[0].startswith(refused)
    # The cell of a notebook that is run again replaces its former run, which cannot save any more.
    second = RunLock(tmp_path)
    second.acquire()
    assert second.held and not first.held
    second.release()
    assert in_child(RunLock(tmp_path).acquire) is None
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] != os.getpid()  # of the child, which ended with it
    first.acquire()
    assert first.held


def test_a_killed_run_leaves_the_folder_free_though_its_workers_live(tmp_path):
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        lock = RunLock(tmp_path)
        lock.acquire()
        if os.fork() == 0:  # a process that decodes images, say
            os.read(ready, 1)
            os._exit(0)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert in_child(RunLock(tmp_path).acquire) is None
    os.write(done, b"x")


def test_a_lock_file_without_flock_counts_while_its_process_lives(tmp_path, monkeypatch):
    monkeypatch.setattr("scoresde_pipelines.training.run_lock.fcntl", None)
    first = RunLock(tmp_path)
    first.acquire()
    assert f"where the process {os.getpid()}" in in_child(RunLock(tmp_path).acquire)
    owner = json.loads((tmp_path / LOCK_FILE).read_text())
    first.release()
    for change in ({"pid": 2**22 + 1}, {"started": 5.0}, {"host": "elsewhere"}, {"pid": "x"}):
        (tmp_path / LOCK_FILE).write_text(json.dumps({**owner, **change}))
        assert in_child(RunLock(tmp_path).acquire) is None
    (tmp_path / LOCK_FILE).write_text("[1")
    assert in_child(RunLock(tmp_path).acquire) is None
