"""`--gradient_checkpointing` and `--compile`: the same training, with less memory or faster; plain names; exact resuming."""

import shutil

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde_pipelines import DDPMpp
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.classifier_arguments import parse_classifier_args
from scoresde_pipelines.training.classifier_trainer import ClassifierTrainer
from scoresde_pipelines.training.tracking import dynamo_backend
from scoresde_pipelines.training.trainer import Trainer


OPTIONS = ["--block_out_channels", "8", "8", "--layers_per_block", "1", "--attention_resolutions", "4", "--resolution",
           "8", "--train_batch_size", "4", "--lr_warmup_steps", "0", "--eval_batch_size", "0", "--dropout", "0.1",
           "--cpu", "--report_to", "none", "--checkpointing_steps", "2", "--logging_steps", "1"]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_dynamo(fresh_accelerate, monkeypatch):
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    yield
    torch._dynamo.reset()


@pytest.fixture
def train(tmp_path):
    """`train(name, *options)` trains into the folder `name` of `tmp_path`; returns the losses by update."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{k}.png")

    def run(name, *options, steps=4):
        AcceleratorState._reset_state(reset_partial_state=True)
        where = ["--train_data_dir", str(tmp_path / "images"), "--output_dir", str(tmp_path / name)]
        trainer = Trainer(parse_args([*where, *OPTIONS, "--max_train_steps", str(steps), *options]))
        losses, log = {}, trainer._log

        def logged(totals):
            losses[trainer.step] = log(totals)["loss"]
            return {"loss": losses[trainer.step]}

        trainer._log = logged
        trainer.train()
        trainer.finish()
        for path in (tmp_path / name).rglob("*.safetensors"):
            assert not any("_orig_mod" in key for key in load_file(path)), path
        return losses

    return run


def weights(folder, name="unet"):
    return load_file(folder / "checkpoint-4" / f"{name}.safetensors")


def assert_same(first, second):
    for name in ("unet", "unet_ema", "optimizer"):
        ours, theirs = weights(first, name), weights(second, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


class Kept(TorchDispatchMode):
    """Counts the bytes of tensors made in this context that are still there."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                known = self.seen.get(storage._cdata)
                if known is None or known[0].expired():
                    self.seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def bytes(self):
        return sum(size for reference, size in self.seen.values() if not reference.expired())


def kept_bytes(checkpointing):
    network = DDPMpp(sample_size=32, block_out_channels=(16, 16), layers_per_block=2, attention_resolutions=(8,))
    if checkpointing:
        network.enable_gradient_checkpointing()
    with Kept() as kept:
        output = network(torch.randn(2, 3, 32, 32), torch.tensor([3.0, 4.0])).sample
        return kept.bytes(), output  # the output holds the graph


def test_gradient_checkpointing_is_the_same_training_with_less_memory(train, tmp_path):
    expected = train("plain")
    assert train("checkpointed", "--gradient_checkpointing") == expected and len(expected) == 4
    assert_same(tmp_path / "plain", tmp_path / "checkpointed")
    assert kept_bytes(True)[0] < 0.5 * kept_bytes(False)[0]


def test_a_classifier_trains_with_checkpoints_too(tmp_path):
    for k in range(8):
        path = tmp_path / "classes" / str(k % 2) / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    words = [
        "--train_data_dir",
        str(tmp_path / "classes"),
        "--channels",
        "1",
        "--depth",
        "10",
        "--width",
        "1",
        "--cpu",
    ]
    words += ["--resolution", "8", "--train_batch_size", "4", "--max_train_steps", "4", "--report_to", "none"]
    for name, more in (("plain", []), ("checkpointed", ["--gradient_checkpointing"])):
        AcceleratorState._reset_state(reset_partial_state=True)
        where = ["--output_dir", str(tmp_path / name), "--dropout", "0.1"]
        trainer = ClassifierTrainer(parse_classifier_args([*words, *where, *more]))
        trainer.train()
        trainer.finish()
        assert trainer.network.is_gradient_checkpointing == bool(more)
    assert_same(tmp_path / "plain", tmp_path / "checkpointed")


