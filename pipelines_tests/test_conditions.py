"""Conditions wrap a score function, and work wherever a score function goes: against Gaussians' exact posteriors."""

import math

import pytest
import torch
from gaussian_posteriors import SCHEDULERS, autoregressive, posterior

from scoresde_pipelines import GaussianScoreModel, log_likelihood, solve_probability_flow
from scoresde_pipelines.schedulers import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    DenoisedClassifierGuidance,
    LinearOperator,
    LinearPosterior,
    MomentMatching,
    PerSample,
    TwistedSMC,
)


D = 4
COVARIANCE = 0.25 * autoregressive(D, 0.7)


class Rows(LinearOperator):
    """y = the first two numbers' difference, and the last."""

    def __init__(self):
        self.matrix = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)

    def A(self, x):
        return x @ self.matrix.to(x).T

    def At(self, y):
        return y @ self.matrix.to(y)


def prior_score(sde):
    data = GaussianScoreModel(mean=torch.zeros(D, dtype=torch.float64), covariance=COVARIANCE)
    return lambda x, t: data.score(sde, x, t)


def labelled(sde, means, variance):
    """Exact scores of N(mean_k, variance I) data with labels k, and of their equal mixture."""

    def log_prob(x, t, labels):
        alpha, spread = sde.alpha(t), sde.alpha(t) ** 2 * variance + sde.sigma(t) ** 2
        alpha, spread = (v.reshape(-1, 1).to(x) for v in (alpha, spread))
        logits = torch.stack([-0.5 * ((x - alpha * m) ** 2 / spread).sum(1) for m in means], 1)
        return torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]

    def unconditional(x, t):
        alpha, spread = sde.alpha(t), sde.alpha(t) ** 2 * variance + sde.sigma(t) ** 2
        alpha, spread = (v.reshape(-1, 1).to(x) for v in (alpha, spread))
        parts = torch.stack([(alpha * m - x) / spread for m in means])
        logits = torch.stack([-0.5 * ((x - alpha * m) ** 2 / spread).sum(1) for m in means])
        return (torch.softmax(logits, 0)[..., None] * parts).sum(0)

    def given(x, t, labels):
        alpha, spread = sde.alpha(t), sde.alpha(t) ** 2 * variance + sde.sigma(t) ** 2
        alpha, spread = (v.reshape(-1, 1).to(x) for v in (alpha, spread))
        return (alpha * means[labels] - x) / spread

    return log_prob, unconditional, given


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("noise_std", [0.1, 0.5])
def test_moment_matching_in_the_ode_and_the_likelihood_is_the_exact_posterior(name, noise_std):
    sde, operator = SCHEDULERS[name]().sde, Rows()
    y = torch.tensor([[0.3, -0.4], [0.0, 0.8], [-1.0, 0.1]], dtype=torch.float64)
    exact = [posterior(COVARIANCE, operator.matrix, row, noise_std) for row in y]
    score_fn = MomentMatching(prior_score(sde), sde, operator, y, noise_std, tolerance=1e-6)

    # p_eps(x | y): the posterior, noised to eps.
    eps = 1e-3
    alpha, sigma = (float(f(torch.tensor(eps, dtype=torch.float64))) for f in (sde.alpha, sde.sigma))
    x = torch.stack([m.mean for m in exact]) * alpha + 0.1 * torch.randn(
        3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    truth = torch.stack(
        [
            torch.distributions.MultivariateNormal(
                alpha * m.mean, alpha**2 * m.covariance + sigma**2 * torch.eye(D, dtype=torch.float64)
            ).log_prob(row)
            for m, row in zip(exact, x)
        ]
    )
    result = log_likelihood(score_fn, sde, x, divergence="exact", tolerance=1e-6, sampling_eps=eps)
    # The flow's prior is N(0, prior_std^2), the posterior's at t = T is not: correct for it at the latents.
    z, top = result.latents, torch.tensor(sde.T, dtype=torch.float64)
    end = torch.stack(
        [
            torch.distributions.MultivariateNormal(
                sde.alpha(top) * m.mean,
                sde.alpha(top) ** 2 * m.covariance + sde.sigma(top) ** 2 * torch.eye(D, dtype=torch.float64),
            ).log_prob(row)
            for m, row in zip(exact, z)
        ]
    )
    assert (result.log_prob - sde.prior_log_prob(z) + end - truth).abs().max() < 1e-4

    # Back from the latents: the same images, and each sample alone is the one in the batch.
    back = solve_probability_flow(score_fn, sde, z, sde.T, eps, tolerance=1e-6)
    assert (back.x - x).abs().max() < 1e-4
    alone = solve_probability_flow(score_fn.rows(torch.tensor([1])), sde, z[1:2], sde.T, eps, tolerance=1e-6)
    assert torch.allclose(alone.x[0], back.x[1], atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_derivative_of_the_posterior_score_is_that_of_the_exact_one(name):
    sde, operator, noise_std = SCHEDULERS[name]().sde, Rows(), 0.2
    y = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    exact = posterior(COVARIANCE, operator.matrix, y[0], noise_std)
    score_fn = MomentMatching(prior_score(sde), sde, operator, y, noise_std, tolerance=1e-6)
    t = torch.tensor(0.4, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(lambda v: score_fn(v, t), torch.randn(1, D, dtype=torch.float64))[
        0, :, 0
    ]
    truth = -torch.linalg.inv(
        sde.alpha(t) ** 2 * exact.covariance + sde.sigma(t) ** 2 * torch.eye(D, dtype=torch.float64)
    )
    assert (found - truth).abs().max() < 1e-4 * truth.abs().max()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_both_guidances_are_the_class_score_and_its_density(name):
    sde = SCHEDULERS[name]().sde
    means = torch.tensor([[-0.5, 0.2, 0.0, 0.1], [0.6, -0.3, 0.2, 0.0], [0.0, 0.7, -0.6, 0.3]], dtype=torch.float64)
    log_prob, unconditional, given = labelled(sde, means, 0.04)
    labels = torch.tensor([2, 0, 1])
    guided = ClassifierGuidance(unconditional, PerSample(log_prob, labels=labels))
    free = ClassifierFreeGuidance(PerSample(given, labels=labels), unconditional, scale=1.0)
    x = torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for t in (torch.tensor(0.3, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)):
        truth = given(x, t, labels)
        assert torch.allclose(guided(x, t), truth, rtol=1e-9, atol=1e-9)
        assert torch.allclose(free(x, t), truth, rtol=1e-9, atol=1e-9)
        double = ClassifierFreeGuidance(free.with_label, unconditional, scale=2.0)(x, t)
        assert torch.allclose(double, 2 * truth - unconditional(x, t), rtol=1e-9, atol=1e-9)

    x = means[labels] + 0.1 * x
    measured = [log_likelihood(f, sde, x, divergence="exact", tolerance=1e-6) for f in (guided, free)]
    normal = -0.5 * ((x - means[labels]) ** 2 / 0.04).sum(1) - D * (0.5 * math.log(2 * math.pi) + math.log(0.2))
    top = torch.tensor(sde.T, dtype=torch.float64)
    spread = sde.alpha(top) ** 2 * 0.04 + sde.sigma(top) ** 2
    for result in measured:
        z = result.latents
        end = -0.5 * ((z - sde.alpha(top) * means[labels]) ** 2 / spread).sum(1) - 0.5 * D * torch.log(
            2 * math.pi * spread
        )
        # sampling_eps adds (1e-2)^2 (VE) or less to the variance
        assert (result.log_prob - sde.prior_log_prob(z) + end - normal).abs().max() < 0.02


def test_guidance_interval_applies_the_scale_between_two_noise_ratios():
    sde = SCHEDULERS["ve"]().sde
    free = ClassifierFreeGuidance(
        lambda x, t: torch.ones_like(x), lambda x, t: torch.zeros_like(x), 3.0, (0.1, 1.0), sde.noise_ratio
    )
    inside = sde.t_from_log_snr(torch.tensor(-2 * math.log(0.5), dtype=torch.float64))
    outside = sde.t_from_log_snr(torch.tensor(-2 * math.log(5.0), dtype=torch.float64))
    x = torch.zeros(2, D, dtype=torch.float64)
    assert free(x, inside).eq(3).all() and free(x, outside).eq(1).all()
    assert free(x, torch.stack([inside, outside])).tolist() == [[3.0] * D, [1.0] * D]
    assert (free.evaluations(inside), free.evaluations(outside)) == (2, 1)


def test_twisted_score_follows_states_that_a_callback_has_edited():
    sde, operator = SCHEDULERS["vp"]().sde, Rows()
    y = torch.tensor([[0.3, -0.4]], dtype=torch.float64).expand(8, -1)
    twisted = TwistedSMC(prior_score(sde), sde, operator, y, 0.3, particles=8)
    t = torch.tensor(0.5, dtype=torch.float64)
    x = twisted.resample(torch.randn(8, D, dtype=torch.float64), t)
    count = twisted.evaluations
    first = twisted(x, t)
    assert twisted.evaluations == count  # found in `resample`
    edited = x + 1
    second = twisted(edited, t)
    fresh = TwistedSMC(prior_score(sde), sde, operator, y, 0.3, particles=8)
    assert torch.equal(second, fresh(edited, t)) and not torch.allclose(first, second)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda s, p: ClassifierGuidance(2.0, p), "score_fn"),
        (lambda s, p: ClassifierGuidance(p, None), "log_prob"),
        (lambda s, p: ClassifierGuidance(p, p, math.nan), "scale"),
        (lambda s, p: ClassifierFreeGuidance(p, p, 1.0, (2.0, 1.0)), "interval"),
        (lambda s, p: ClassifierFreeGuidance(p, p, 1.0, (1.0, 2.0)), "noise_ratio"),
        (lambda s, p: MomentMatching(p, s, None, torch.zeros(1, 2)), "operator"),
        (lambda s, p: MomentMatching(p, s, Rows(), [1.0]), "y must"),
        (lambda s, p: MomentMatching(p, s, Rows(), torch.zeros(1, 2), -1.0), "noise_std"),
        (lambda s, p: MomentMatching(p, s, Rows(), torch.zeros(1, 2), covariance="full"), "covariance"),
        (lambda s, p: TwistedSMC(p, s, Rows(), torch.zeros(3, 2), 0.1, particles=2), "particles"),
    ],
)
def test_bad_arguments_are_named(make, name):
    sde = SCHEDULERS["ve"]().sde
    with pytest.raises((TypeError, ValueError), match=name):
        make(sde, prior_score(sde))


