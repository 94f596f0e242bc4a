"""Log-likelihoods against closed-form densities, the official figures and their own error bars."""

import math

import numpy as np
import pytest
import torch
from given_probes import GivenProbes
from golden_networks import network_score
from golden_toys import SDES, Golden
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde_pipelines.models import GaussianMixtureScoreModel, GaussianScoreModel
from scoresde_pipelines.schedulers import SDE
from scoresde_pipelines.schedulers.likelihood import log_likelihood


EPS = 1e-5


@pytest.fixture(scope="module")
def golden(shared_dir):
    return Golden(shared_dir)


def correlated(dimensions: int) -> GaussianScoreModel:
    generator = torch.Generator().manual_seed(dimensions)
    factor = torch.randn(dimensions, dimensions, dtype=torch.float64, generator=generator) / dimensions**0.5
    mean = torch.rand(dimensions, dtype=torch.float64, generator=generator)
    return GaussianScoreModel(mean, covariance=0.2 * factor @ factor.T + 0.001 * torch.eye(dimensions).double())


def mixture(dimensions: int) -> GaussianMixtureScoreModel:
    generator = torch.Generator().manual_seed(dimensions)
    means = 0.5 * torch.randn(5, dimensions, dtype=torch.float64, generator=generator)
    return GaussianMixtureScoreModel(torch.ones(5), means, [0.05, 0.02, 0.01, 0.005, 0.002])


def image_like(side: int = 8) -> GaussianScoreModel:
    """Neighbouring pixels are correlated, as in images."""
    i = torch.arange(side, dtype=torch.float64)
    line = torch.exp(-(i[:, None] - i[None]).abs() / 3)
    covariance = 0.1 * torch.kron(line, line) + 1e-3 * torch.eye(side**2).double()
    return GaussianScoreModel(torch.zeros(1, side, side), covariance=covariance)


def score_of(data: GaussianMixtureScoreModel, sde: SDE):
    return lambda x, t: data.score(sde, x, t)


def exact_log_prob(data: GaussianMixtureScoreModel, sde: SDE, x: Tensor, latents: Tensor) -> Tensor:
    """The model's density at `x`: the data's at t = eps, corrected for a prior that is not quite the data's at T."""
    one = torch.ones((), dtype=torch.float64)
    return data.log_prob(sde, x, EPS * one) + sde.prior_log_prob(latents) - data.log_prob(sde, latents, one)


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("dimensions", [1, 2, 8, 64])
@pytest.mark.parametrize("model", [correlated, mixture])
@pytest.mark.parametrize("name", SDES)
def test_exact_divergence_gives_the_density(name, model, dimensions):
    sde, data = SDES[name], model(dimensions)
    x = data.sample(4, torch.Generator().manual_seed(1))
    result = log_likelihood(score_of(data, sde), sde, x, divergence="exact")
    error = (result.log_prob - exact_log_prob(data, sde, x, result.latents)).abs()
    assert float(error.max()) / (dimensions * math.log(2)) < 1e-4
    assert float(result.probe_error.abs().max()) == 0
    assert bool((error <= 5 * result.solver_error + 2e-6 * dimensions).all())


