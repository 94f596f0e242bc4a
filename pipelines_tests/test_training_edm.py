"""Preconditioned training from the command line: what is measured, the network, what an untrained one denoises to."""

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from scoresde_pipelines import ScoreSdePipeline
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.objectives import EDMWeighting
from scoresde_pipelines.training.trainer import Trainer


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


SIZE = ["--block_out_channels", "8", "--layers_per_block", "1", "--attention_resolutions", "--resolution", "4"]
QUICK = ["--train_batch_size", "8", "--eval_batch_size", "0", "--cpu", "--report_to", "none"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Gray images, half of them black and half of them 3/5 of white: in [0, 1] mean 0.3 and standard deviation 0.3."""
    folder = tmp_path_factory.mktemp("images")
    for k in range(8):
        Image.fromarray(np.full((4, 4), 153 * (k % 2), dtype=np.uint8)).save(folder / f"{k}.png")
    return folder


def trainer(images, output, *more):
    return Trainer(parse_args(["--train_data_dir", str(images), "--output_dir", str(output), *SIZE, *QUICK, *more]))


@pytest.mark.parametrize("sde, mean, std", [("ve", 0.3, 0.3), ("vp", -0.4, 0.6), ("subvp", -0.4, 0.6)])
def test_mean_and_standard_deviation_of_the_data_are_measured(images, tmp_path, capsys, sde, mean, std):
    run = trainer(images, tmp_path, "--sde", sde, "--recipe", "edm", "--max_train_steps", "2")
    config, network = run.components.scheduler.config, run.network.config
    assert config.prediction_type == "edm"
    assert (config.data_mean, config.sigma_data) == pytest.approx((mean, std), abs=1e-4)
    assert not network.scale_by_sigma and not network.center_input_sample
    assert run.objective.name == "edm" and run.objective.weighting == EDMWeighting(config.sigma_data)
    assert f"data: mean {mean:g}, standard deviation {std:g}" in capsys.readouterr().out
    run.train()
    run.finish()
    pipeline = ScoreSdePipeline.from_pretrained(tmp_path)
    assert pipeline.scheduler.config.sigma_data == config.sigma_data
    assert pipeline.scheduler.config.data_mean == config.data_mean
    assert f"sigma_data {config.sigma_data}, mean {config.data_mean}" in (tmp_path / "README.md").read_text()


def test_given_numbers_are_taken(images, tmp_path):
    run = trainer(images, tmp_path / "given", "--prediction_type", "edm", "--sigma_data", "0.5", "--data_mean", "0.1")
    assert (run.components.scheduler.config.sigma_data, run.components.scheduler.config.data_mean) == (0.5, 0.1)
    assert (
        run.objective.name == "edm" == run.args.objective
    )  # the default for this prediction type; stored with the run
    AcceleratorState._reset_state(reset_partial_state=True)
    # A given mean: the standard deviation is measured about it.
    run = trainer(images, tmp_path / "auto", "--prediction_type", "edm", "--sigma_data", "auto", "--data_mean", "0",
                  "--objective", "score_matching")  # fmt: skip
    assert run.objective.name == "score_matching"
    assert run.components.scheduler.config.sigma_data == pytest.approx((0.36 + 0.16) ** 0.5, abs=1e-4)


def test_the_loss_of_an_untrained_network_is_that_of_the_gaussian_denoiser(images, tmp_path):
    # F = 0 (the last layer starts at zero): E |F*|^2 = 1 for data of mean m and standard deviation s, at every time.
    run = trainer(images, tmp_path, "--recipe", "edm", "--sde", "ve", "--max_train_steps", "60")
    run.model = lambda x, time: torch.zeros_like(x)
    losses = []
    for update in range(200):
        run.step, run.images_seen = update, 8 * update
        batch = run.source.next_batch(run.source.read(8 * update), update, 0, 8 * update)
        losses.append(run.losses(batch)[0].item())
    assert np.mean(losses) == pytest.approx(1.0, abs=0.05)


def test_the_recipe_fine_tunes_a_pretrained_edm_network(images, tmp_path):
    first = trainer(images, tmp_path / "first", "--recipe", "edm", "--sde", "ve", "--max_train_steps", "1")
    first.train()
    first.finish()
    config = first.components.scheduler.config
    AcceleratorState._reset_state(reset_partial_state=True)
    same = ["--dropout", "0", "--sigma_data", str(config.sigma_data), "--data_mean", str(config.data_mean)]
    pretrained = ["--pretrained_model_name_or_path", str(tmp_path / "first")]
    run = trainer(images, tmp_path / "second", *pretrained, "--recipe", "edm", *same)
    ours = run.components.scheduler.config
    assert (ours.prediction_type, ours.sigma_data, ours.data_mean) == ("edm", config.sigma_data, config.data_mean)
    assert run.objective.name == "edm"
    for name, value in ScoreSdePipeline.from_pretrained(tmp_path / "first").unet.state_dict().items():
        torch.testing.assert_close(run.components.unet.state_dict()[name], value)
    AcceleratorState._reset_state(reset_partial_state=True)
    for words, message in [
        (["--dropout", "0.5"], r"dropout must be the pretrained network's, 0.0, or left out, got 0.5"),
        (["--prediction_type", "score"], "prediction_type must be the pretrained network's, 'edm', .* got 'score'"),
        (["--sigma_data", "0.7"], f"sigma_data must be the pretrained network's, {config.sigma_data}, .* got 0.7"),
        (["--network", "ddpmpp"], "network must be the pretrained network's, 'ncsnpp', .* got 'ddpmpp'"),
    ]:
        with pytest.raises(ValueError, match=message):
            trainer(images, tmp_path / "third", *pretrained, *words)
        AcceleratorState._reset_state(reset_partial_state=True)
