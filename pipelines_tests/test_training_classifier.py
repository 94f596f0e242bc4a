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
from scoresde_pipelines.training.classifier_trainer import ClassifierTrainer
from scoresde_pipelines.training.data import ShuffledBatches
from scoresde_pipelines.training.safe_state import load_state_file
from scoresde_pipelines.training.seeding import combined_seed
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
    arguments = ["--train_data_dir", str(folder), "--output_dir", str(output), "--logger", "none", "--cpu"]
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


def test_a_resumed_run_continues_bit_for_bit(folder, tmp_path):
    options = ["--random_flip", "--dropout", "0.1", "--checkpointing_steps", "3"]
    whole = run(folder, tmp_path / "whole", *options, "--max_train_steps", "6")
    # Stopped after 3 of 6 updates: the learning rate follows the plan for 6.
    run(folder, tmp_path / "parts", *options, "--max_train_steps", "6")
    (tmp_path / "parts" / "checkpoint-6" / "trainer_state.json").unlink()
    parts = run(folder, tmp_path / "parts", *options, "--max_train_steps", "6", "--resume_from_checkpoint", "latest")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_two_processes_average_their_gradients(folder, tmp_path):
    """Two updates of two processes with 8 images each, against the same updates by hand."""
    sizes = ["--resolution", "8", "--channels", "1", "--depth", "10", "--width", "1", "--train_batch_size", "8"]
    options = ["--train_data_dir", str(folder), "--logger", "none", "--cpu", "--max_train_steps", "2", *sizes]
    options += ["--lr_warmup_steps", "0", "--learning_rate", "0.01"]
    root = str(Path(__file__).resolve().parents[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["-m", "scoresde_pipelines.training.train_classifier", *options, "--output_dir", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(
        [*launch, "--checkpointing_steps", "1"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    states = [load_state_file(tmp_path / "checkpoint-2" / f"process_{k}.safetensors")["random"] for k in range(2)]
    assert not torch.equal(states[0]["torch"], states[1]["torch"])

    # The same two updates by hand: the mean of both processes' gradients.
    args = parse_classifier_args([*options, "--output_dir", str(tmp_path / "hand")])
    trainer = ClassifierTrainer(args)
    parameters = [p for p in trainer.classifier.parameters() if p.requires_grad]
    for step in range(2):
        gradients = []
        for process in range(2):
            position = (args.seed, step, process)
            generator = torch.Generator().manual_seed(combined_seed(*position, 1))
            batches = ShuffledBatches(len(trainer.data.labels), 8, args.seed, step * 16, process, 2)
            indices = next(iter(batches))
            images, labels = trainer.data.images[indices], trainer.data.labels[indices]
            t, _ = trainer.times(len(images), generator, torch.device("cpu"))
            logits = trainer.noisy_logits(trainer.classifier, images, t, generator)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            gradients.append(torch.autograd.grad(loss, parameters))
        for parameter, *both in zip(parameters, *gradients):
            parameter.grad = sum(both) / 2
        torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    distributed = load_file(tmp_path / "checkpoint-2" / "unet.safetensors")
    for name, value in trainer.classifier.state_dict().items():
        torch.testing.assert_close(distributed[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "give either --dataset_name"),
        (["--train_data_dir", "x", "--resolution", "30"], "--resolution is 30, expected a multiple of 4"),
        (["--train_data_dir", "x", "--max_train_steps", "0"], "--max_train_steps is 0, expected at least 1"),
        (["--train_data_dir", "x", "--sde", "vq"], "invalid choice"),
    ],
)
def test_bad_arguments_are_named(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse_classifier_args(argv)
    assert message in capsys.readouterr().err


def test_a_missing_label_column_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"--label_column is 'kind', but the columns are \['image', 'label'\]"):
        run(folder, tmp_path, "--label_column", "kind", "--max_train_steps", "1")
