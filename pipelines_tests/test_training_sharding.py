"""Runs of two processes that spread their weights (FSDP2), beside runs whose processes have the whole weights."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import is_torch_version
from PIL import Image
from safetensors.torch import load_file
from two_processes import run_in_two_processes

from scoresde_pipelines import ScoreSdePipeline
from scoresde_pipelines.training.sharding import OLDEST_TORCH


if not is_torch_version(">=", OLDEST_TORCH) or not hasattr(FullyShardedDataParallelPlugin, "fsdp_version"):
    pytest.skip(f"FSDP2 needs PyTorch {OLDEST_TORCH} and Accelerate 1.6", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
NETWORK = ["--block_out_channels", "8", "8", "--layers_per_block", "1", "--attention_resolutions", "4"]
CLASSIFIER = ["--channels", "1", "--depth", "10", "--width", "1", "--validation_split", "train"]
COMMON = ["--resolution", "8", "--train_batch_size", "4", "--lr_warmup_steps", "2", "--cpu", "--report_to", "none"]
COMMON += ["--resume_from_checkpoint", "latest"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs, their exit codes and their output."""
    folder = tmp_path_factory.mktemp("runs")
    for k, image in enumerate(np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)):
        path = folder / "images" / "train" / str(k % 2) / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    data = ["--train_data_dir", str(folder / "images"), "--cache_dir", str(folder / "cache"), *COMMON]

    def run(name, *options, module="train_unconditional", updates=4, **more):
        more_options = CLASSIFIER if module == "train_classifier" else [*NETWORK, "--eval_batch_size", "2"]
        if module == "train_unconditional":
            more_options += ["--num_inference_steps", "2", "--split", "train", "--ema_widths", "0.1"]
        argv = [*data, *more_options, "--output_dir", str(folder / name), "--max_train_steps", str(updates), *options]
        return {"module": module, "argv": argv, **more}

    options = ["--validation_fraction", "0.2", "--validation_num_images", "3", "--eval_steps", "2", "--keep_best"]
    bf16 = ["--mixed_precision", "bf16", "--sde", "ve", "--gradient_accumulation_steps", "2", "--channels_last"]
    scripts = [
        run("whole", *options),
        run("spread", *options, fsdp=2),
        run("parts", *options, fsdp=2, signal=[1, signal.SIGUSR1, 2]),
        run("parts", *options, fsdp=2),
        run("mixed", *options, updates=1),
        run("mixed", *options, updates=3, fsdp=2),
        run("mixed", *options),
        run("whole_bf16", *bf16),
        run("spread_bf16", *bf16, fsdp=2),
        run("whole_classifier", module="train_classifier"),
        run("spread_classifier", module="train_classifier", fsdp=2),
        run("fsdp1", fsdp=1),
        run("muon", "--optimizer", "muon", fsdp=2),
    ]
    return folder, *run_in_two_processes(scripts)


def tensors(folder):
    """Every tensor that a run has written, by file and name."""
    files = [path for path in folder.rglob("*.safetensors") if not path.name.startswith("process")]
    return {f"{path.relative_to(folder)} {name}": value for path in files for name, value in load_file(path).items()}


def assert_equal(first, second, atol):
    ours, theirs = tensors(first), tensors(second)
    assert ours.keys() == theirs.keys() and len(ours) > 500
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=atol, msg=lambda text: f"{name}: {text}")  # noqa: B023


def test_every_run_ends_as_it_should(runs):
    _, codes, output = runs
    assert codes == [[0, 0], [0, 0], [75, 75], *[[0, 0]] * 8, [1, 1], [1, 1]], output
    assert "must be one of NO, MULTI_GPU, MULTI_CPU, MULTI_XPU, or FSDP version 2, got FSDP version 1" in output
    assert "optimizer must be adamw where the weights are spread over processes, got muon" in output
    assert "FSDP takes contiguous weights alone: channels_last has no effect" in output
    # 20,121 parameters in float32, six times: weights, gradients, two moments and two averages.
    assert "optimizer and averages take 0.483 MB\n" in output
    assert "optimizer and averages take 0.242 MB of every process\n" in output


def test_weights_optimizer_and_averages_are_those_of_a_run_with_whole_weights(runs):
    assert_equal(runs[0] / "whole", runs[0] / "spread", atol=1e-7)


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(runs):
    assert (runs[0] / "parts" / "checkpoint-2").is_dir()
    whole, parts = (tensors(runs[0] / name / "checkpoint-4") for name in ("spread", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_does_not_say_how_the_weights_were_spread(runs):
    for step in (1, 3, 4):
        assert (runs[0] / "mixed" / f"checkpoint-{step}").is_dir()
    whole, mixed = (tensors(runs[0] / name / "checkpoint-4") for name in ("whole", "mixed"))
    assert whole.keys() == mixed.keys()
    assert max(float((whole[name] - mixed[name]).abs().max()) for name in whole if whole[name].numel()) < 1e-7


def test_measurements_are_those_of_a_run_with_whole_weights(runs):
    whole, spread = (
        [json.loads(line) for line in (runs[0] / name / "evaluation.jsonl").read_text().splitlines()]
        for name in ("whole", "spread")
    )
    assert [line["step"] for line in whole] == [line["step"] for line in spread] == [2, 4]
    for ours, theirs in zip(whole, spread):
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], abs=1e-6)
    assert (runs[0] / "spread" / "best" / "unet").is_dir()  # compared with the others above


def test_mixed_precision_is_that_of_a_run_with_whole_weights(runs):
    # Rounding of gradients to bfloat16, through Adam: an update is at most the learning rate, 1e-4.
    assert_equal(runs[0] / "whole_bf16", runs[0] / "spread_bf16", atol=1e-4)
    whole, spread = (
        load_file(runs[0] / name / "checkpoint-4" / "unet.safetensors") for name in ("whole_bf16", "spread_bf16")
    )
    moved = torch.cat([(whole[name] - spread[name]).flatten() for name in whole])
    assert moved.square().mean().sqrt() < 3e-6


def test_the_saved_pipeline_is_whole(runs):
    images = []
    for name in ("whole", "spread"):
        pipe = ScoreSdePipeline.from_pretrained(runs[0] / name)
        assert type(pipe.unet).__name__ == "DDPMpp"
        images.append(
            pipe(2, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
        )
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)


def test_a_classifier(runs):
    reports = [
        json.loads((runs[0] / f"{name}_classifier" / "accuracy.json").read_text()) for name in ("whole", "spread")
    ]
    assert reports[0] == reports[1] and len(reports[0]) == 6
    whole, spread = (tensors(runs[0] / f"{name}_classifier") for name in ("whole", "spread"))
    assert whole.keys() == spread.keys()
    assert max(float((whole[name] - spread[name]).abs().max()) for name in whole if whole[name].numel()) < 1e-5
