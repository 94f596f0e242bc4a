"""What describes and reports a run: run files, deprecated arguments, trackers, warm-up, learning-rate rules, estimates."""

import json

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scoresde_pipelines import DDPMpp, ScoreSdePipeline
from scoresde_pipelines.schedulers.parameterization import PREDICTION_TYPES
from scoresde_pipelines.training import argument_choices, objectives, pipeline_loading, tracking
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.classifier_arguments import parse_classifier_args
from scoresde_pipelines.training.objectives import Objective
from scoresde_pipelines.training.optimization import warmup_updates
from scoresde_pipelines.training.posthoc_ema import gamma_of, profile_weights
from scoresde_pipelines.training.run_config import save_run_config
from scoresde_pipelines.training.run_report import Activations, readable_bytes, readable_seconds, time_report
from scoresde_pipelines.training.seeding import ImageDraws
from scoresde_pipelines.training.trainer import Trainer


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


SIZE = ["--block_out_channels", "8", "--layers_per_block", "1", "--attention_resolutions", "--resolution", "8"]
QUICK = ["--train_batch_size", "4", "--eval_batch_size", "0", "--cpu", "--report_to", "none"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 12, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{k}.png")
    return folder


# ------------------------------------------------------------------ run files


def write(path, text):
    path.write_text(text)
    return str(path)


def test_a_run_file_gives_defaults_and_the_command_line_wins(tmp_path):
    path = write(
        tmp_path / "run.yaml",
        "train_data_dir: images\nlearning_rate: 1e-3\nresolution: [16, 24]\nrandom_flip: true\nuse_ema: false\n"
        "max_train_steps: 7\nsnr: null\noverwrite_output_dir: false\n",
    )
    args = parse_args(["--max_train_steps", "9", "--no-random_flip", "--config", path])
    assert (args.learning_rate, args.resolution, args.max_train_steps) == (1e-3, (16, 24), 9)
    assert (args.random_flip, args.use_ema, args.snr, args.overwrite_output_dir) == (False, False, None, False)
    classifier = parse_classifier_args(["--config", write(tmp_path / "c.yaml", "train_data_dir: a\nwidth: 2\n")])
    assert (classifier.width, classifier.resolution) == (2, 32)


@pytest.mark.parametrize(
    "text, message",
    [
        ("train_data_dir: a\nlearning_rat: 1\nSeed: 3\n", "config must hold names of arguments, got Seed, learning_rat in"),
        ("train_data_dir: a\nlr_scheduler: exponential\n", "invalid choice: 'exponential'"),
        ("train_data_dir: a\ntrain_batch_size: 0\n", "--train_batch_size must be an integer of at least 1, got 0"),
        ("- train_data_dir\n", "config must be a YAML mapping of argument names, got list"),
        ("a: [", "config must be a readable YAML file"),
    ],
)  # fmt: skip
def test_a_wrong_run_file_is_named(tmp_path, capsys, text, message):
    with pytest.raises(SystemExit):
        parse_args(["--config", write(tmp_path / "run.yaml", text)])
    assert message in capsys.readouterr().err


def test_the_resolved_run_file_repeats_the_run(images, tmp_path):
    options = ["--train_data_dir", str(images), *SIZE, *QUICK, "--max_train_steps", "2", "--hub_token", "secret"]
    options += ["--resolution", "8", "12", "--objective", "min_snr", "--no-use_ema", "--sde", "ve"]
    trainer = Trainer(parse_args([*options, "--output_dir", str(tmp_path / "first")]))
    trainer.train()
    trainer.finish()
    saved = yaml.safe_load((tmp_path / "first" / "run.yaml").read_text())
    assert saved["resolution"] == [8, 12] and saved["objective"] == "min_snr" and saved["use_ema"] is False
    assert "secret" not in (tmp_path / "first" / "run.yaml").read_text()
    AcceleratorState._reset_state(reset_partial_state=True)
    config = ["--config", str(tmp_path / "first" / "run.yaml"), "--output_dir", str(tmp_path / "second")]
    again = Trainer(parse_args(config))
    again.train()
    again.finish()
    first, second = (folder.network.state_dict() for folder in (trainer, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    # Not square: the network, its pipeline and the data are 8 high and 12 wide.
    pipeline = ScoreSdePipeline.from_pretrained(tmp_path / "second")
    assert tuple(pipeline.unet.config.sample_size) == (8, 12) and again.images.format.shape == (3, 8, 12)


@pytest.mark.parametrize("mean", ["-1e-05", "-0.25", "auto"])
def test_a_negative_number_comes_back_from_a_run_file(mean, tmp_path):
    options = ["--train_data_dir", str(tmp_path), "--recipe", "edm", f"--data_mean={mean}", "--P_mean", "-0.8"]
    args = parse_args([*options, "--output_dir", str(tmp_path / "run")])
    again = parse_args(["--config", str(save_run_config(args, tmp_path))])
    assert again.data_mean == args.data_mean == (None if mean == "auto" else float(mean)) and again.P_mean == -0.8


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    "old, name, value",
    [
        (["--logger", "none"], "report_to", "none"),
        (["--likelihood_weighting"], "objective", "likelihood"),
        (["--importance_sampling"], "objective", "likelihood_importance"),
    ],
)
def test_deprecated_arguments_warn_and_work(old, name, value):
    with pytest.warns(FutureWarning, match=f"{old[0]} is deprecated: use --{name}"):
        args = parse_args(["--train_data_dir", "a", *old])
    assert getattr(args, name) == value and not hasattr(args, old[0].lstrip("-"))


def test_a_recipe_is_a_shorthand_that_given_arguments_win_over():
    args = parse_args(["--train_data_dir", "a", "--recipe", "edm", "--objective", "min_snr"])
    assert (args.prediction_type, args.objective) == ("edm", "min_snr")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lr_scheduler", "piecewise_constant"], "piecewise_constant and --lr_step_rules belong together"),
        (["--label_dropout", "1"], "--label_dropout must be a finite number in [0, 1), got 1.0"),
        (["--class_sampling", "balanced"], "--class_sampling balanced needs --class_conditional"),
        (["--ema_widths", "0.4"], "--ema_widths must be a finite number in (0, 0.28), got 0.4"),
        (["--sigma_data", "0.5"], "--sigma_data belongs to --prediction_type edm"),
        (["--resolution", "8", "8", "8"], "--resolution must be one or two numbers of at least 1, got [8, 8, 8]"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--train_data_dir", "a", *arguments])
    assert message in capsys.readouterr().err


def test_help_shows_defaults_and_choices(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for expected in ("{natural,balanced}", "(default: 0.9999)", "score_matching, likelihood,", "--config"):
        assert expected in text


@pytest.mark.parametrize("given, length, expected", [(None, 20, 2), (None, 4999, 500), (None, 10**6, 500), (0, 99, 0)])
def test_warm_up_is_a_tenth_of_the_run_and_at_most_500(given, length, expected):
    assert warmup_updates(given, length) == expected


def test_piecewise_constant_learning_rates_follow_their_rules(images, tmp_path):
    options = ["--train_data_dir", str(images), *SIZE, *QUICK, "--max_train_steps", "5", "--learning_rate", "0.01"]
    options += ["--lr_scheduler", "piecewise_constant", "--lr_step_rules", "1:2,0.1:4,0.01"]
    trainer, rates = Trainer(parse_args([*options, "--output_dir", str(tmp_path / "run")])), []
    trainer.between_updates = lambda: rates.append(trainer.lr_scheduler.get_last_lr()[0])
    trainer.train()
    assert rates == pytest.approx([0.01, 0.001, 0.001, 0.0001, 0.0001])


# ------------------------------------------------------------------ logs and estimates


def test_a_missing_tracker_is_a_warning(monkeypatch, images, tmp_path):
    monkeypatch.setitem(tracking.INSTALLED, "tensorboard", lambda: False)
    options = ["--train_data_dir", str(images), *SIZE, *QUICK, "--output_dir", str(tmp_path / "run")]
    with pytest.warns(UserWarning, match="the package tensorboard is not installed, nothing is logged"):
        accelerator = tracking.make_accelerator(parse_args([*options, "--report_to", "tensorboard"]))
    assert accelerator.trackers == []


def test_losses_of_noise_bands_average_to_the_loss(images, tmp_path):
    options = ["--train_data_dir", str(images), *SIZE, *QUICK, "--max_train_steps", "3", "--logging_steps", "1"]
    output = tmp_path / "run"
    trainer = Trainer(parse_args([*options, "--report_to", "tensorboard", "--output_dir", str(output)]))
    counts, log = [], trainer._log
    trainer._log = lambda totals: (counts.append(totals[:, 1].tolist()), log(totals))[1]
    trainer.train()
    trainer.accelerator.end_training()
    scalars = EventAccumulator(str(output / "logs" / "run")).Reload()
    logged = {tag: {event.step: event.value for event in scalars.Scalars(tag)} for tag in scalars.Tags()["scalars"]}
    names = trainer.metric_names[1:]
    assert len(names) == 5 and names[0].startswith("loss_log_snr_-10.0")  # of t = 1 under VP: log(alpha^2 / sigma^2)
    for step, count in enumerate(counts, start=1):
        bands = [(count[1 + k], logged[name][step]) for k, name in enumerate(names) if count[1 + k]]
        assert sum(n for n, _ in bands) == count[0] == 4
        mean = sum(n * value for n, value in bands) / 4
        assert mean == pytest.approx(logged["loss"][step], rel=1e-5)


def test_estimates_are_readable():
    assert [readable_seconds(s) for s in (42, 720, 12_345)] == ["42 s", "12 min", "3 h 26 min"]
    assert [readable_bytes(b) for b in (1.234e7, 4.5678e9)] == ["12.3 MB", "4.57 GB"]
    text = time_report(0.25, 14_400, torch.device("cpu"))
    assert text.startswith("0.25 s an update, 1 h 0 min to the end; ") and text.endswith("memory in use")


def test_the_size_of_the_run_is_told_before_and_its_time_after_some_updates(images, tmp_path, capsys):
    options = ["--train_data_dir", str(images), *SIZE, *QUICK, "--max_train_steps", "7", "--ema_widths", "0.1"]
    Trainer(parse_args([*options, "--output_dir", str(tmp_path / "run")])).train()
    printed = capsys.readouterr().out
    network = DDPMpp(sample_size=8, block_out_channels=(8,), layers_per_block=1, attention_resolutions=())
    count = sum(parameter.numel() for parameter in network.parameters())
    # Weights, gradients, two moments and two averages, four bytes each.
    assert f"{count / 1e6:.2f} M parameters; weights, gradients" in printed
    assert f"take {readable_bytes(24 * count)}" in printed
    assert "s an update, 0 s to the end" in printed
    assert printed.count("activations of 4 images take ") == 1
    assert printed.index("parameters; weights") < printed.index("activations of") < printed.index("s an update")


def test_activations_are_what_the_backward_pass_needs():
    network, x = (
        torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.Tanh(), torch.nn.Linear(20, 30)),
        torch.ones(7, 10),
    )
    kept = Activations(network)
    with kept:
        network(x).square().sum().backward()
    # The input, the hyperbolic tangent (which both of its neighbours need) and the output, four bytes each; no weights.
    assert kept.size == 4 * 7 * (10 + 20 + 30)


# ------------------------------------------------------------------ from Python, and averages of a run


def test_images_are_mirrored_by_their_own_draw(images, tmp_path):
    options = ["--train_data_dir", str(images), *SIZE, *QUICK, "--random_flip", "--output_dir", str(tmp_path / "run")]
    run = Trainer(parse_args(options))
    indices = next(iter(run.source.indices(0)))
    batch, originals = run.source.next_batch(run.source.read(0), 0, 0, 0), run.images[indices]
    mirrored = ImageDraws(0, 0, 4).flip < 0.5
    for ours, original, flip in zip(batch.images, originals, mirrored):
        assert torch.equal(ours, original.flip(-1) if flip else original)
    assert 0 < mirrored.sum() < 4


def test_an_objective_given_from_python_is_minimised(images, tmp_path):
    options = ["--train_data_dir", str(images), *SIZE, *QUICK, "--max_train_steps", "1", "--logging_steps", "1"]
    losses = {}
    for name, factor in (("one", 1.0), ("three", 3.0)):
        AcceleratorState._reset_state(reset_partial_state=True)
        objective = Objective(lambda sde, t, factor=factor: factor * sde.sigma(t) ** 2, name=name)
        trainer = Trainer(parse_args([*options, "--output_dir", str(tmp_path / name)]), objective=objective)
        trainer._log = lambda totals, name=name: losses.update({name: (totals[0, 0] / totals[0, 1]).item()})
        trainer.train()
        trainer.finish()
    assert losses["three"] == pytest.approx(3 * losses["one"], rel=1e-6)
    assert "- objective: three" in (tmp_path / "three" / "README.md").read_text()


def test_accumulation_steps_divide_the_batch_and_change_nothing_else(images, tmp_path):
    options = [
        "--train_data_dir",
        str(images),
        *SIZE,
        *QUICK,
        "--dropout",
        "0",
        "--random_flip",
        "--max_train_steps",
        "3",
    ]
    weights = []
    for size, steps in ((8, 1), (4, 2), (2, 4)):
        AcceleratorState._reset_state(reset_partial_state=True)
        division = ["--train_batch_size", str(size), "--gradient_accumulation_steps", str(steps)]
        run = Trainer(parse_args([*options, *division, "--output_dir", str(tmp_path / str(size))]))
        run.train()
        weights.append(run.network.state_dict())
    for other in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5)


def test_averages_of_a_run_go_on_after_a_resume(images, tmp_path):
    options = ["--train_data_dir", str(images), *SIZE, *QUICK, "--max_train_steps", "6", "--ema_widths", "0.05", "0.1"]
    options += ["--ema_snapshots", "3", "--lr_warmup_steps", "0"]
    whole, weights = Trainer(parse_args([*options, "--output_dir", str(tmp_path / "whole")])), []
    whole.between_updates = lambda: weights.append(whole.network.conv_in.weight.detach().clone())
    whole.train()
    for average in whole.averages.models:
        profile = profile_weights(gamma_of(average.sigma_rel), 6)
        expected = sum(float(p) * w for p, w in zip(profile, weights))
        torch.testing.assert_close(average.model.conv_in.weight.data, expected, rtol=1e-5, atol=1e-6)
    whole.checkpoints.close()

    for last, resume in (("4", []), ("6", ["--resume_from_checkpoint", "latest"])):
        AcceleratorState._reset_state(reset_partial_state=True)
        steps = ["--checkpointing_steps", "4", "--max_train_steps", last]
        parts = Trainer(parse_args([*options, *steps, *resume, "--output_dir", str(tmp_path / "parts")]))
        parts.train()
        parts.checkpoints.close()
    for ours, theirs in zip(parts.averages.models, whole.averages.models):
        assert ours.num_updates == 6
        assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), theirs.model.parameters()))
    index = json.loads((tmp_path / "whole" / "ema_snapshots" / "snapshots.json").read_text())
    assert [(entry["sigma_rel"], entry["updates"]) for entry in index] == [
        (width, n) for n in (2, 4, 6) for width in (0.05, 0.1)
    ]


def test_the_names_that_need_no_torch_are_those_of_the_tables():
    assert set(argument_choices.OBJECTIVES) == set(objectives.OBJECTIVES)
    assert set(argument_choices.SDES) == set(pipeline_loading.SCHEDULERS)
    assert set(argument_choices.NETWORKS) == set(pipeline_loading.NETWORKS)
    assert argument_choices.PREDICTION_TYPES == PREDICTION_TYPES
