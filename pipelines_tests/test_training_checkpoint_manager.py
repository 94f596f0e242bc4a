"""The checkpoints of one run: finite or not written, of this run and its settings, a full disk."""

import errno
import hashlib
import json
import os
import pickle
import resource

import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from scoresde_pipelines.training import checkpoints
from scoresde_pipelines.training.ema import ExponentialMovingAverage
from scoresde_pipelines.training.pipeline_folder import Components, save_pipeline_folder
from scoresde_pipelines.training.run_lock import LOCK_FILE
from scoresde_pipelines.training.safe_state import load_state_file


class Run:
    """A network with one weight per number, its average, AdamW and a schedule that halves the rate."""

    def __init__(self, output_dir, numbers=3, total_limit=None, rate=0.1, **settings):
        torch.manual_seed(0)
        self.network = torch.nn.Linear(numbers, 1)
        self.ema = ExponentialMovingAverage(self.network, 0.5)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=rate)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        accelerator = Accelerator(cpu=True)
        _, self.optimizer = accelerator.prepare(self.network, optimizer)
        self.manager = checkpoints.CheckpointManager(
            accelerator, output_dir, {"net": self.network}, self.optimizer, self.schedule, {"net": self.ema},
            total_limit, {"seed": 0, **settings},
        )  # fmt: skip

    def update(self):
        self.network(torch.rand(4, self.network.in_features)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.ema.update(self.network)

    def state(self):
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.network.state_dict().values(), *self.ema.model.state_dict().values(), *moments]


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK_FILE)


def rewrite(checkpoint, name, content):
    """Replaces a file of a checkpoint and everything that would show it."""
    (checkpoint / name).write_bytes(content)
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text())
    state["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del state["sha256"]
    state["sha256"] = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(state))


def test_everything_comes_back_and_goes_on_to_the_bit(tmp_path):
    first = Run(tmp_path)
    assert first.manager.start(None) is None
    for _ in range(3):
        first.update()
    saved = first.manager.save(3, {"images_seen": 12}, {"loss_sum": torch.tensor(0.7)})
    assert saved == tmp_path / "checkpoint-3"
    assert names(saved) == [
        "lr_scheduler.safetensors", "net.safetensors", "net_ema.safetensors", "optimizer.safetensors",
        "process_0.safetensors", "trainer_state.json",
    ]  # fmt: skip
    first.update()
    second = Run(tmp_path)
    state = second.manager.load("latest")
    assert (state["step"], state["images_seen"], second.ema.num_updates) == (3, 12, 3)
    assert torch.equal(state["process_state"]["loss_sum"], torch.tensor(0.7))
    second.update()  # its input is drawn from the restored global generator
    assert all(torch.equal(expected, value) for expected, value in zip(first.state(), second.state(), strict=True))
    assert second.schedule.get_last_lr() == first.schedule.get_last_lr() == [0.1 / 16]
    assert json.loads((tmp_path / "run_settings.json").read_text()) == {
        "run_id": first.manager.run_id, "settings": {"seed": 0},
    }  # fmt: skip
    assert second.manager.run_id == first.manager.run_id


def spoil_network(run, value):
    run.network.weight.data[0, 1] = value


def spoil_average(run, value):
    run.ema.model.bias.data[0] = value


def spoil_optimizer(run, value):
    run.optimizer.state[run.network.weight]["exp_avg_sq"][0, 2] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "spoil, name",
    [
        (spoil_network, r"net\.weight"),
        (spoil_average, r"net_ema\.bias"),
        (spoil_optimizer, r"optimizer\.state\.0\.exp_avg_sq"),
    ],
)
def test_a_checkpoint_is_finite_or_is_not_written(spoil, name, value, tmp_path):
    run = Run(tmp_path, total_limit=1)
    run.manager.start(None)
    run.update()
    run.manager.save(5, {})
    before = (tmp_path / "checkpoint-5" / "net.safetensors").read_bytes()
    spoil(run, value)
    message = rf"{name} is not finite at step 10: no checkpoint was written; .*checkpoint-5 is intact"
    with pytest.raises(FloatingPointError, match=message + r" \(--resume_from_checkpoint checkpoint-5\)"):
        run.manager.save(10, {})
    assert names(tmp_path) == ["checkpoint-5", "run_settings.json"]
    assert (tmp_path / "checkpoint-5" / "net.safetensors").read_bytes() == before


