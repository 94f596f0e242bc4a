"""Dequantization against cell probabilities that are known in closed form."""

import math

import pytest
import torch
from golden_toys import SDES
from torch import Tensor

from scoresde_pipelines.models import GaussianScoreModel
from scoresde_pipelines.schedulers.dequantization import DEQUANTIZATIONS, PixelCells
from scoresde_pipelines.schedulers.log_mass import combine


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def cell_log_mass(mean: float, std: float, centres: Tensor, width: float) -> Tensor:
    """log of a Gaussian's mass in the cells, summed over dimensions."""
    edges = torch.stack([centres - width / 2, centres + width / 2])
    upper, lower = 0.5 * torch.erfc(-(edges.flip(0) - mean) / (std * math.sqrt(2)))
    return torch.log(upper - lower).flatten(1).sum(1)


def test_cells_tile_any_range():
    pixels = torch.tensor([[0, 255]])
    assert torch.allclose(PixelCells(-1, 1).centres(pixels), torch.tensor([[-1.0, 1.0]]).double())
    assert PixelCells(-1, 1).width == pytest.approx(2 / 255)
    official = PixelCells(0, 1, official=True)
    assert torch.allclose(official.centres(pixels), torch.tensor([[0.5 / 256, 255.5 / 256]]).double())
    assert official.width == pytest.approx(1 / 256)
    assert torch.allclose(PixelCells(-3, 5, levels=5).centres(torch.tensor([[2]])), torch.tensor([[1.0]]).double())


def test_uniform_noise_is_the_official_offset():
    # The official code adds 7 bits for [-1, 1] and 8 for [0, 1].
    for low, bits in ((-1.0, 7.0), (0.0, 8.0)):
        cells = PixelCells(low, 1.0, official=True)
        centres = cells.centres(torch.zeros(1, 6, dtype=torch.int64))
        noisy = DEQUANTIZATIONS["uniform"](SDES["vp"], centres, cells.width, 1e-5, generators(1))
        assert float(noisy.log_q) / (6 * math.log(2)) == pytest.approx(bits)
        assert bool(((noisy.x - low) * 256 / (1 - low) <= 1).all()) and bool((low <= noisy.x).all())


@pytest.mark.parametrize("sde", SDES)
def test_truncated_normal_fills_the_cell(sde):
    width, count = 2 / 255, 4000
    centres = torch.full((count, 3), 0.25, dtype=torch.float64)
    noisy = DEQUANTIZATIONS["truncated_normal"](SDES[sde], centres, width, 1e-5, generators(count))
    t = torch.tensor(noisy.t, dtype=torch.float64)
    alpha, sigma = float(SDES[sde].alpha(t)), float(SDES[sde].sigma(t))
    offsets = (noisy.x - alpha * centres) / (alpha * width)
    assert float(offsets.abs().max()) <= 0.5
    if sde == "ve":  # sigma_min is wider than the cell: the noise is cut off to nearly uniform
        assert noisy.t == 1e-5
    else:
        assert alpha * width / (2 * sigma) == pytest.approx(3.0, rel=1e-6)
    # The density that log_q claims: its mean log against the closed form of the truncated normal's entropy.
    cut = alpha * width / (2 * sigma)
    mass, edge = math.erf(cut / math.sqrt(2)), math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    entropy = math.log(math.sqrt(2 * math.pi * math.e) * sigma * mass) - cut * edge / mass
    assert float(-noisy.log_q.mean() / 3) == pytest.approx(entropy, abs=0.03)


@pytest.mark.parametrize("kind", ["uniform", "truncated_normal"])
@pytest.mark.parametrize("sde", SDES)
def test_importance_weights_give_the_mass_of_the_cell(kind, sde):
    """With many draws the bound is the model's mass in the cell, whatever the noise."""
    cells, draws = PixelCells(-1.0, 1.0, levels=16), 4000
    data = GaussianScoreModel([0.1, -0.1], 0.01)
    centres = cells.centres(torch.tensor([[8, 7]]))
    noisy = DEQUANTIZATIONS[kind](SDES[sde], centres.expand(draws, 2), cells.width, 1e-5, generators(draws))
    t = torch.tensor(noisy.t, dtype=torch.float64)
    alpha, sigma = float(SDES[sde].alpha(t)), float(SDES[sde].sigma(t))
    log_weights = (data.log_prob(SDES[sde], noisy.x, t) - noisy.log_q)[:, None]
    zero = torch.zeros_like(log_weights)
    tight = combine(log_weights, zero, zero, noisy=True, importance_weighted=True)
    loose = combine(log_weights, zero, zero, noisy=True, importance_weighted=False)
    std = math.sqrt(alpha**2 * 0.01 + sigma**2)
    exact = sum(
        cell_log_mass(alpha * mean, std, alpha * centres[:, i : i + 1], alpha * cells.width)
        for i, mean in enumerate((0.1, -0.1))
    )
    assert abs(float(tight.value - exact)) < 4 * float(tight.dequantization_error)
    assert float(tight.dequantization_error) < 0.06
    assert float(loose.value) < float(tight.value)


def test_none_is_the_density_times_the_volume():
    centres = PixelCells(-1.0, 1.0).centres(torch.tensor([[3, 200]]))
    still = DEQUANTIZATIONS["none"](SDES["vp"], centres, 2 / 255, 1e-5, generators(1))
    assert torch.equal(still.x, centres)
    assert float(still.log_q) == pytest.approx(-2 * math.log(2 / 255))


def test_combine_splits_the_errors():
    log_weights = torch.tensor([[1.0, 0.0], [3.0, 0.0]]).double()
    probe, solver = torch.full((2, 2), 0.5).double(), torch.full((2, 2), 0.1).double()
    mean = combine(log_weights, probe, solver, noisy=True, importance_weighted=False)
    assert mean.value.tolist() == [2.0, 0.0]
    assert mean.probe_error.tolist() == pytest.approx([0.5 / math.sqrt(2)] * 2)
    assert mean.dequantization_error.tolist() == pytest.approx([math.sqrt((2 - 0.25) / 2), 0.0])
    assert mean.solver_error.tolist() == pytest.approx([0.1, 0.1])
    total = math.sqrt(0.125 + 0.875 + 0.01)
    assert mean.standard_error.tolist() == pytest.approx([total, math.sqrt(0.125 + 0.01)])
    tight = combine(log_weights, 0 * probe, solver, noisy=True, importance_weighted=True)
    assert tight.value.tolist() == pytest.approx([math.log((math.e + math.e**3) / 2), 0.0])
    alone = combine(log_weights[:1], probe[:1], solver[:1], noisy=True, importance_weighted=False)
    assert bool(alone.dequantization_error.isnan().all()) and not bool(alone.standard_error.isnan().any())
    still = combine(log_weights[:1], probe[:1], solver[:1], noisy=False, importance_weighted=False)
    assert still.dequantization_error.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        (torch.zeros(1, 2), TypeError, "integers"),
        (torch.tensor([[256]]), ValueError, "0 ... 255"),
        (torch.tensor([[-1]]), ValueError, "0 ... 255"),
    ],
)
def test_bad_pixels_are_named(pixels, error, message):
    with pytest.raises(error, match=message):
        PixelCells(0.0, 1.0).centres(pixels)
