"""Averages whose width is chosen after training, against direct averages of known weights."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from scoresde_pipelines import DDPMpp, VPSDEScheduler
from scoresde_pipelines.cli import app
from scoresde_pipelines.training.pipeline_folder import Components, load_pipeline_folder, save_pipeline_folder
from scoresde_pipelines.training.posthoc_ema import (
    PowerAverages,
    SnapshotFolder,
    combine_snapshots,
    fit_profile,
    gamma_of,
    profile_weights,
    read_snapshots,
)


def weights_of_update(k: int) -> torch.Tensor:
    """Known weights: what the network holds after update k."""
    return torch.tensor([math.sin(0.05 * k), k / 100, (-1.0) ** k, 2.5], dtype=torch.float64)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((4,), 77.0, dtype=torch.float64))


def run(folder, updates: int, limit: int) -> PowerAverages:
    network = Network()
    averages = PowerAverages(network, (0.05, 0.1))
    snapshots = SnapshotFolder(folder, averages, updates, limit)
    for k in range(1, updates + 1):
        network.weight.data = weights_of_update(k)
        averages.update(network)
        snapshots.after_update(k, True)
    return averages


def direct(sigma_rel: float, updates: int) -> torch.Tensor:
    """sum_k p(k) w_k with the profile written out from eq. 3 by a product of decays."""
    gamma, total = gamma_of(sigma_rel), torch.zeros(4, dtype=torch.float64)
    for k in range(1, updates + 1):
        beta = (1 - 1 / k) ** (gamma + 1)
        total = beta * total + (1 - beta) * weights_of_update(k)
    return total


@pytest.mark.parametrize("sigma_rel, gamma", [(0.05, 16.97), (0.10, 6.94)])
def test_widths_are_those_of_the_paper(sigma_rel, gamma):
    # Karras et al. 2024, section 3.1: gamma = 16.97 and 6.94.
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_the_profile_has_the_width_and_sums_to_one(sigma_rel):
    # The standard deviation of k / n under the profile is sigma_rel (by its definition).
    weights, n = torch.from_numpy(profile_weights(gamma_of(sigma_rel), 20_000)), 20_000
    k = (torch.arange(n) + 1.0).double() / n
    mean = (weights * k).sum()
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert ((weights * (k - mean) ** 2).sum().sqrt()).item() == pytest.approx(sigma_rel, rel=1e-3)


def test_averages_follow_their_profile(tmp_path):
    averages = run(tmp_path, 60, 4)
    for average in averages.models:
        weights = torch.from_numpy(profile_weights(average.gamma, 60))
        expected = sum(weights[k - 1] * weights_of_update(k) for k in range(1, 61))
        torch.testing.assert_close(average.model.weight.data, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "sigma_rel, tolerance", [(0.05, 1e-9), (0.1, 1e-9), (0.06, 0.006), (0.075, 0.006), (0.09, 0.004)]
)
def test_a_width_chosen_afterwards_is_the_direct_average(tmp_path, sigma_rel, tolerance):
    run(tmp_path, 400, 20)
    tensors, fit = combine_snapshots(tmp_path / "ema_snapshots", sigma_rel)
    expected = direct(sigma_rel, 400)
    assert (tensors["weight"] - expected).abs().max().item() < tolerance
    assert fit.weights.sum() == pytest.approx(1, abs=1e-12)
    # Between the two widths the nearer of them is much further off than the combination.
    if sigma_rel == 0.075:
        nearest = min((direct(width, 400) - expected).abs().max().item() for width in (0.05, 0.1))
        assert nearest > 10 * (tensors["weight"] - expected).abs().max().item()


def test_the_reported_error_is_that_of_the_profiles():
    snapshots = [(width, n) for n in (50, 100, 150, 200) for width in (0.05, 0.1)]
    fit = fit_profile(snapshots, 0.075, 200)
    target = torch.from_numpy(profile_weights(gamma_of(0.075), 200))
    combined = torch.zeros(200, dtype=torch.float64)
    for (width, n), weight in zip(snapshots, fit.weights):
        combined[:n] += weight * torch.from_numpy(profile_weights(gamma_of(width), n))
    assert fit.error == pytest.approx(((combined - target).norm() / target.norm()).item(), rel=1e-6)
    assert 0 < fit.error < 0.05


def test_snapshots_are_bounded_and_what_a_resumed_run_repeats_is_dropped(tmp_path):
    averages = run(tmp_path, 100, 5)
    folder = SnapshotFolder(tmp_path, averages, 200, 5)
    averages.models[0].num_updates = averages.models[1].num_updates = 120
    folder.save(120, True)
    steps = [snapshot.step for snapshot in read_snapshots(folder.folder)]
    assert steps == [40, 40, 60, 60, 80, 80, 100, 100, 120, 120]
    assert len(list(folder.folder.glob("*.safetensors"))) == 10
    folder.drop_after(90, True)
    assert {snapshot.step for snapshot in read_snapshots(folder.folder)} == {40, 60, 80}
    assert sorted(path.name for path in folder.folder.iterdir())[0] == "0.05-00000040.safetensors"
    assert len(json.loads((folder.folder / "snapshots.json").read_text())) == 6


def test_the_command_writes_a_pipeline_with_the_combined_weights(tmp_path):
    torch.manual_seed(0)
    unet = DDPMpp(sample_size=8, block_out_channels=(8,), layers_per_block=1, attention_resolutions=())
    save_pipeline_folder(tmp_path, Components(unet, VPSDEScheduler(continuous=True), (-1.0, 1.0)), "# A run\n")
    averages = PowerAverages(unet, (0.05, 0.1))
    snapshots = SnapshotFolder(tmp_path, averages, 40, 8)
    bias, seen = unet.conv_out.bias, []
    for k in range(1, 41):
        bias.data = torch.full_like(bias, math.sin(k / 8))
        seen.append(bias.data.clone())
        averages.update(unet)
        snapshots.after_update(k, True)
    arguments = ["ema", str(tmp_path), "--sigma_rel", "0.08", "--output", str(tmp_path / "chosen")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    written = load_pipeline_folder(str(tmp_path / "chosen")).unet
    expected = (torch.from_numpy(profile_weights(gamma_of(0.08), 40)) * torch.stack(seen)[:, 0]).sum().item()
    assert written.conv_out.bias.tolist() == pytest.approx([expected] * 3, abs=0.01)
    assert torch.equal(written.conv_in.weight, unet.conv_in.weight)
    assert "width 0.08" in (tmp_path / "chosen" / "README.md").read_text()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code != 0 and "exists" in again.output


def test_a_run_without_snapshots_is_named(tmp_path):
    with pytest.raises(ValueError, match="folder must hold snapshots of a run with --ema_widths"):
        combine_snapshots(tmp_path, 0.07)
    with pytest.raises(ValueError, match=r"sigma_rel must be between 0 and 0\.288, got 0\.3"):
        gamma_of(0.3)
