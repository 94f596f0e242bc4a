"""The analytic score models against quadrature, autograd and textbook formulas."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from scoresde_pipelines import (
    GaussianMixtureScoreModel,
    GaussianScoreModel,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)
from scoresde_pipelines.schedulers import VESDE, VPSDE, SubVPSDE


SDES = {"ve": VESDE(0.01, 50.0), "vp": VPSDE(), "subvp": SubVPSDE()}
WEIGHTS, MEANS, STDS = [0.3, 0.5, 0.2], [-0.7, 0.1, 0.8], [0.1, 0.2, 0.05]


def mixture_1d() -> GaussianMixtureScoreModel:
    return GaussianMixtureScoreModel(WEIGHTS, [[m] for m in MEANS], [s**2 for s in STDS])


def correlated_mixture() -> GaussianMixtureScoreModel:
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    means = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64)
    return GaussianMixtureScoreModel([1.0, 3.0], means, covariances=factors @ factors.mT / 4)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("t", [1e-5, 0.3, 1.0])
def test_mixture_density_score_and_denoised_image_by_hand(name, t):
    sde, time = SDES[name], torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(time)), float(sde.sigma(time))
    x = np.linspace(-2, 2, 41) * max(1, sigma)
    variances = [alpha**2 * s**2 + sigma**2 for s in STDS]
    parts = np.array([w * scipy.stats.norm.pdf(x, alpha * m, v**0.5) for w, m, v in zip(WEIGHTS, MEANS, variances)])
    pulls = np.array([(alpha * m - x) / v for m, v in zip(MEANS, variances)])
    clean = np.array([m + alpha * s**2 / v * (x - alpha * m) for m, s, v in zip(MEANS, STDS, variances)])
    share = parts / np.maximum(parts.sum(0), 1e-300)
    seen = parts.sum(0) > 1e-250  # elsewhere the reference, not the model, underflows
    states, model = torch.from_numpy(x)[:, None], mixture_1d()

    log_prob = model.log_prob(sde, states, time).numpy()
    np.testing.assert_allclose(log_prob[seen], np.log(parts.sum(0))[seen], rtol=1e-9)
    score = model.score(sde, states, time)[:, 0].numpy()
    np.testing.assert_allclose(score[seen], (share * pulls).sum(0)[seen], rtol=1e-7, atol=1e-12)
    denoised = model.denoise(sde, states, time)[:, 0].numpy()
    np.testing.assert_allclose(denoised[seen], (share * clean).sum(0)[seen], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SDES)
def test_correlated_states_agree_with_scipy_autograd_and_tweedie(name):
    sde, model = SDES[name], correlated_mixture()
    x = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.01, 0.1, 0.3, 0.7, 1.0], dtype=torch.float64)
    log_prob = model.log_prob(sde, x, t)
    for i in range(5):
        alpha, sigma = float(sde.alpha(t[i])), float(sde.sigma(t[i]))
        covariances = model._covariances().numpy()
        parts = [
            w
            * scipy.stats.multivariate_normal.pdf(
                x[i].detach().flatten(), alpha * m.flatten(), alpha**2 * c + sigma**2 * np.eye(4)
            )
            for w, m, c in zip([0.25, 0.75], model.means.numpy(), covariances)
        ]
        assert log_prob[i].item() == pytest.approx(math.log(sum(parts)), rel=1e-9)
        responsibilities = model.log_responsibilities(sde, x.detach(), t)[i].exp()
        assert responsibilities.tolist() == pytest.approx([p / sum(parts) for p in parts], rel=1e-9)
    gradient = torch.autograd.grad(log_prob.sum(), x)[0]
    score = model.score(sde, x.detach(), t)
    torch.testing.assert_close(score, gradient, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        model.denoise(sde, x.detach(), t), sde.denoise(x.detach(), score, t), rtol=1e-8, atol=1e-8
    )


def test_gaussian_with_covariance_and_variance_are_the_same_model():
    mean, variance = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 2.0]).double()
    diagonal = GaussianScoreModel(mean, variance)
    full = GaussianScoreModel(mean, covariance=torch.diag(variance))
    x, sde = torch.randn(7, 2, dtype=torch.float64), SDES["vp"]
    alpha, sigma = (
        float(value) for value in sde.marginal(torch.ones(1).double(), torch.tensor(0.4, dtype=torch.float64))
    )
    expected = -(x - alpha * mean) / (alpha**2 * variance + sigma**2)
    for model in (diagonal, full):
        torch.testing.assert_close(model.score(sde, x, 0.4), expected, rtol=1e-9, atol=1e-11)
        expected_log_prob = scipy.stats.multivariate_normal.logpdf(x.numpy(), mean.numpy(), np.diag(variance.numpy()))
        np.testing.assert_allclose(model.data_log_prob(x).numpy(), expected_log_prob, rtol=1e-9)


def test_samples_have_the_mixture_s_moments_and_follow_the_generator():
    model = correlated_mixture()
    samples = model.sample(40_000, torch.Generator().manual_seed(3)).flatten(1)
    means, covariances = model.means.flatten(1), model._covariances()
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    mean = weights @ means
    spread = covariances + torch.einsum("ki,kj->kij", means - mean, means - mean)
    covariance = torch.einsum("k,kij->ij", weights, spread)
    error = (covariance.diagonal() / 40_000).sqrt()
    assert bool(((samples.mean(0) - mean).abs() < 4.5 * error).all())
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=0.08)
    assert torch.equal(samples, model.sample(40_000, torch.Generator().manual_seed(3)).flatten(1))


def test_linear_measurement_posterior_is_bayes_rule_on_a_grid():
    model, matrix, y, std = mixture_1d(), torch.tensor([[2.0]]), torch.tensor([0.5]), 0.3
    posterior = model.posterior(matrix, y, std)
    x = torch.linspace(-2, 2, 20_001, dtype=torch.float64)[:, None]
    joint = model.data_log_prob(x) + torch.distributions.Normal(2 * x[:, 0], std).log_prob(y.double())
    expected = joint - torch.log(torch.trapezoid(joint.exp(), x[:, 0]))
    torch.testing.assert_close(posterior.data_log_prob(x).exp(), expected.exp(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("prediction_type", ["score", "epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("scheduler_class", [VESDEScheduler, VPSDEScheduler, SubVPSDEScheduler])
def test_network_form_gives_the_score_back(scheduler_class, prediction_type):
    scheduler, model = scheduler_class(prediction_type=prediction_type), correlated_mixture()
    score = scheduler.score_fn(model.network(scheduler))
    x, t = torch.randn(3, 2, 2, dtype=torch.float64), torch.tensor([0.01, 0.4, 0.9], dtype=torch.float64)
    torch.testing.assert_close(score(x, t), model.score(scheduler.sde, x, t), rtol=1e-6, atol=1e-9)
    assert score(x.float(), t).dtype == torch.float32


def test_network_form_runs_in_the_pipeline():
    scheduler = VPSDEScheduler(continuous=True, predictor="exponential", sampling_eps=1e-4)
    data = GaussianScoreModel(torch.full((2, 4, 6), 0.25), 0.0)
    pipe = ScoreSdePipeline(data.network(scheduler), scheduler)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(batch_size=2, num_inference_steps=3, output_type="pt").images
    torch.testing.assert_close(images, torch.full((2, 2, 4, 6), 0.625), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(weights=[1.0], means=[0.0], variances=1.0), "means must have shape"),
        (dict(weights=[1.0, 2.0], means=[[0.0]], variances=1.0), "weights must be"),
        (dict(weights=[-1.0], means=[[0.0]], variances=1.0), "weights must be"),
        (dict(weights=[1.0], means=[[0.0]]), "exactly one of variances and covariances"),
        (dict(weights=[1.0], means=[[0.0, 1.0]], variances=[1.0, 1.0]), "variances must be a number or of shape"),
        (dict(weights=[1.0], means=[[0.0]], variances=-1.0), "variances must not be negative"),
        (dict(weights=[1.0], means=[[0.0, 1.0]], covariances=[[[1.0]]]), "covariances must have shape"),
        (dict(weights=[1.0], means=[[0.0]], covariances=[[[-1.0]]]), "covariances must not have negative eigenvalues"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureScoreModel(**arguments)


def test_states_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="x must have shape"):
        mixture_1d().score(SDES["vp"], torch.zeros(3, 2), 0.5)
