"""Measurements of `train_unconditional`: values of the held-out loss, labels, the best weights, resuming, exactness."""

import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from PIL import Image
from safetensors.torch import load_file

from scoresde_pipelines import VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.training import trainer_core
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.evaluation.during_training import BestWeights
from scoresde_pipelines.training.feature_classifier import FeatureClassifier
from scoresde_pipelines.training.held_out import held_out_indices, held_out_loss
from scoresde_pipelines.training.image_table import labels_by_name
from scoresde_pipelines.training.pipeline_folder import Components, load_pipeline_folder
from scoresde_pipelines.training.run_evaluation import network_function
from scoresde_pipelines.training.tracking import make_accelerator
from scoresde_pipelines.training.trainer import Trainer


OPTIONS = ["--block_out_channels", "8", "--layers_per_block", "1", "--attention_resolutions", "--resolution", "4",
           "--train_batch_size", "4", "--eval_batch_size", "0", "--cpu", "--report_to", "none", "--class_conditional",
           "--num_inference_steps", "2", "--recipe", "edm", "--sde", "ve", "--max_train_steps", "4",
           "--checkpointing_steps", "2"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(fresh_accelerate, tmp_path, monkeypatch):
    monkeypatch.setenv("SCORESDE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Splits "train" (12 images) and "test" (6), gray, in two classes."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(random.integers(0, 256, (4, 4), np.uint8)).save(root / split / name / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("features")
    FeatureClassifier(in_channels=1, sample_size=4).save_pretrained(path)
    return str(path)


def trainer(folder, output, *more):
    AcceleratorState._reset_state(reset_partial_state=True)
    return Trainer(parse_args(["--train_data_dir", str(folder), "--output_dir", str(output), *OPTIONS, *more]))


def records(output):
    lines = [json.loads(line) for line in (output / "evaluation.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


# ------------------------------------------------------------------ values of the held-out loss


def zero(x, time, class_labels=None):
    return torch.zeros_like(x)


@pytest.mark.parametrize(
    "scheduler, data_range",
    [
        (VESDEScheduler(prediction_type="edm", sigma_data=0.3, data_mean=0.3), (0.0, 1.0)),
        (VPSDEScheduler(prediction_type="edm", sigma_data=0.6, data_mean=-0.4), (-1.0, 1.0)),
        (VPSDEScheduler(), (-1.0, 1.0)),
    ],
)
def test_a_network_of_zeros_has_the_loss_one_in_every_band(scheduler, data_range):
    # Half of the images are black and half 3/5 white: every pixel is one standard deviation from the mean.
    images = (torch.arange(400) % 2 * 153).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    components = Components(zero, scheduler, data_range)
    found = held_out_loss(components, images, None, 64, 0)(network_function(components))
    assert list(found) == ["loss", *(f"loss_band_{k}" for k in range(4))]
    # The mean of z^2 over 6400 pixels has the standard error 0.018, and the cross term as much.
    assert list(found.values()) == pytest.approx([1.0] * 5, abs=0.08)


def test_the_network_is_told_the_class_of_each_image():
    values = torch.tensor([0.0, 0.6])
    scheduler = VESDEScheduler(prediction_type="edm", sigma_data=0.3, data_mean=0.3)

    def knows_the_image_by_its_class(network_input, sigma, class_labels):
        x0 = values[class_labels].reshape(-1, 1, 1, 1)
        s, r = 0.3, sigma.reshape(-1, 1, 1, 1)
        h = (s**2 + r**2).sqrt()
        y, y0 = network_input * h, x0 - 0.3
        return (r / s * y0 - s * (y - y0) / r) / h

    labels = torch.arange(40) % 2
    images = (labels * 153).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    components = Components(knows_the_image_by_its_class, scheduler, (0.0, 1.0), ["black", "gray"])
    function = network_function(components)
    assert held_out_loss(components, images, labels, 7, 0)(function)["loss"] < 1e-4
    assert held_out_loss(components, images, 1 - labels, 7, 0)(function)["loss"] > 1


def test_classes_of_another_split_are_found_by_name():
    class Table(list):
        column_names = ["label"]

    table = Table([{"label": name} for name in ("snow", "coal", "snow")])
    assert labels_by_name(table, None, ["coal", "mouse", "snow"]).tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match=r"must be among \['coal'\], got \['snow'\]"):
        labels_by_name(table, None, ["coal"])


# ------------------------------------------------------------------ runs


def test_weights_are_those_of_a_run_without_measurements(folder, features, tmp_path):
    measured = trainer(folder, tmp_path / "a", "--validation_split", "test", "--eval_steps", "1", "--keep_best",
                       "--eval_features", features, "--eval_num_images", "5")  # fmt: skip
    measured.train()
    plain = trainer(folder, tmp_path / "b")
    plain.train()
    for name in ("unet.safetensors", "unet_ema.safetensors", "optimizer.safetensors", "process_0.safetensors"):
        old, new = (load_file(tmp_path / run / "checkpoint-4" / name) for run in "ab")
        assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old), name
    found = records(tmp_path / "a")
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    names = list(found[0])
    assert names[:2] == ["step", "validation_loss"] and names[-2:] == ["kid", "kid_se"] and len(names) == 8
    bands = [value for name, value in found[-1].items() if name.startswith("validation_loss_log_snr_")]
    assert found[-1]["validation_loss"] == pytest.approx(sum(bands) / 4)
    best = json.loads((tmp_path / "a" / "best" / "best.json").read_text())
    assert best["value"] == min(line["kid"] for line in found)
    assert best["metric"] == f"KID of 5 images in 2 steps, {features}"


def test_best_holds_the_weights_of_the_better_step_and_a_resume_goes_on(folder, tmp_path):
    options = ["--validation_fraction", "0.25", "--eval_steps", "1", "--keep_best"]
    whole, seen = trainer(folder, tmp_path / "whole", *options), {}
    assert len(whole.images) == 9 and len(whole.labels) == 9

    def scripted(run, values):
        def measure(function, device):
            seen[run.step] = {name: value.clone() for name, value in run.ema.model.state_dict().items()}
            loss = values[run.step]
            return {"loss": loss, **{f"loss_band_{k}": loss for k in range(4)}}

        run.evaluation.held_out = measure

    values = {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.2}
    scripted(whole, {**values, 4: 0.35})
    whole.train()
    whole.checkpoints.close()
    state = json.loads((tmp_path / "whole" / "best" / "best.json").read_text())
    assert state == {"metric": "held-out loss of 3 images", "value": 0.3, "step": 2}
    saved = load_pipeline_folder(str(tmp_path / "whole" / "best"))
    assert saved.class_names == ["a", "b"]
    assert all(torch.equal(value, seen[2][name]) for name, value in saved.unet.state_dict().items())
    assert not all(torch.equal(seen[4][name], seen[2][name]) for name in seen[2])

    resumed = trainer(folder, tmp_path / "whole", *options, "--resume_from_checkpoint", "checkpoint-2")
    assert resumed.evaluation.best.state == state and [line["step"] for line in records(tmp_path / "whole")] == [1, 2]
    scripted(resumed, values)
    resumed.train()
    assert [line["validation_loss"] for line in records(tmp_path / "whole")] == [0.5, 0.3, 0.4, 0.2]
    assert json.loads((tmp_path / "whole" / "best" / "best.json").read_text())["step"] == 4


def test_a_killed_replacement_leaves_the_older_copy(tmp_path):
    best = BestWeights(tmp_path / "best", "loss")
    best.update(0.5, 1, lambda folder: (folder / "weights").write_text("one"))
    (tmp_path / "best").rename(tmp_path / ".old-best")  # killed between the two renames
    again = BestWeights(tmp_path / "best", "loss")
    assert again.value == 0.5 and (tmp_path / "best" / "weights").read_text() == "one"


def test_held_out_images_are_fixed_by_the_seed():
    kept, held_out = held_out_indices(100, 0.1, 3)
    assert len(held_out) == 10 and sorted(kept + held_out) == list(range(100))
    assert (kept, held_out) == held_out_indices(100, 0.1, 3) != held_out_indices(100, 0.1, 4)
    with pytest.raises(ValueError, match=r"validation_fraction must leave images .*, got 0.01 of 12 images"):
        held_out_indices(12, 0.01, 0)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--keep_best"], "--keep_best needs --validation_split, --validation_fraction or --eval_features"),
        (["--validation_fraction", "1"], "--validation_fraction must be a finite number in (0, 1), got 1.0"),
        (["--validation_fraction", "0.1", "--validation_split", "test"], "give either --validation_split or"),
        (
            ["--eval_features", "x", "--eval_num_images", "2"],
            "--eval_num_images must be an integer of at least 3, got 2",
        ),
    ],
)
def test_contradictions_are_named(capsys, options, message):
    with pytest.raises(SystemExit):
        parse_args(["--train_data_dir", "x", *options])
    assert message in capsys.readouterr().err


def test_unknown_features_are_named_before_the_run_takes_its_folder(folder, tmp_path):
    with pytest.raises(ValueError, match=r"features must be one of .*, got 'fashion'"):
        trainer(folder, tmp_path / "run", "--eval_features", "fashion")
    assert not (tmp_path / "run" / "run_settings.json").exists()


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_weights_spread_over_processes_are_refused(folder, tmp_path, monkeypatch, kind):
    def faked(args):
        accelerator = make_accelerator(args)
        accelerator.state.distributed_type = DistributedType[kind]
        return accelerator

    monkeypatch.setattr(trainer_core, "make_accelerator", faked)
    with pytest.raises(ValueError, match=f"the distributed type must be one of NO, .*, or FSDP version 2, got {kind}"):
        trainer(folder, tmp_path / "run")


@pytest.mark.parametrize("damage", [b"[]\n", b"\x80\n", b'{"loss": 1}\n', b'{"step": "x"}\n', b"[" * 100_000 + b"\n"])
def test_a_damaged_line_of_the_measurements_is_named(damage, folder, tmp_path):
    options = [
        "--validation_split",
        "test",
        "--eval_steps",
        "1",
        "--checkpointing_steps",
        "1",
        "--max_train_steps",
        "1",
    ]
    run = trainer(folder, tmp_path, *options)
    run.train()
    run.finish()
    path = tmp_path / "evaluation.jsonl"
    whole = path.read_bytes()
    resume = [*options, "--resume_from_checkpoint", "latest"]
    path.write_bytes(whole + damage)
    with pytest.raises(ValueError, match=r"evaluation\.jsonl is damaged in line 2 \(.*remove it to go on"):
        trainer(folder, tmp_path, *resume)
    path.write_bytes(whole + b'{"step": 2, "lo')  # killed while it was written
    trainer(folder, tmp_path, *resume).checkpoints.close()
    assert path.read_bytes() == whole