def test_a_pipeline_is_finite_or_is_not_overwritten(tmp_path):
    class Saved(torch.nn.Linear):
        def save_pretrained(self, folder):
            folder.mkdir(parents=True)
            (folder / "weights").write_text(str(self.weight.tolist()))

    network, scheduler = Saved(1, 1), Saved(1, 1)
    network.weight.data[:] = 2
    save_pipeline_folder(tmp_path, Components(network, scheduler, (0.0, 1.0)), "card")
    network.weight.data[:] = float("nan")
    with pytest.raises(FloatingPointError, match=r"unet\.weight is not finite: the pipeline in .* is as it was"):
        save_pipeline_folder(tmp_path, Components(network, scheduler, (0.0, 1.0)), "new card")
    assert (tmp_path / "unet" / "weights").read_text() == "[[2.0]]" and (tmp_path / "README.md").read_text() == "card"
    network.weight.data[:] = 3
    network.save_pretrained = raise_full
    with pytest.raises(OSError, match="the disk is full: the pipeline could not be written into") as error:
        save_pipeline_folder(tmp_path, Components(network, scheduler, (0.0, 1.0)), "new card")
    assert error.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["README.md", "model_index.json", "scheduler", "unet"]
    assert (tmp_path / "unet" / "weights").read_text() == "[[2.0]]"


def raise_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raise_full_by_safetensors(*_, **__):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    "failing, error",
    [
        ("save_model", raise_full),
        ("save_model", raise_full_by_safetensors),
        ("save_state_file", raise_full),
        ("commit", raise_full),
    ],
)
def test_a_full_disk_is_said_and_older_checkpoints_stay(failing, error, tmp_path, monkeypatch):
    run = Run(tmp_path, total_limit=1)
    run.manager.start(None)
    run.update()
    run.manager.save(5, {})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, failing, error)
        with pytest.raises(OSError, match=r"the disk is full: checkpoint-10 could not be written into .*") as caught:
            run.manager.save(10, {})
    assert caught.value.errno == errno.ENOSPC and "checkpoint-5 is intact" in str(caught.value)
    assert names(tmp_path) == ["checkpoint-5", "run_settings.json"]
    run.manager.save(10, {})  # an old checkpoint was removed first
    assert names(tmp_path) == ["checkpoint-10", "run_settings.json"]