@pytest.mark.parametrize("name", SDES)
def test_density_integrates_to_one(name):
    sde, data = SDES[name], mixture(2)
    line = torch.linspace(-2.5, 2.5, 71, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    result = log_likelihood(score_of(data, sde), sde, grid, divergence="exact", tolerance=1e-4)
    assert float(result.log_prob.exp().sum() * (line[1] - line[0]) ** 2) == pytest.approx(1.0, abs=2e-3)


def test_the_latents_are_those_of_the_flow():
    sde, data = SDES["vp"], correlated(4)
    x = data.sample(5, torch.Generator().manual_seed(1))
    result = log_likelihood(score_of(data, sde), sde, x, divergence="exact", tolerance=1e-8)
    alpha, sigma = (c(torch.tensor([EPS, 1.0], dtype=torch.float64)) for c in (sde.alpha, sde.sigma))
    spread = (alpha[:, None] ** 2 * data.eigenvalues[0] + sigma[:, None] ** 2).sqrt()
    basis = data.eigenvectors[0]
    z = (x - alpha[0] * data.means[0]) @ basis / spread[0]
    assert torch.allclose(result.latents, alpha[1] * data.means[0] + (z * spread[1]) @ basis.T, atol=1e-6)


# ------------------------------------------------------------------ the official figures


@pytest.mark.parametrize("probes", ["Rademacher", "Gaussian"])
@pytest.mark.parametrize("model", ["A", "B"])
@pytest.mark.parametrize("name", SDES)
def test_replays_the_official_likelihood(golden, name, model, probes):
    key = f"likelihood.{name}.{model}.{probes}"
    case = golden.cases[key]
    x = golden.inputs["data"] if name == "ve" else 2 * golden.inputs["data"] - 1
    probe = golden.inputs["rademacher" if probes == "Rademacher" else "gaussian_eps"]
    result = log_likelihood(golden.score(model, name), SDES[name], x, divergence=GivenProbes(probe[None]))
    # The official code estimates the linear part of the ODE from the probe as well, which for |v|^2 != D is noise.
    one = torch.ones((), dtype=torch.float64)
    (a0, s0), (a1, s1) = ((SDES[name].alpha(t), SDES[name].sigma(t)) for t in (EPS * one, one))
    growth = 0.5 * torch.log((a1**2 * 0.25 + s1**2) / (a0**2 * 0.25 + s0**2))
    excess = probe.square().flatten(1).sum(1) - x[0].numel()
    bpd = -(result.log_prob + excess * growth) / (x[0].numel() * math.log(2)) + case["offset"]
    assert torch.allclose(bpd, golden.outputs[f"{key}.bpd.exact"], atol=1e-5, rtol=0)
    strict = (result.latents - golden.outputs[f"{key}.z.exact"]).abs().max() / SDES[name].prior_std
    assert float(strict) < 1e-5
    official = (golden.outputs[f"{key}.bpd.f64"] - golden.outputs[f"{key}.bpd.exact"]).abs().max()
    assert float((bpd - golden.outputs[f"{key}.bpd.exact"]).abs().max()) < 0.1 * float(official)


@pytest.mark.parametrize("name", SDES)
def test_agrees_with_the_analytic_density_of_the_toys(golden, name):
    # Toy A is independent per pixel, so one Rademacher probe is exact; the prior's mismatch is in the figures.
    key = f"likelihood.{name}.A.Rademacher"
    x = golden.inputs["data"] if name == "ve" else 2 * golden.inputs["data"] - 1
    result = log_likelihood(golden.score("A", name), SDES[name], x)
    bpd = -result.log_prob / (192 * math.log(2)) + golden.cases[key]["offset"]
    mismatch = golden.outputs[f"{key}.bpd_analytic"] - golden.outputs[f"{key}.bpd.exact"]
    assert torch.allclose(bpd + mismatch, golden.outputs[f"{key}.bpd_analytic"], atol=5e-6, rtol=0)
    assert float(result.probe_error.max()) < 1e-3 * 192 * math.log(2)


# ------------------------------------------------------------------ the recorded networks


@pytest.mark.parametrize("name", SDES)
def test_networks_replay_the_official_likelihood(golden, shared_dir, name):
    """Random networks change wildly with t: at 1e-5 the official figures in float32 and float64 differ by 2e-3."""
    key = f"likelihood.{name}.net_{name}.Rademacher"
    x = golden.inputs["data"] if name == "ve" else 2 * golden.inputs["data"] - 1
    probes = GivenProbes(golden.inputs["rademacher"][None])
    result = log_likelihood(network_score(shared_dir, name), SDES[name], x, divergence=probes, tolerance=1e-4)
    bpd = -result.log_prob / (192 * math.log(2)) + (8.0 if name == "ve" else 7.0)
    assert torch.allclose(bpd, torch.tensor(golden.cases[key]["bpd_f64"]).double(), atol=3e-2, rtol=0)


@pytest.mark.parametrize("name", SDES)
def test_networks_to_a_tightened_tolerance(golden, shared_dir, name):
    """The last stretch, which can be solved tightly in a test's time, beside SciPy's RK45 on state and log-density."""
    sde, score, begin = SDES[name], network_score(shared_dir, name), 0.97
    x = golden.inputs["data"][:1] + golden.inputs["bank"][0, :1] * float(sde.sigma(torch.tensor(begin)))
    probe = golden.inputs["rademacher"][:1]

    def augmented(t: float, flat: np.ndarray) -> np.ndarray:
        with torch.enable_grad():
            state = torch.from_numpy(flat[:-1].copy()).reshape(x.shape).requires_grad_()
            time = torch.full((1,), t, dtype=torch.float64)
            g = sde.diffusion(time).reshape(-1, 1, 1, 1)
            drift = sde.drift(state, time) - 0.5 * g**2 * score(state, time)
            (product,) = torch.autograd.grad(drift, state, probe)
        return np.append(drift.detach().numpy().ravel(), float((product * probe).sum()))

    solution = solve_ivp(augmented, (begin, 1.0), np.append(x.numpy().ravel(), 0.0), rtol=1e-9, atol=1e-9)
    latents = torch.from_numpy(solution.y[:-1, -1]).reshape(x.shape)
    expected = float(sde.prior_log_prob(latents)) + float(solution.y[-1, -1])
    result = log_likelihood(score, sde, x, divergence=GivenProbes(probe[None]), sampling_eps=begin, tolerance=1e-7)
    assert float((result.latents - latents).abs().max()) / sde.prior_std < 1e-5
    assert (float(result.log_prob) - expected) / (192 * math.log(2)) == pytest.approx(0.0, abs=1e-5)


# ------------------------------------------------------------------ error bars


@pytest.fixture(scope="module")
def thousand():
    sde, data = SDES["vp"], image_like()
    x = data.sample(1000, torch.Generator().manual_seed(0))
    results = {}
    for divergence, num_probes in (("hutchinson", 1), ("hutchinson", 2), ("hutchinson_shared", 1)):
        generator = torch.Generator().manual_seed(5)
        result = log_likelihood(
            score_of(data, sde), sde, x, divergence=divergence, num_probes=num_probes, generator=generator
        )
        results[divergence, num_probes] = (result.log_prob - exact_log_prob(data, sde, x, result.latents), result)
    return results


@pytest.mark.parametrize("num_probes", [1, 2])
def test_error_bars_cover(thousand, num_probes):
    error, result = thousand["hutchinson", num_probes]
    bar = (result.probe_error**2 + result.solver_error**2).sqrt()
    assert float(((error / bar).abs() <= 3).double().mean()) >= 0.99
    assert float((error / bar).square().mean().sqrt()) == pytest.approx(1.0, abs=0.15)
    assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(1000)  # unbiased


def test_new_probes_at_every_node_reduce_the_variance_twenty_times(thousand):
    fresh, shared = thousand["hutchinson", 1][0].var(), thousand["hutchinson_shared", 1][0].var()
    assert float(shared / fresh) > 20
    assert bool(thousand["hutchinson_shared", 1][1].probe_error.isnan().all())


def test_shared_probes_know_their_error():
    sde, data = SDES["ve"], image_like(4)
    x = data.sample(200, torch.Generator().manual_seed(0))
    result = log_likelihood(score_of(data, sde), sde, x, divergence="hutchinson_shared", num_probes=16)
    error = result.log_prob - exact_log_prob(data, sde, x, result.latents)
    assert float((error / result.probe_error).square().mean().sqrt()) == pytest.approx(1.0, abs=0.2)


# ------------------------------------------------------------------ contracts


def test_a_sample_does_not_depend_on_its_batch():
    sde, data = SDES["vp"], image_like(4)
    x = data.sample(64, torch.Generator().manual_seed(0))
    seeds = range(64)
    together = log_likelihood(score_of(data, sde), sde, x, generator=[torch.Generator().manual_seed(s) for s in seeds])
    for i in (0, 31, 63):
        generator = [torch.Generator().manual_seed(i)]
        alone = log_likelihood(score_of(data, sde), sde, x[i : i + 1], generator=generator)
        assert float(alone.log_prob) == pytest.approx(float(together.log_prob[i]), abs=1e-8)
        assert alone.nfe == together.nfe[i]
        assert float(alone.probe_error) == pytest.approx(float(together.probe_error[i]), abs=1e-8)


def test_nfe_counts_every_evaluation():
    sde, data = SDES["vp"], mixture(2)
    calls = torch.zeros(6, dtype=torch.int64)

    def score(x: Tensor, t: Tensor, row: Tensor) -> Tensor:
        calls.index_add_(0, row, torch.ones_like(row))
        return data.score(sde, x, t)

    x = data.sample(6, torch.Generator().manual_seed(0))
    result = log_likelihood(score, sde, x, num_probes=3, condition={"row": torch.arange(6)})
    assert torch.equal(result.nfe, calls)


def test_the_callers_generator_decides_everything():
    sde, data = SDES["vp"], image_like(4)
    x = data.sample(3, torch.Generator().manual_seed(0))
    first, second, other = (
        log_likelihood(score_of(data, sde), sde, x, generator=torch.Generator().manual_seed(s)).log_prob
        for s in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"divergence": "skilling"}, "divergence"),
        ({"num_probes": 0}, "num_probes"),
        ({"sampling_eps": 0.0}, "sampling_eps must be a finite number in"),
        ({"tolerance": 2.0}, "tolerance"),
        ({"generator": [torch.Generator()]}, "one generator per image, 2"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        log_likelihood(lambda x, t: -x, SDES["vp"], torch.zeros(2, 3), **change)
