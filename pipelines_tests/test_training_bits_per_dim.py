"""Bits/dim while training: the figure of `scoresde likelihood` on the same images and noise; the best weights by it."""

import json
import math

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from typer.testing import CliRunner

from scoresde_pipelines import ScoreSdeLikelihoodPipeline, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.cli import app
from scoresde_pipelines.models.analytic import GaussianScoreModel
from scoresde_pipelines.schedulers.probability_flow import ODEError
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.evaluation.bits_per_dim import FewImageBits
from scoresde_pipelines.training.held_out import choose
from scoresde_pipelines.training.pipeline_folder import Components
from scoresde_pipelines.training.trainer import Trainer


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


OPTIONS = ["--block_out_channels", "8", "--layers_per_block", "1", "--attention_resolutions", "--resolution", "4", "8",
           "--train_batch_size", "4", "--eval_batch_size", "0", "--cpu", "--report_to", "none", "--learning_rate", "1e-3",
           "--max_train_steps", "4", "--eval_steps", "2", "--eval_num_bpd_images", "5", "--seed", "3"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Splits "train" (12 images) and "test" (8), gray, 4 x 8 pixels, in two classes."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(random.integers(0, 256, (4, 8), np.uint8)).save(root / split / name / f"{k}.png")
    return root


def trainer(folder, output, *more):
    AcceleratorState._reset_state(reset_partial_state=True)
    return Trainer(parse_args(["--train_data_dir", str(folder), "--output_dir", str(output), *OPTIONS, *more]))


def records(output):
    return [json.loads(line) for line in (output / "evaluation.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("more", [["--recipe", "edm", "--sde", "ve", "--class_conditional"], ["--sde", "subvp"]])
def test_it_is_the_figure_of_the_command_on_the_same_images(folder, tmp_path, more):
    run = trainer(folder, tmp_path / "run", *more, "--validation_split", "test", "--mixed_precision", "bf16")
    run.train()
    run.finish()
    last = records(tmp_path / "run")[-1]
    table = tmp_path / "table.jsonl"
    words = [
        "likelihood",
        "--model",
        str(tmp_path / "run"),
        "--data",
        str(folder),
        "--output",
        str(table),
        "--seed",
        "3",
    ]
    done = CliRunner().invoke(app, [*words, "--split", "test", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    rows = {row["index"]: row["bits_per_dim"] for row in map(json.loads, table.read_text().splitlines())}
    chosen = choose(8, 5, 3)
    values = [rows[index] for index in chosen]
    assert len(set(chosen)) == 5 and last["step"] == 4
    assert last["bits_per_dim"] == pytest.approx(np.mean(values), rel=1e-6)
    assert last["bits_per_dim_se"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(5), rel=1e-4)
    assert np.ptp(values) > 1e-3


@pytest.mark.parametrize("scheduler", [VPSDEScheduler(continuous=True), VESDEScheduler(sigma_max=20.0)])
def test_a_gaussian_model_has_the_bits_of_its_density(scheduler):
    low, high = scheduler.data_range
    mean = torch.zeros(1, 4, 8, dtype=torch.float64)  # that of the prior, which then fits
    images = torch.randint(0, 256, (7, 1, 4, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    components = Components(GaussianScoreModel(mean, 0.3).network(scheduler), scheduler, (low, high))
    found = FewImageBits(images, range(10, 17), batch_size=3, seed=2)(components)
    width = (high - low) / 255
    noise = torch.stack(
        [
            torch.rand(1, 4, 8, generator=torch.Generator().manual_seed(2 * 2**32 + row), dtype=torch.float64)
            for row in range(10, 17)
        ]
    )
    x = low + width * (images + noise - 0.5)
    log_prob = torch.distributions.Normal(mean, 0.3**0.5).log_prob(x).flatten(1).sum(1)
    bits = -(log_prob / 32 + math.log(width)) / math.log(2)
    # Hutchinson's estimate is exact here: the Jacobian is a multiple of the identity.
    assert found.value == pytest.approx(float(bits.mean()), abs=2e-3)
    assert found.se == pytest.approx(float(bits.std()) / 7**0.5, abs=2e-3)
    assert FewImageBits(images, range(7), seed=2)(components).value != found.value  # other rows, other noise


def test_the_best_weights_by_bits_per_dim_and_no_other_training(folder, tmp_path):
    options = ["--class_conditional", "--validation_fraction", "0.5", "--eval_steps", "1"]
    run = trainer(folder, tmp_path / "run", *options, "--keep_best", "--best_metric", "bits_per_dim")
    assert run.evaluation.bits.images.shape == (5, 1, 4, 8)
    run.train()
    run.finish()
    values = {line["step"]: line["bits_per_dim"] for line in records(tmp_path / "run")}
    best = json.loads((tmp_path / "run" / "best" / "best.json").read_text())
    step = min(values, key=values.get)
    assert best == {"metric": "bits/dim of 5 images", "value": values[step], "step": step}
    # The pipeline that was kept has this figure: "no class", the rows of the images in the whole data set.
    pipeline = ScoreSdeLikelihoodPipeline.from_pretrained(tmp_path / "run" / "best")
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in run.evaluation.bits.seeds]
    found = pipeline(run.evaluation.bits.images, tolerance=1e-3, generator=generators).bits_per_dim
    assert float(found.mean()) == pytest.approx(values[step], rel=1e-6)
    plain = trainer(folder, tmp_path / "plain", *options)
    plain.evaluation.bits = None
    plain.train()
    assert all(torch.equal(a, b) for a, b in zip(run.network.parameters(), plain.network.parameters()))


def test_an_ode_that_cannot_be_solved_ends_no_training(folder, tmp_path, monkeypatch, caplog):
    def fails(self, components, device):
        raise ODEError("too many steps")

    monkeypatch.setattr(FewImageBits, "__call__", fails)
    best = ["--keep_best", "--best_metric", "bits_per_dim"]
    trainer(folder, tmp_path / "run", "--validation_split", "test", *best).train()
    assert [line["step"] for line in records(tmp_path / "run")] == [2, 4]
    assert "bits_per_dim" not in records(tmp_path / "run")[0] and not (tmp_path / "run" / "best").exists()
    assert "no bits/dim at step 2: too many steps" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        (["--eval_num_bpd_images", "4"], "--eval_num_bpd_images needs --validation_split or --validation_fraction"),
        (
            ["--eval_num_bpd_images", "0", "--validation_split", "t"],
            "--eval_num_bpd_images must be an integer of at l",
        ),
        (
            ["--eval_num_bpd_images", "4", "--validation_split", "t", "--class_conditional", "--label_dropout", "0"],
            "--eval_num_bpd_images needs a --label_dropout above 0: it is the likelihood given no class",
        ),
        (["--best_metric", "kid"], "--best_metric belongs to --keep_best"),
        (
            ["--best_metric", "kid", "--keep_best", "--validation_split", "t"],
            "--best_metric kid needs --eval_features",
        ),
        (
            ["--best_metric", "validation_loss", "--keep_best", "--eval_features", "x"],
            "--best_metric validation_loss needs --validation_split or --validation_fraction",
        ),
    ],
)
def test_contradictions_are_named(capsys, options, message):
    with pytest.raises(SystemExit):
        parse_args(["--train_data_dir", "x", *options])
    assert message in " ".join(capsys.readouterr().err.split())