def test_a_write_that_the_system_refuses_half_way_leaves_nothing(tmp_path):
    run = Run(tmp_path, numbers=50_000)
    run.manager.start(None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large: checkpoint-1 could not be written") as caught:
            run.manager.save(1, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and "there is no earlier checkpoint" in str(caught.value)
    assert names(tmp_path) == ["run_settings.json"]


def saved_run(folder, **settings):
    run = Run(folder, **settings)
    run.manager.start(None)
    run.update()
    run.manager.save(1, {})
    return run


@pytest.mark.parametrize("name", ["net", "net_ema", "optimizer", "lr_scheduler", "process_0"])
def test_a_pickle_under_the_name_of_a_state_file_is_not_executed(name, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (pytest.fail, ("code was executed",))

    saved_run(tmp_path)
    rewrite(tmp_path / "checkpoint-1", f"{name}.safetensors", pickle.dumps({1: [0]}))
    with pytest.raises(ValueError, match=rf"{name}\.safetensors"):
        Run(tmp_path).manager.load("latest")


def test_state_of_another_kind_is_named(tmp_path):
    saved_run(tmp_path)
    schedule = (tmp_path / "checkpoint-1" / "lr_scheduler.safetensors").read_bytes()
    rewrite(tmp_path / "checkpoint-1", "optimizer.safetensors", schedule)
    with pytest.raises(ValueError, match=r"optimizer\.safetensors does not fit the run"):
        Run(tmp_path).manager.load("latest")
    with pytest.raises(ValueError, match=r"net\.safetensors does not fit the network"):
        Run(tmp_path, numbers=4).manager.load("latest")


def tensors_changed(checkpoint, name, change):
    """Rewrites a file of a checkpoint with its tensors changed, and the checksums of it."""
    with safe_open(checkpoint / name, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    change(tensors)
    rewrite(checkpoint, name, save(tensors, metadata))


def entries_changed(checkpoint, name, change):
    """The same of what lies around the tensors."""
    with safe_open(checkpoint / name, "pt") as file:
        structure = json.loads(file.metadata()["structure"])
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    rewrite(checkpoint, name, save(tensors, {"structure": json.dumps(change(structure))}))


def one_wrong(key, change):
    def wrong(tensors):
        tensors[key] = change(tensors[key]).contiguous()

    return wrong


def not_finite(tensor):
    return torch.where(torch.arange(tensor.numel()).reshape(tensor.shape) == 1, float("nan"), tensor)


MOMENT = "state.0.exp_avg"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("net", one_wrong("weight", not_finite), "must hold finite numbers: weight is not finite"),
        ("net_ema", one_wrong("weight", not_finite), "must hold finite numbers: weight is not finite"),
        ("net", one_wrong("weight", torch.Tensor.half), "must hold weight as torch.float32, got torch.float16"),
        ("net_ema", one_wrong("bias", torch.Tensor.char), "must hold bias as torch.float32, got torch.int8"),
        ("net", one_wrong("weight", torch.t), "does not fit the network"),
        ("net", lambda tensors: tensors.pop("bias"), "does not fit the network"),
        ("optimizer", one_wrong(MOMENT, not_finite), r"must hold finite numbers: state\.0\.exp_avg is not finite"),
        ("optimizer", one_wrong(MOMENT, torch.t), r"exp_avg of state 0 must have the shape and dtype .* got \(3, 1\)"),
        ("optimizer", one_wrong(MOMENT, torch.Tensor.int), "exp_avg of state 0 must have .* torch.int32"),
        ("process_0", one_wrong("random.torch", lambda x: x[:9]), "the random state of the checkpoint cannot be"),
        ("process_0", one_wrong("random.numpy.1", lambda x: x[:9]), "the random state of the checkpoint cannot be"),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_their_file(name, change, message, tmp_path):
    # Their checksums are right: somebody wrote them so.
    saved_run(tmp_path)
    tensors_changed(tmp_path / "checkpoint-1", f"{name}.safetensors", change)
    with pytest.raises(ValueError, match=rf"checkpoint-1/{name}\.safetensors.*{message}"):
        Run(tmp_path).manager.load("latest")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("optimizer", '["lr", 0.05]', '["lr", "fast"]', "lr must be a number, got str"),
        ("optimizer", '["lr", 0.05]', '["lr", 1' + "0" * 400 + "]", "lr must be a finite number"),
        ("optimizer", '["lr", 0.05]', '["rate", 0.05]', "'lr'"),
        ("optimizer", '"exp_avg",', '"average",', "state 0 must have step, exp_avg, exp_avg_sq, got none for exp_avg"),
        ("optimizer", '["params", [0, 1]]', '["params", [0]]', "param_groups must hold the parameters of the run"),
        ("lr_scheduler", '["last_epoch", 1]', '["last_epoch", "x"]', "last_epoch must be an integer"),
        ("lr_scheduler", '["last_epoch", 1]', '["last_epoch", 1e300]', "last_epoch must be an integer"),
        ("lr_scheduler", '["last_epoch", 1]', '["last_epoch", 1], ["step", 3]', "must hold .* got step as well"),
        ("lr_scheduler", '["base_lrs", [0.1]]', '["base_lrs", []]', r"base_lrs must be a list of 1, got \[\]"),
        ("process_0", '"random"', '"chance"', "must hold the random state and the state of a process"),
    ],
)
def test_entries_that_do_not_fit_are_named_with_their_file(name, old, new, message, tmp_path):
    saved_run(tmp_path)

    def change(structure):
        text = json.dumps(structure)
        assert old in text
        return json.loads(text.replace(old, new))

    entries_changed(tmp_path / "checkpoint-1", f"{name}.safetensors", change)
    with pytest.raises(ValueError, match=rf"checkpoint-1/{name}\.safetensors.*{message}"):
        Run(tmp_path).manager.load("latest")


def test_the_settings_of_the_optimizer_are_those_of_the_run_that_resumes(tmp_path):
    # `--allow_changed_settings learning_rate adam_beta1`: the schedule goes on from the new rate.
    saved_run(tmp_path)
    entries_changed(
        tmp_path / "checkpoint-1",
        "optimizer.safetensors",
        lambda structure: json.loads(json.dumps(structure).replace('["maximize", false]', '["maximize", true]')),
    )
    again = Run(tmp_path, rate=0.4)
    again.optimizer.param_groups[0]["betas"] = (0.7, 0.8)
    again.manager.start("latest")
    group = again.optimizer.param_groups[0]
    assert (group["maximize"], group["betas"]) == (False, (0.7, 0.8))
    assert group["lr"] == pytest.approx(0.2) and again.schedule.get_last_lr() == pytest.approx([0.2])
    again.update()
    assert group["lr"] == pytest.approx(0.1)


def test_changed_settings_are_refused_by_name_unless_allowed(tmp_path, caplog):
    saved_run(tmp_path, learning_rate=0.1, max_train_steps=5)
    message = r"seed was 0 and is 7; learning_rate was 0\.1 and is 0\.2; --allow_changed_settings seed learning_rate"
    with pytest.raises(ValueError, match=message):
        Run(tmp_path, learning_rate=0.2, seed=7, max_train_steps=9).manager.start("latest")
    again = Run(tmp_path, learning_rate=0.2, seed=7, max_train_steps=9)
    assert again.manager.start("latest", allow_changed=["seed", "learning_rate"])["step"] == 1
    assert "learning_rate was 0.1 and is 0.2" in caplog.text
    assert json.loads((tmp_path / "run_settings.json").read_text())["settings"]["learning_rate"] == 0.2


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    saved_run(tmp_path / "a")
    saved_run(tmp_path / "b")
    (tmp_path / "a" / "checkpoint-1").rename(tmp_path / "b" / "checkpoint-2")
    for name in ("latest", "checkpoint-2", str(tmp_path / "b" / "checkpoint-2")):
        with pytest.raises(ValueError, match=r"checkpoint-2 is of another run .* output_dir of its own"):
            Run(tmp_path / "b").manager.start(name)
    branch = Run(tmp_path / "c")
    assert branch.manager.start(str(tmp_path / "b" / "checkpoint-2"))["step"] == 1
    assert Run(tmp_path / "b").manager.start("checkpoint-1")["step"] == 1


def test_a_folder_with_a_run_is_overwritten_only_on_demand(tmp_path):
    saved_run(tmp_path)
    (tmp_path / "checkpoint-best").mkdir()
    with pytest.raises(ValueError, match=r"output_dir must be .* with checkpoint-1: .*--overwrite_output_dir"):
        Run(tmp_path).manager.start(None)
    with pytest.raises(ValueError, match="give one"):
        Run(tmp_path).manager.start("latest", overwrite=True)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-best", "run_settings.json"]
    run = Run(tmp_path)
    assert run.manager.start(None, overwrite=True) is None
    assert names(tmp_path) == ["checkpoint-best", "run_settings.json"]
    # A run that was stopped before its first checkpoint: "latest" begins again, nothing else does.
    with pytest.raises(ValueError, match=r"output_dir must be"):
        Run(tmp_path).manager.start(None)
    assert Run(tmp_path).manager.start("latest") is None


def test_what_an_interrupted_save_or_deletion_left_is_removed_at_the_start(tmp_path):
    saved_run(tmp_path)
    for name in (
        ".incomplete-checkpoint-2",
        ".incomplete-pipeline",
        ".deleted-checkpoint-0",
        ".replaced-checkpoint-1",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "unet.safetensors").write_text("half")
    os.replace(tmp_path / "checkpoint-1", tmp_path / ".replaced-checkpoint-3")
    assert Run(tmp_path).manager.start("checkpoint-3")["step"] == 1
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


def test_a_run_that_lost_its_folder_does_not_save(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(RuntimeError, match="call start first"):
        run.manager.save(1, {})
    run.manager.start(None)
    Run(tmp_path).manager.start("latest")
    with pytest.raises(RuntimeError, match="this run is not the one that writes into"):
        run.manager.save(1, {})


def test_the_gradient_scaler_of_fp16_is_saved(tmp_path):
    def with_scaler():
        run = Run(tmp_path)
        run.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2)
        run.manager.accelerator.scaler = run.scaler
        manager = run.manager
        run.manager = checkpoints.CheckpointManager(
            manager.accelerator,
            tmp_path,
            {"net": run.network},
            run.optimizer,
            run.schedule,
            {"net": run.ema},
            None,
            {},
        )
        return run

    first = with_scaler()
    try:
        first.manager.start(None)
        first.scaler.scale(torch.ones(()))
        first.scaler.load_state_dict({**first.scaler.state_dict(), "scale": 64.0, "_growth_tracker": 1})
        folder = first.manager.save(1, {})
        assert load_state_file(folder / "grad_scaler.safetensors")["scale"] == 64.0
        second = with_scaler()
        second.manager.load("latest")
        assert second.scaler.state_dict() == first.scaler.state_dict()
    finally:
        first.manager.accelerator.scaler = None
