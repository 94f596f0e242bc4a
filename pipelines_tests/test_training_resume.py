"""Both training scripts, from end to end: signals, NaN, resumed logs, changed settings, accelerate's precision."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from two_processes import run_in_two_processes

from scoresde_pipelines.training import interruption, train_classifier, train_unconditional
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.checkpoints import read_state
from scoresde_pipelines.training.safe_state import load_state_file


ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"train_unconditional": train_unconditional, "train_classifier": train_classifier}
OPTIONS = {
    "train_unconditional": ["--block_out_channels", "8", "8", "--layers_per_block", "1", "--attention_resolutions", "4",
                            "--eval_batch_size", "0", "--split", "train"],
    "train_classifier": ["--channels", "1", "--depth", "10", "--width", "1"],
}  # fmt: skip
COMMON = ["--resolution", "8", "--train_batch_size", "4", "--lr_warmup_steps", "2", "--dropout", "0.1", "--cpu"]
COMMON += ["--logger", "none"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """16 gray 8 x 8 images of two classes."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    for k, image in enumerate(pixels):
        path = folder / "train" / str(k % 2) / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture(params=sorted(SCRIPTS))
def train(request, images, tmp_path, monkeypatch):
    """Runs a script in this process: `train(output_name, *arguments)` returns what it logged, by step."""
    logged = {}
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: logged.__setitem__(step, values))

    def run(name, *arguments):
        logged.clear()
        AcceleratorState._reset_state(reset_partial_state=True)
        data = ["--train_data_dir", str(images), "--cache_dir", str(tmp_path / "cache")]
        where = ["--output_dir", str(tmp_path / name)]
        SCRIPTS[request.param].main([*data, *where, *COMMON, *OPTIONS[request.param], *arguments])
        return dict(logged)

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def send(monkeypatch, number, *updates):
    """A signal to this process during the updates with these numbers."""
    requested, asked = interruption.Interruption.requested, []

    def wrapper(self, accelerator):
        asked.append(1)
        if len(asked) in updates:
            os.kill(os.getpid(), number)
        return requested(self, accelerator)

    monkeypatch.setattr(interruption.Interruption, "requested", wrapper)


def assert_equal_checkpoints(first, second):
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir()) and "optimizer.safetensors" in names
    for name in names:
        if name.startswith("process"):
            ours, theirs = (load_state_file(folder / name) for folder in (first, second))
            assert torch.equal(ours["random"]["torch"], theirs["random"]["torch"]), name
        elif name != "trainer_state.json":
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def names(folder):
    return sorted(path.name for path in folder.iterdir() if "checkpoint" in path.name)


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_a_signal_saves_a_checkpoint_and_the_run_goes_on_as_if_nothing_was(train, number, tmp_path, monkeypatch):
    options = ["--max_train_steps", "6", "--logging_steps", "4", "--checkpointing_steps", "6"]
    expected = train("whole", *options)
    assert sorted(expected) == [4, 6]
    former = {known: signal.getsignal(known) for known in interruption.SIGNALS}
    with monkeypatch.context() as patch:
        send(patch, number, 3)
        with pytest.raises(SystemExit) as end:
            train("parts", *options)
    assert end.value.code == interruption.INTERRUPTED == 75 and end.value.signal == number
    assert {known: signal.getsignal(known) for known in interruption.SIGNALS} == former
    assert names(tmp_path / "parts") == ["checkpoint-3"]
    # The first logged loss is the mean of updates 1 to 4, three of which were done before.
    assert train("parts", *options, "--resume_from_checkpoint", "latest") == expected
    assert_equal_checkpoints(tmp_path / "whole" / "checkpoint-6", tmp_path / "parts" / "checkpoint-6")


def test_a_second_interrupt_ends_at_once(train, tmp_path, monkeypatch):
    with interruption.Interruption():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    # Where the same update ends at a regular checkpoint, it is not written twice.
    send(monkeypatch, signal.SIGTERM, 2)
    with pytest.raises(SystemExit):
        train("run", "--max_train_steps", "6", "--checkpointing_steps", "2")
    assert names(tmp_path / "run") == ["checkpoint-2"]


def test_a_run_that_is_made_longer_logs_what_a_longer_run_logs(train):
    options = ["--logging_steps", "4", "--lr_scheduler", "constant_with_warmup"]
    expected = train("long", *options, "--max_train_steps", "8")
    assert sorted(train("short", *options, "--max_train_steps", "6")) == [4, 6]
    assert train("short", *options, "--max_train_steps", "8", "--resume_from_checkpoint", "latest") == {8: expected[8]}


def test_weights_that_are_not_finite_cost_no_checkpoint(train, tmp_path, monkeypatch):
    options = ["--checkpointing_steps", "2", "--checkpoints_total_limit", "1", "--logging_steps", "50"]
    train("run", *options, "--max_train_steps", "2")
    output = tmp_path / "run"
    written = {path: path.read_bytes() for path in output.rglob("*.safetensors")}
    step = torch.optim.AdamW.step

    def poisoned(self, *arguments, **options):
        result = step(self, *arguments, **options)
        self.param_groups[0]["params"][0].data.flatten()[0] = float("nan")
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", poisoned)
    with pytest.raises(FloatingPointError, match=r"unet\S* is not finite at step 4: no .*checkpoint-2 is intact"):
        train("run", *options, "--max_train_steps", "8", "--resume_from_checkpoint", "latest")
    assert names(output) == ["checkpoint-2"]
    assert {path: path.read_bytes() for path in output.rglob("*.safetensors")} == written