def test_averages_are_evaluated_without_checkpoints(train, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    where = ["--train_data_dir", str(tmp_path / "images"), "--output_dir", str(tmp_path / "run")]
    run = Trainer(parse_args([*where, *OPTIONS, "--gradient_checkpointing"]))
    assert run.network.is_gradient_checkpointing and not run.ema.model.is_gradient_checkpointing


def test_a_compiled_network_trains_alike_and_saves_plain_names(train, tmp_path, monkeypatch):
    # The backend "eager" changes no arithmetic: weights are equal to the bit.
    expected = train("plain")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    assert train("compiled") == expected
    assert_same(tmp_path / "plain", tmp_path / "compiled")
    network = DDPMpp.from_pretrained(tmp_path / "compiled" / "unet")
    assert network.state_dict().keys() == weights(tmp_path / "plain").keys()
    with pytest.raises(ValueError, match="backend must be another one with --gradient_checkpointing, got eager"):
        train("refused", "--gradient_checkpointing")


def test_compiled_checkpoints_draw_the_same_dropout_masks(monkeypatch):
    torch.manual_seed(0)
    network = DDPMpp(sample_size=8, block_out_channels=(8,), layers_per_block=1, attention_resolutions=(), dropout=0.3,
                     init_scale=1.0)  # fmt: skip
    x, t = torch.randn(4, 3, 8, 8), torch.tensor([3.0, 100.0, 500.0, 900.0])

    def gradient(model):
        network.zero_grad()
        torch.manual_seed(5)
        model(x, t).sample.square().mean().backward()
        return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

    expected = gradient(network)
    network.enable_gradient_checkpointing()
    assert torch.equal(gradient(network), expected)
    found = gradient(torch.compile(network, backend="aot_eager"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_with_and_without_the_options(train, tmp_path, monkeypatch):
    expected = train("whole")
    train("parts", "--gradient_checkpointing", steps=2)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    later = train("parts", "--resume_from_checkpoint", "checkpoint-2")
    assert later == {step: expected[step] for step in (3, 4)}
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_run_of_both_options_that_is_killed_goes_on_to_the_bit(train, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "aot_eager")
    both = ["--compile", "--gradient_checkpointing"]
    expected = train("whole", *both)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        update = Trainer.update
        patch.setattr(Trainer, "update", lambda self, pictures: killed(self) or update(self, pictures))
        train("parts", *both)
    assert not (tmp_path / "parts" / "checkpoint-4").exists()
    assert train("parts", *both, "--resume_from_checkpoint", "latest") == {step: expected[step] for step in (3, 4)}
    assert_same(tmp_path / "whole", tmp_path / "parts")


def killed(run):
    """Ends the run in its fourth update, after checkpoint-2, without saving."""
    if run.step == 3:
        run.checkpoints.close()
        raise KeyboardInterrupt


def test_compile_is_inductor_unless_accelerate_config_names_a_backend(monkeypatch):
    for words, configured, expected in (
        (["--compile"], None, "inductor"),
        (["--compile"], "NO", "inductor"),
        (["--compile"], "EAGER", None),
        ([], "EAGER", None),
        ([], None, None),
    ):
        if configured is not None:
            monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", configured)
        else:
            monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
        assert dynamo_backend(parse_args(["--train_data_dir", "x", *words])) == expected


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
def test_inductor_gives_the_loss_up_to_rounding_and_goes_on_to_the_bit(train, tmp_path):
    small = ["--block_out_channels", "8", "--attention_resolutions"]
    expected = train("plain", *small)
    whole = train("whole", *small, "--compile")
    assert whole == pytest.approx(expected, rel=1e-5)  # dropout changes the first losses less than that
    train("parts", *small, "--compile", steps=2)
    resumed = train("parts", *small, "--compile", "--resume_from_checkpoint", "latest")
    assert resumed == {step: whole[step] for step in (3, 4)}
    assert_same(tmp_path / "whole", tmp_path / "parts")
