"""Trace estimators against matrices whose trace is known."""

import pytest
import torch
from given_probes import GivenProbes
from torch import Tensor

from scoresde_pipelines.schedulers.divergence import (
    DIVERGENCES,
    ExactDivergence,
    HutchinsonDivergence,
    quadratic_forms,
)


MATRIX = torch.tensor([[2.0, 1.0, 0.0], [-3.0, 0.5, 4.0], [0.0, 1.0, -1.5]], dtype=torch.float64)


def linear(z: Tensor) -> Tensor:
    return z @ MATRIX.T


def curved(z: Tensor) -> Tensor:
    """Divergence: the sum of cos z."""
    return torch.sin(z) + torch.roll(z, 1, dims=1) ** 2


def begun(divergence, shape=(4, 3), seed=0):
    generators = [torch.Generator().manual_seed(seed + i) for i in range(shape[0])]
    divergence.begin(torch.zeros(shape), generators)
    return divergence


def test_exact_divergence():
    z, rows = torch.randn(4, 3, dtype=torch.float64), torch.arange(4)
    assert torch.allclose(ExactDivergence()(linear, z, rows), torch.full((1, 4), 1.0).double(), atol=1e-14)
    assert torch.allclose(ExactDivergence()(curved, z, rows)[0], torch.cos(z).sum(1), atol=1e-14)


def test_quadratic_forms_of_any_shape():
    z, probes = torch.randn(2, 1, 2, 2).double(), torch.randn(5, 2, 1, 2, 2)
    forms = quadratic_forms(lambda z: 3 * z, z, probes)
    assert torch.allclose(forms, 3 * probes.double().square().flatten(2).sum(2), atol=1e-12)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("shared", [False, True])
def test_hutchinson_has_the_right_mean_and_variance(distribution, shared):
    count = 5000
    divergence = begun(HutchinsonDivergence(count, distribution, shared), (1, 3))
    estimates = divergence(linear, torch.zeros(1, 3).double(), torch.arange(1))[:, 0]
    symmetric = (MATRIX + MATRIX.T) / 2
    variance = 2 * symmetric.square().sum()
    if distribution == "rademacher":
        variance = variance - 2 * symmetric.diagonal().square().sum()
    assert float(estimates.mean()) == pytest.approx(1.0, abs=4 * float((variance / count).sqrt()))
    assert float(estimates.var()) == pytest.approx(float(variance), rel=0.1)


def test_shared_probes_stay_and_others_change():
    z, rows = torch.randn(4, 3).double(), torch.arange(4)
    shared = begun(DIVERGENCES["hutchinson_shared"](2, "rademacher"))
    assert torch.equal(shared(linear, z, rows), shared(linear, z, rows))
    fresh = begun(DIVERGENCES["hutchinson"](2, "gaussian"))
    assert not torch.equal(fresh(linear, z, rows), fresh(linear, z, rows))


@pytest.mark.parametrize("name", ["hutchinson", "hutchinson_shared"])
def test_probes_depend_on_the_samples_generator_alone(name):
    z = torch.randn(4, 3).double()
    together = begun(DIVERGENCES[name](3, "gaussian"))
    first, second = together(curved, z, torch.arange(4)), together(curved, z[[0, 2]], torch.tensor([0, 2]))
    alone = begun(DIVERGENCES[name](3, "gaussian"), (1, 3), seed=2)
    assert torch.allclose(alone(curved, z[2:3], torch.arange(1))[:, 0], first[:, 2], atol=1e-12)
    assert torch.allclose(alone(curved, z[2:3], torch.arange(1))[:, 0], second[:, 1], atol=1e-12)


def test_given_probes():
    probes = torch.tensor([[[1.0, -1.0, 1.0]], [[1.0, 1.0, 1.0]]])
    forms = begun(GivenProbes(probes), (1, 3))(linear, torch.zeros(1, 3).double(), torch.arange(1))
    assert torch.allclose(
        forms[:, 0], torch.einsum("ki,ij,kj->k", *(p.double() for p in (probes[:, 0],)), MATRIX, probes[:, 0].double())
    )
    with pytest.raises(ValueError, match="probes must have shape"):
        begun(GivenProbes(probes), (2, 3))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_probes"):
        HutchinsonDivergence(0)
    with pytest.raises(ValueError, match="distribution"):
        HutchinsonDivergence(1, "uniform")
