"""train_classifier: what it learns, bit-exact resuming, what it writes, bad arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scoresde_pipelines.models import NoiseConditionalClassifier
from scoresde_pipelines.training.classifier_arguments import parse_classifier_args
from scoresde_pipelines.training.train_classifier import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """64 images of 8 x 8: class 0 is dark on the left, class 1 on the right."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for k in range(64):
            pixels = rng.integers(170, 256, (8, 8), dtype=np.uint8)
            pixels[:, 4 * (k % 2) : 4 * (k % 2) + 4] -= 150
            path = root / split / str(k % 2) / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def run(folder, output, *more):
    arguments = ["--train_data_dir", str(folder), "--output_dir", str(output), "--report_to", "none", "--cpu"]
    size = ["--resolution", "8", "--channels", "1", "--depth", "10", "--width", "1", "--train_batch_size", "16"]
    main([*arguments, *size, "--learning_rate", "3e-3", "--lr_warmup_steps", "2", "--ema_max_decay", "0.8", *more])
    return load_file(output / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("sde", ["ve", "vp", "subvp"])
def test_it_learns_to_tell_noisy_classes_apart(folder, tmp_path, sde):
    run(folder, tmp_path, "--sde", sde, "--max_train_steps", "30", "--validation_split", "test")
    report = json.loads((tmp_path / "accuracy.json").read_text())
    accuracies = list(report.values())
    assert accuracies[0] == 1.0  # hardly any noise
    assert accuracies[-1] < 0.9  # hardly any image
    classifier = NoiseConditionalClassifier.from_pretrained(tmp_path)
    low = 0.0 if sde == "ve" else -1.0
    expected = {"num_classes": 2, "sample_size": 8, "in_channels": 1, "data_min": low, "data_max": 1.0}
    assert {key: classifier.config[key] for key in expected} == expected
    image = torch.ones(2, 1, 8, 8)
    image[0, :, :, :4] = image[1, :, :, 4:] = low
    with torch.no_grad():
        logits = classifier(image, torch.tensor(0.05)).logits
    assert logits.argmax(1).tolist() == [0, 1]


def test_log_normal_noise_trains_the_levels_that_it_names(folder, tmp_path):
    """The same 30 updates at low noise and at high noise, which hardly show the image: accuracy at ratio 1.23."""
    accuracy = {}
    for mean in (-3, 4):
        options = ["--time_density", "log_normal", "--P_mean", str(mean), "--P_std", "0.1", "--max_train_steps", "30"]
        run(folder, tmp_path / str(mean), *options, "--validation_split", "test")
        accuracy[mean] = list(json.loads((tmp_path / str(mean) / "accuracy.json").read_text()).values())[2]
    assert accuracy[-3] > 0.95 and accuracy[4] < 0.8  # .98 and .63


def test_a_resumed_run_continues_bit_for_bit(folder, tmp_path):
    options = ["--random_flip", "--dropout", "0.1", "--checkpointing_steps", "3"]
    whole = run(folder, tmp_path / "whole", *options, "--max_train_steps", "6")
    # Stopped after 3 of 6 updates: the learning rate follows the plan for 6.
    run(folder, tmp_path / "parts", *options, "--max_train_steps", "6")
    (tmp_path / "parts" / "checkpoint-6" / "trainer_state.json").unlink()
    parts = run(folder, tmp_path / "parts", *options, "--max_train_steps", "6", "--resume_from_checkpoint", "latest")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_two_processes_follow_the_trajectory_of_one(folder, tmp_path):
    """Six updates of two processes with 8 images each, against one process with 16."""
    sizes = ["--resolution", "8", "--channels", "1", "--depth", "10", "--width", "1", "--random_flip"]
    options = ["--train_data_dir", str(folder), "--report_to", "none", "--cpu", "--max_train_steps", "6", *sizes]
    options += ["--lr_warmup_steps", "0", "--learning_rate", "0.003"]
    root = str(Path(__file__).resolve().parents[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["-m", "scoresde_pipelines.training.train_classifier", *options, "--output_dir", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(
        [*launch, "--train_batch_size", "8"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    main([*options, "--train_batch_size", "16", "--output_dir", str(tmp_path / "one")])
    one, two = (load_file(tmp_path / name / "checkpoint-6" / "unet.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        # Rounding alone: another seed moves the weights by a hundred times as much.
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=5e-5)


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "give either --dataset_name"),
        (["--train_data_dir", "x", "--resolution", "30"], "--resolution must be one number, a multiple of 4, got 30"),
        (
            ["--train_data_dir", "x", "--max_train_steps", "0"],
            "--max_train_steps must be an integer of at least 1, got 0",
        ),
        (["--train_data_dir", "x", "--sde", "vq"], "invalid choice"),
    ],
)
def test_bad_arguments_are_named(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse_classifier_args(argv)
    assert message in capsys.readouterr().err


def test_a_missing_label_column_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"label_column must be one of the columns \['image', 'label'\], got 'kind'"):
        run(folder, tmp_path, "--label_column", "kind", "--max_train_steps", "1")