@pytest.mark.parametrize(
    "wrong, shown",
    [
        (lambda x, t: x[:1], r"\(3, 4\), got \(1, 4\)"),
        (lambda x, t: x[:, :1], r"\(3, 4\), got \(3, 1\)"),
        (lambda x, t: x.sum(), r"\(3, 4\), got \(\)"),
        (lambda x, t: x.long(), "floating-point tensor, got torch.int64"),
        (lambda x, t: None, "floating-point tensor, got NoneType"),
    ],
)
def test_a_score_function_of_another_shape_is_refused(wrong, shown):
    sde, x = SCHEDULERS["vp"]().sde, torch.randn(3, D, dtype=torch.float64)
    with pytest.raises((TypeError, ValueError), match=f"score_fn must return .*{shown}"):
        log_likelihood(wrong, sde, x)
    with pytest.raises((TypeError, ValueError), match=f"score_fn must return .*{shown}"):
        solve_probability_flow(wrong, sde, x, 1.0, 1e-3)


def test_old_names_work_and_warn():
    sde, operator = SCHEDULERS["vp"]().sde, Rows()
    y, x, t = torch.tensor([[0.3, -0.4]], dtype=torch.float64), torch.randn(1, D, dtype=torch.float64), 0.4
    with pytest.warns(FutureWarning, match="MomentMatching"):
        old = LinearPosterior(sde, operator, y, 0.2)
    t = torch.tensor(t, dtype=torch.float64)
    new = MomentMatching(prior_score(sde), sde, operator, y, 0.2, data_std=1.0)
    assert torch.equal(old(prior_score(sde), x, t), new(x, t))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_guidance_by_a_classifier_of_clean_images_uses_the_denoised_image(name):
    sde = SCHEDULERS[name]().sde
    weight = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)
    guided = DenoisedClassifierGuidance(prior_score(sde), sde, lambda x0: x0 @ weight, scale=3.0)
    x, t = torch.randn(2, D, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    # D = alpha C (alpha^2 C + sigma^2 I)^-1 x, so the gradient of w'D is its transpose times w.
    spread = sde.alpha(t) ** 2 * COVARIANCE + sde.sigma(t) ** 2 * torch.eye(D, dtype=torch.float64)
    gradient = sde.alpha(t) * torch.linalg.solve(spread, COVARIANCE @ weight)
    assert torch.allclose(guided(x, t), prior_score(sde)(x, t) + 3 * gradient, rtol=1e-9, atol=1e-12)
