"""The metrics against closed forms, float64 references and torchmetrics; their standard errors against repeated draws."""

import math

import pytest
import torch

from scoresde_pipelines.training.evaluation import (
    CopyThreshold,
    frechet_between,
    frechet_distance,
    frechet_estimates,
    inception_score,
    kernel_distance,
    precision_recall,
)
from scoresde_pipelines.training.evaluation.estimate import Estimate, mean_estimate, over_seeds
from scoresde_pipelines.training.evaluation.frechet import moments
from scoresde_pipelines.training.evaluation.neighbours import kth_distance, nearest


def gaussian(count, size=4, shift=0.0, scale=1.0, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) * scale + shift


# ---------------------------------------------------------------------- kernel distance


def test_kid_of_three_points_by_hand():
    # D = 1, k(a, b) = (ab + 1)^3. x = 0, 1, 2: pairs 1, 1, 27; y = 0, 0, 1: pairs 1, 1, 1; across, row by row.
    x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [0.0], [1.0]])
    across = (1 + 1 + 1) + (1 + 1 + 8) + (1 + 1 + 27)
    expected = (1 + 1 + 27) / 3 + (1 + 1 + 1) / 3 - 2 * across / 9
    assert kernel_distance(x, y).value == pytest.approx(expected, rel=1e-14)


def test_kid_equals_torchmetrics_on_the_whole_set():
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = gaussian(60, 16).double(), gaussian(60, 16, shift=0.5, seed=1).double()
    metric = kid.KernelInceptionDistance(torch.nn.Identity(), subsets=1, subset_size=60).set_dtype(torch.float64)
    metric.update(y, real=True)
    metric.update(x, real=False)
    assert kernel_distance(x, y).value == pytest.approx(float(metric.compute()[0]), rel=1e-10)


def test_kid_is_blind_to_blocks_and_its_jackknife_is_the_brute_force_one(monkeypatch):
    x, y = gaussian(13), gaussian(9, shift=0.3, seed=1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("scoresde_pipelines.training.evaluation.kid.BLOCK", 4)
    blocks = kernel_distance(x, y)
    assert blocks.value == pytest.approx(whole.value, rel=1e-12) and blocks.se == pytest.approx(whole.se, rel=1e-12)

    def without(features, index):
        return torch.cat([features[:index], features[index + 1 :]])

    def variance(values):
        values = torch.tensor(values, dtype=torch.float64)
        return (len(values) - 1) * values.var(correction=0)

    total = variance([kernel_distance(without(x, i), y).value for i in range(13)])
    total += variance([kernel_distance(x, without(y, j)).value for j in range(9)])
    assert whole.se == pytest.approx(math.sqrt(total), rel=1e-9)


@pytest.mark.parametrize("shift, low, high", [(0.0, 0.9, 1.7), (1.0, 0.85, 1.2)])
def test_kid_is_unbiased_and_its_error_covers(shift, low, high):
    found = [kernel_distance(gaussian(40, seed=2 * i), gaussian(50, shift=shift, seed=2 * i + 1)) for i in range(200)]
    values = torch.tensor([estimate.value for estimate in found], dtype=torch.float64)
    # The three terms of the squared discrepancy between N(0, I) and N(shift, I), each in closed form.
    expected = sum(sign * kernel_mean(m, n) for sign, m, n in [(1, 0, 0), (1, shift, shift), (-2, 0, shift)])
    error = float(values.std() / math.sqrt(len(values)))
    assert abs(float(values.mean()) - expected) < 4 * error
    typical = math.sqrt(sum(estimate.se**2 for estimate in found) / len(found))
    assert low < typical / float(values.std()) < high


def kernel_mean(m, n, size=4):
    """E (1 + a.b / D)^3 for a ~ N(m 1, I), b ~ N(n 1, I) in D dimensions, from the cumulants of the sum of D products."""
    mean = m * n
    variance = (1 + m**2 + n**2) / size
    third = 6 * m * n / size**2
    u = 1 + mean
    return u**3 + 3 * u * variance + third


# ---------------------------------------------------------------------- Frechet distance


def test_distance_from_samples_is_that_of_their_moments_and_of_scipy():
    scipy_linalg = pytest.importorskip("scipy.linalg")
    x, y = gaussian(50, 6).double(), gaussian(70, 6, shift=0.4, scale=1.5, seed=1).double()
    (m1, c1), (m2, c2) = moments(x), moments(y)
    root = scipy_linalg.sqrtm((c1 @ c2).numpy()).real
    expected = float((m1 - m2).square().sum() + c1.trace() + c2.trace()) - 2 * root.trace()
    assert frechet_between(x, y) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-10)