def test_changed_settings_and_data_are_refused(train, images, tmp_path, caplog):
    train("run", "--max_train_steps", "1")
    resume = ["--max_train_steps", "2", "--resume_from_checkpoint", "latest"]
    for option, value, message in [
        ("--learning_rate", "0.5", r"learning_rate was \S+ and is 0\.5"),
        ("--seed", "7", "seed was 0 and is 7"),
        ("--train_batch_size", "5", "train_batch_size was 4 and is 5"),
        ("--sde", "subvp", "sde was .* and is 'subvp'"),
        ("--mixed_precision", "bf16", "mixed_precision was 'no' and is 'bf16'"),
        ("--dropout", "0.5", r"dropout was 0\.1 and is 0\.5; unet\.dropout was 0\.1 and is 0\.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            train("run", *resume, option, value)
    other = tmp_path / "other" / "train" / "0"
    other.mkdir(parents=True)
    for k, name in enumerate(sorted((images / "train").rglob("*.png"))):
        pixels = np.asarray(Image.open(name)).copy()
        pixels[0, 0] += k == 5
        target = tmp_path / "other" / "train" / name.parent.name / name.name
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(target)
    with pytest.raises(ValueError, match=r"data_set was '16 images, \w+' and is '16 images, \w+'"):
        train("run", *resume, "--train_data_dir", str(tmp_path / "other"))
    with pytest.raises(
        ValueError, match=r"output_dir must be a folder without a run, got .*run with checkpoint-1: go on"
    ):
        train("run", "--max_train_steps", "2")
    with caplog.at_level(logging.WARNING):
        train("run", *resume, "--seed", "7", "--allow_changed_settings", "seed")
    assert "seed was 0 and is 7" in caplog.text and names(tmp_path / "run") == ["checkpoint-1", "checkpoint-2"]
    train("run", "--max_train_steps", "1", "--seed", "9", "--overwrite_output_dir")
    assert names(tmp_path / "run") == ["checkpoint-1"]
    shutil.rmtree(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(ValueError, match=r"got .*run with a run that has no checkpoint yet: go on"):
        train("run", "--max_train_steps", "1")


def test_the_precision_of_accelerate_config_counts(train, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train("run", "--max_train_steps", "1")
    assert json.loads((tmp_path / "run" / "run_settings.json").read_text())["settings"]["mixed_precision"] == "bf16"
    train("other", "--max_train_steps", "1", "--mixed_precision", "no")
    assert json.loads((tmp_path / "other" / "run_settings.json").read_text())["settings"]["mixed_precision"] == "no"


def test_the_exit_code_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    assert "75 when SIGTERM, SIGUSR1, SIGHUP or Ctrl-C interrupted it" in " ".join(capsys.readouterr().out.split())


def test_a_job_that_is_told_to_end_saves_and_its_folder_is_its_own_until_then(images, tmp_path):
    output = tmp_path / "run"
    options = ["--train_data_dir", str(images), "--cache_dir", str(tmp_path / "cache"), *COMMON]
    options += [*OPTIONS["train_unconditional"], "--output_dir", str(output), "--resume_from_checkpoint", "latest"]
    job = subprocess.Popen(
        [sys.executable, "-m", "scoresde_pipelines.training.train_unconditional", *options, "--max_train_steps",
         "1000000", "--dataloader_num_workers", "2", "--max_cached_gb", "0", "--checkpointing_steps", "5",
         "--checkpoints_total_limit", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        while not (output / "checkpoint-5").is_dir() and job.poll() is None:
            time.sleep(0.1)
        AcceleratorState._reset_state(reset_partial_state=True)
        with pytest.raises(ValueError, match=f"output_dir must be .*where the process {job.pid} on .* is training"):
            train_unconditional.main(options)
        os.killpg(job.pid, signal.SIGTERM)  # to the data-loading processes as well, as clusters do
        _, errors = job.communicate(timeout=120)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == interruption.INTERRUPTED, errors
    assert [name for name in names(output) if name.startswith(".")] == [] and len(names(output)) == 2
    assert all(read_state(output / name) is not None for name in names(output))


def test_two_processes_are_interrupted_together_and_go_on_together(images, tmp_path):
    data = ["--train_data_dir", str(images), "--cache_dir", str(tmp_path / "cache"), *COMMON]
    scripts = []
    for module, options in OPTIONS.items():
        for name, more in (("whole", {}), ("parts", {"signal": [1, signal.SIGUSR1, 2]}), ("parts", {})):
            argv = [*data, *options, "--max_train_steps", "4", "--output_dir", str(tmp_path / module / name)]
            argv += ["--resume_from_checkpoint", "latest"]
            scripts.append({"module": module, "argv": argv, **more})
    codes, output = run_in_two_processes(scripts)
    assert codes == 2 * [[0, 0], [75, 75], [0, 0]], output
    for module in OPTIONS:
        whole, parts = tmp_path / module / "whole", tmp_path / module / "parts"
        assert names(parts) == ["checkpoint-2", "checkpoint-4"]
        assert {"process_0.safetensors", "process_1.safetensors"} < {
            p.name for p in (whole / "checkpoint-4").iterdir()
        }
        assert_equal_checkpoints(whole / "checkpoint-4", parts / "checkpoint-4")