def test_distance_of_fewer_images_than_features(monkeypatch):
    x, y = gaussian(5, 12), gaussian(7, 12, shift=0.3, seed=1)
    expected = frechet_distance(*moments(x), *moments(y))
    assert frechet_between(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_between(x, x) == pytest.approx(0.0, abs=1e-12)
    x = gaussian(40, 12)  # the factor of 40 rows, seven at a time
    expected = frechet_between(x, y)
    monkeypatch.setattr("scoresde_pipelines.training.evaluation.frechet.BLOCK", 7)
    assert frechet_between(x, y) == pytest.approx(expected, rel=1e-12)


def test_fd_equals_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    identity = torch.nn.Identity()
    identity.num_features = 8
    x, y = gaussian(100, 8).double(), gaussian(120, 8, shift=0.5, scale=1.3, seed=1).double()
    metric = fid.FrechetInceptionDistance(identity).set_dtype(torch.float64)
    metric.update(y, real=True)
    metric.update(x, real=False)
    assert frechet_between(x, y) == pytest.approx(float(metric.compute()), rel=1e-8)


def test_extrapolation_removes_the_bias_and_the_errors_cover():
    # N(0, 1) against N(0.5, 1.2^2) in each of 5 dimensions: d^2 = 5 (0.25 + 0.04) = 1.45.
    found = [
        frechet_estimates(gaussian(200, 5, seed=2 * i), gaussian(200, 5, shift=0.5, scale=1.2, seed=2 * i + 1))
        for i in range(60)
    ]
    values = {name: torch.tensor([f[name].value for f in found]) for name in ("fd", "fd_infinity")}
    error = float(values["fd_infinity"].std()) / math.sqrt(60)
    assert float(values["fd"].mean()) > 1.45 + 3 * error  # biased upwards
    assert abs(float(values["fd_infinity"].mean()) - 1.45) < 3.5 * error
    for name in ("fd", "fd_infinity"):
        ratio = math.sqrt(sum(f[name].se ** 2 for f in found) / 60) / float(values[name].std())
        assert 0.75 < ratio < 1.5, name


def test_extrapolation_is_the_line_through_the_block_means():
    x, y = gaussian(24, 2), gaussian(24, 2, shift=0.5, seed=1)
    blocks = [
        sum(frechet_between(a, b) for a, b in zip(x.chunk(count), y.chunk(count))) / count for count in (1, 2, 3, 4)
    ]
    # Least squares on places 1 ... 4: the intercept is mean - slope * 2.5.
    slope = sum((place - 2.5) * value for place, value in zip((1, 2, 3, 4), blocks)) / 5
    expected = sum(blocks) / 4 - 2.5 * slope
    assert frechet_estimates(x, y)["fd_infinity"].value == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------------- Inception score


def test_inception_score_between_its_ends():
    certain = torch.eye(5).repeat(4, 1) * 1000
    assert inception_score(certain).value == pytest.approx(5.0, rel=1e-12)
    assert inception_score(torch.ones(8, 5)).value == pytest.approx(1.0, rel=1e-12)
    # Two images, p and 1 - p of two classes: KL to one half, twice the same.
    p = 0.8
    logits = torch.tensor([[p, 1 - p], [1 - p, p]]).double().log()
    expected = math.exp(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert inception_score(logits).value == pytest.approx(expected, rel=1e-12)


def test_inception_score_equals_torchmetrics_with_one_split():
    inception = pytest.importorskip("torchmetrics.image.inception")
    logits = 3 * gaussian(50, 10).double()
    metric = inception.InceptionScore(torch.nn.Identity(), splits=1).set_dtype(torch.float64)
    metric.update(logits)
    assert inception_score(logits).value == pytest.approx(float(metric.compute()[0]), rel=1e-10)


def test_error_of_the_inception_score_covers():
    found = [inception_score(2 * gaussian(80, 6, seed=i)) for i in range(200)]
    spread = float(torch.tensor([f.value for f in found]).std())
    assert sum(f.se for f in found) / 200 == pytest.approx(spread, rel=0.2)


# ---------------------------------------------------------------------- neighbours


def test_precision_recall_density_coverage_by_brute_force():
    generated, real, k = gaussian(30, 3, shift=1.0).double(), gaussian(20, 3, seed=1).double(), 4

    def radius(points):
        return [sorted(float((p - q).norm()) for q in points)[k] for p in points]  # the first is the point itself

    across = [[float((g - r).norm()) for r in real] for g in generated]
    real_radius, generated_radius = radius(real), radius(generated)
    balls = [sum(across[j][i] <= real_radius[i] for i in range(20)) for j in range(30)]
    expected = {
        "precision": sum(b > 0 for b in balls) / 30,
        "recall": sum(any(across[j][i] <= generated_radius[j] for j in range(30)) for i in range(20)) / 20,
        "density": sum(balls) / 30 / k,
        "coverage": sum(any(across[j][i] <= real_radius[i] for j in range(30)) for i in range(20)) / 20,
    }
    found = precision_recall(generated, real, k)
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(expected, rel=1e-12)
    assert 0 < expected["coverage"] < 1 and 0 < expected["precision"] < 1
    share = expected["precision"]
    assert found["precision"].se == pytest.approx(math.sqrt(share * (1 - share) / 29), rel=1e-9)


def test_neighbours_do_not_depend_on_blocks(monkeypatch):
    generated, real = gaussian(30, 3), gaussian(20, 3, seed=1)
    whole = precision_recall(generated, real)
    monkeypatch.setattr("scoresde_pipelines.training.evaluation.neighbours.BLOCK", 7)
    assert precision_recall(generated, real) == whole
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert kth_distance(line, 1).tolist() == [1, 1, 2, 4]
    assert nearest(torch.tensor([[2.2]]), line, count=2)[1].tolist() == [[2, 1]]


def test_copies_of_training_images_are_found():
    training, held_out, fresh = (gaussian(300, 5, seed=seed) for seed in (0, 1, 2))
    threshold = CopyThreshold.measure(held_out, training)
    assert threshold.copies(held_out).value == pytest.approx(0.01, abs=1e-9)
    assert threshold.copies(fresh).value < 0.04
    mixed = torch.cat([fresh[:150], training[:150] + 1e-4])
    assert threshold.copies(mixed).value == pytest.approx(0.5, abs=0.02)


# ---------------------------------------------------------------------- estimates


def test_seeds_enter_the_error_where_they_scatter_more():
    pooled = Estimate(2.0, 0.1)
    assert over_seeds(pooled, [Estimate(5.0, 1.0)]) == pooled
    far = over_seeds(pooled, [Estimate(1.0, 0.1), Estimate(3.0, 0.1)])
    assert (far.value, far.per_seed) == (2.0, (1.0, 3.0))
    assert far.se == pytest.approx(1.0)  # std sqrt(2) over sqrt(2) seeds
    assert over_seeds(pooled, [Estimate(2.0, 0.1), Estimate(2.0, 0.1)]).se == 0.1
    assert mean_estimate(torch.tensor([1.0, 3.0, 5.0])) == Estimate(3.0, pytest.approx(2 / math.sqrt(3)))


def test_refusals_name_the_argument():
    with pytest.raises(ValueError, match=r"x must have shape \(N, D\) with N >= 3, got \(2, 4\)"):
        kernel_distance(gaussian(2), gaussian(9))
    with pytest.raises(ValueError, match="y must have 4 columns like x, got 3"):
        kernel_distance(gaussian(9), gaussian(9, 3))
    with pytest.raises(ValueError, match="real must have more than 5 rows, got 5"):
        precision_recall(gaussian(9), gaussian(5))
    with pytest.raises(ValueError, match=r"features must have shape \(N, D\) with N >= 2, got \(1, 4\)"):
        moments(gaussian(1))
