"""The general inverse-problem pipeline: closed-form posteriors, cost, exact data, bad input."""

import pytest
import torch
from gaussian_posteriors import RANGE, SCHEDULERS, MatrixOperator, Moments, autoregressive, posterior, regress

from scoresde_pipelines import GaussianMixtureScoreModel, GaussianScoreModel, VESDEScheduler
from scoresde_pipelines.pipeline_inverse_problem import ScoreSdeInverseProblemPipeline
from scoresde_pipelines.schedulers import AveragePoolOperator, LinearOperator, MaskOperator


def pipeline(name, covariance, shape, limits=RANGE, **scheduler_options):
    scheduler = SCHEDULERS[name](**scheduler_options)
    data = GaussianScoreModel(torch.zeros(shape), covariance=covariance)
    pipe = ScoreSdeInverseProblemPipeline(data.network(scheduler), scheduler, **limits)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def measured(pipe, y, operator, noise_std, n, **options):
    """Moments of the pipeline's samples from n starts, and its nfe."""
    half = torch.randn(n // 2, *pipe.sample_shape)
    noise = torch.cat([half, -half])
    out = pipe(y, operator, noise_std, num_samples=n, latents=noise, output_type="latent", **options)
    return regress(noise, out.images), out.nfe


@pytest.mark.parametrize("noise_std", [0.0, 0.1])
@pytest.mark.parametrize("rho", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_two_dimensional_gaussians_within_100_evaluations(name, rho, noise_std):
    covariance = autoregressive(2, rho)
    operator, y = MaskOperator(torch.tensor([1.0, 0.0])), torch.tensor([[[[1.0, 0.0]]]])
    ours, nfe = measured(pipeline(name, covariance, (1, 1, 2)), y, operator, noise_std, 64)
    matrix = torch.tensor([[1.0, 0.0]])
    index = torch.arange(2) if noise_std else torch.tensor([1])
    truth = posterior(covariance, matrix, torch.ones(1), noise_std).marginal(index)
    assert nfe <= 100
    check(ours.marginal(index), truth)
    if not noise_std:
        assert float(ours.mean[0]) == pytest.approx(1.0, abs=1e-6)
        assert float(ours.covariance[0, 0]) == pytest.approx(0.0, abs=1e-9)


MATRICES = {
    "half": torch.eye(64)[:32],
    "every_second": torch.eye(64)[::2],
    "hole": torch.cat([torch.eye(64)[:21], torch.eye(64)[42:]]),
    "six": torch.eye(64)[[3, 17, 18, 40, 55, 60]],
    "pooled": torch.eye(64).reshape(16, 4, 64).mean(1),
}


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("rho, noise_std", [(0.9, 0.1), (0.99, 0.0), (0.99, 0.03), (0.99, 0.1)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_gaussians_of_64_dimensions_within_100_evaluations(name, rho, noise_std, matrix):
    covariance, matrix = autoregressive(64, rho), MATRICES[matrix]
    x0 = torch.linalg.cholesky(covariance) @ torch.randn(64, dtype=torch.float64)
    y = (matrix.double() @ x0 + noise_std * torch.randn(len(matrix), dtype=torch.float64)).float()
    operator = MatrixOperator(matrix, (1, 8, 8))
    pipe = pipeline(name, covariance, (1, 8, 8), {"data_min": -1.0, "data_max": 1.0})
    image = (y + matrix.sum(1))[None] / 2  # the measurement in image units, of which one is 2
    ours, nfe = measured(pipe, image, operator, noise_std / 2, 192)
    truth = posterior(covariance, matrix, y, noise_std)
    assert nfe <= 100
    if noise_std == 0:  # an exact measurement leaves a density on its complement alone
        torch.testing.assert_close(matrix.double() @ ours.mean, y.double(), rtol=0, atol=1e-5)
        assert float((matrix.double() @ ours.covariance @ matrix.double().T).abs().max()) < 1e-9
        unseen = torch.linalg.svd(matrix.double(), full_matrices=True)[2][len(matrix) :]
        ours, truth = ours.projected(unseen), truth.projected(unseen)
    check(ours, truth)


def check(ours: Moments, truth: Moments) -> None:
    assert float((ours.mean - truth.mean).abs().max()) <= 0.01
    ratios = ours.variance_ratios(truth)
    assert float(ratios.min()) >= 0.95 and float(ratios.max()) <= 1.05
    assert ours.kl_to(truth) <= 0.005


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_pseudo_inverse_is_exact_for_white_data(name):
    covariance, matrix = 0.3 * torch.eye(4, dtype=torch.float64), torch.tensor([[1.0, 1.0, 0.0, 0.0]]) / 2
    operator, y = MatrixOperator(matrix, (1, 2, 2)), torch.tensor([[0.4]])
    pipe = pipeline(name, covariance, (1, 2, 2))
    ours, nfe = measured(pipe, y, operator, 0.1, 64, method="pseudo_inverse", num_inference_steps=40)
    assert nfe == 2 * 41
    check(ours, posterior(covariance, matrix, y[0], 0.1))


def test_the_pseudo_inverse_is_biased_and_moment_matching_is_not_where_data_are_correlated():
    covariance, matrix = autoregressive(8, 0.9), torch.eye(8)[:4]
    pipe, operator = pipeline("vp", covariance, (1, 1, 8)), MatrixOperator(matrix, (1, 1, 8))
    y = torch.tensor([[1.0, 0.5, 1.0, 0.5]])
    truth = posterior(covariance, matrix, y[0], 0.1)
    kl = {
        m: measured(pipe, y, operator, 0.1, 64, method=m)[0].kl_to(truth)
        for m in ("moment_matching", "pseudo_inverse")
    }
    assert kl["moment_matching"] < 0.001
    assert kl["pseudo_inverse"] > 0.01


@pytest.mark.parametrize("corrector, mean, variance", [(None, 0.627, 0.311), ("langevin", 0.890, 0.197)])
def test_replacement_has_the_bias_that_theory_gives_it(corrector, mean, variance):
    # The closed form: 2-D Gaussian, rho = .9, y = 1, 1000 steps; the truth is .900 and .190. Batch means of the norms:
    # in two dimensions a sample's own norms make Langevin steps of very unequal size.
    pipe = pipeline("ve", autoregressive(2, 0.9), (1, 1, 2), corrector=corrector, snr=0.16, batch_mean_norm=True)
    out = pipe(
        torch.tensor([[[[1.0, 0.0]]]]),
        MaskOperator(torch.tensor([1.0, 0.0])),
        method="replacement",
        num_samples=4000,
        output_type="latent",
    )
    x = out.images.flatten(1)
    assert out.nfe == (2000 if corrector else 1000)
    assert bool((x[:, 0] == 1).all())
    assert float(x[:, 1].mean()) == pytest.approx(mean, abs=0.03)
    assert float(x[:, 1].var()) == pytest.approx(variance, rel=0.08)


def test_image_units_do_not_depend_on_the_data_range():
    # The same prior in image units, N(1/2, C), for networks with different ideas of black and white.
    shape, covariance, matrix = (1, 2, 2), 0.04 * autoregressive(4, 0.9), torch.full((1, 4), 0.25)
    truth = posterior(covariance, matrix, torch.tensor([0.7 - 0.5]), 0.05)
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        scheduler = VESDEScheduler(sigma_min=0.01 * (high - low), sigma_max=50.0 * (high - low))
        data = GaussianScoreModel(torch.full(shape, 0.5 * (low + high)), covariance=(high - low) ** 2 * covariance)
        pipe = ScoreSdeInverseProblemPipeline(data.network(scheduler), scheduler, data_min=low, data_max=high)
        pipe.set_progress_bar_config(disable=True)
        y = torch.full((1, 1, 1, 1), 0.7)
        noise = torch.randn(64, *shape)
        out = pipe(y, AveragePoolOperator(2), 0.05, num_samples=64, latents=noise, output_type="latent")
        ours = regress(noise, (out.images - low) / (high - low))
        assert float((ours.mean - 0.5 - truth.mean).abs().max()) < 0.005
        torch.testing.assert_close(ours.covariance, truth.covariance, rtol=0.05, atol=2e-4)


def test_an_exact_measurement_is_reproduced_exactly_and_samples_differ():
    operator, pipe = AveragePoolOperator(2), pipeline("vp", 0.1 * autoregressive(16, 0.9), (1, 4, 4))
    y = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    images = pipe(y, operator, num_samples=3, output_type="latent").images
    torch.testing.assert_close(operator.A(images), y.repeat_interleave(3, dim=0), rtol=1e-5, atol=1e-5)
    assert float((images[0] - images[1]).norm()) > 0.1


def test_a_sample_does_not_depend_on_its_batch():
    pipe, operator = pipeline("ve", autoregressive(16, 0.95), (1, 4, 4)), AveragePoolOperator(2)
    y = torch.rand(3, 1, 2, 2)
    noise = torch.randn(3, 1, 4, 4)
    together = pipe(y, operator, 0.05, latents=noise, output_type="latent").images
    for k in range(3):
        alone = pipe(y[k : k + 1], operator, 0.05, latents=noise[k : k + 1], output_type="latent").images
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-4, atol=1e-4)


def test_the_scheduler_of_the_pipeline_stays_as_it_was():
    pipe = pipeline("ve", autoregressive(4, 0.5), (1, 2, 2))
    before = dict(pipe.scheduler.config)
    pipe(torch.ones(1, 1, 1, 1), AveragePoolOperator(2), 0.1, num_inference_steps=3, output_type="pt")
    assert dict(pipe.scheduler.config) == before
    assert pipe.scheduler.order == 2


def test_callbacks_and_the_tuple():
    pipe, seen = pipeline("vp", autoregressive(4, 0.5), (1, 2, 2)), []

    def callback(pipe, i, timestep, tensors):
        seen.append((i, tuple(tensors["latents"].shape)))

    images, nfe = pipe(
        torch.ones(1, 1, 1, 1),
        AveragePoolOperator(2),
        0.1,
        num_inference_steps=3,
        method="pseudo_inverse",
        output_type="np",
        return_dict=False,
        callback_on_step_end=callback,
    )
    assert seen == [(i, (1, 1, 2, 2)) for i in range(3)]
    assert images.shape == (1, 2, 2, 1) and nfe == 8


class NotAdjoint(LinearOperator):
    def A(self, x):
        return x[:, :, :1]

    def At(self, y):
        return y.expand(-1, -1, 2, -1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": "magic"}, "method must be one of .*got 'magic'"),
        ({"sampler": "magic"}, "sampler must be None or one of .*got 'magic'"),
        ({"num_samples": 0}, "num_samples must be an integer of at least 1, got 0"),
        ({"num_inference_steps": 0}, "num_inference_steps must be an integer of at least 1, got 0"),
        ({"noise_std": -1.0}, "noise_std must be a finite number of at least 0, got -1.0"),
        ({"measurement": torch.ones(1, 1, 2, 2)}, r"measurement must have the shape .*got \(1, 1, 2, 2\)"),
        ({"measurement": torch.full((1, 1, 1, 1), float("nan"))}, "measurement must be finite"),
        ({"operator": NotAdjoint(), "measurement": torch.ones(1, 1, 1, 2)}, "At is not the adjoint of A"),
        ({"generator": [torch.Generator()] * 2}, "one generator per image, 1, got 2"),
        ({"latents": torch.ones(1, 1, 3, 3)}, "latents must have shape"),
        ({"output_type": "gif"}, "output_type must be one of"),
        ({"solver_iterations": 0}, "solver_iterations must be an integer of at least 1, got 0"),
        ({"solver_tolerance": 1.0}, r"solver_tolerance must be a finite number in \[0, 1\), got 1.0"),
    ],
)
def test_bad_input_is_named_before_any_network_call(changes, message):
    pipe = pipeline("vp", autoregressive(4, 0.5), (1, 2, 2))
    pipe.unet.forward = None  # any call fails otherwise
    arguments = {"measurement": torch.ones(1, 1, 1, 1), "operator": AveragePoolOperator(2), **changes}
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"noise_std": "loud"}, TypeError, "noise_std must be a number, got str"),
        ({"noise_std": None}, TypeError, "noise_std must be a number, got NoneType"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator or a list of them, got 3"),
        ({"latents": [1.0]}, TypeError, "latents must be a floating-point tensor, got list"),
        ({"measurement": torch.ones(0, 1, 1, 1)}, ValueError, "measurement must hold at least one measurement"),
        ({"measurement": torch.full((1, 1, 1, 1), 200.0)}, ValueError, r"values in \[0, 1\], here from 0 to 1, got"),
        ({"operator": MaskOperator(torch.ones(4, 4))}, ValueError, "known of shape .* must broadcast"),
    ],
)
def test_what_is_no_measurement_is_named(changes, error, message):
    pipe = pipeline("vp", autoregressive(4, 0.5), (1, 2, 2))
    pipe.unet.forward = None
    with pytest.raises(error, match=message):
        pipe(**{"measurement": torch.ones(1, 1, 1, 1), "operator": AveragePoolOperator(2), **changes})


def test_wrong_types_are_named():
    pipe = pipeline("vp", autoregressive(4, 0.5), (1, 2, 2))
    with pytest.raises(TypeError, match="operator must be a LinearOperator, got str"):
        pipe(torch.ones(1, 1, 1, 1), "blur")
    with pytest.raises(TypeError, match="measurement must be a floating-point tensor"):
        pipe(torch.ones(1, 1, 1, 1, dtype=torch.int64), AveragePoolOperator(2))


@pytest.mark.parametrize("noise_std", [0.003, 0.01, 0.02])
def test_noise_as_small_as_the_last_noise_level_keeps_its_variance(noise_std):
    covariance, matrix = autoregressive(2, 0.9), torch.tensor([[1.0, 0.0]])
    pipe = pipeline("ve", covariance, (1, 1, 2))
    ours, _ = measured(pipe, torch.ones(1, 1), MatrixOperator(matrix, (1, 1, 2)), noise_std, 64)
    check(ours, posterior(covariance, matrix, torch.ones(1), noise_std))


def in_image_units(pipe, y, operator, noise_std):
    """A measurement of the state as one of images in [0, 1], for a pipeline with the range -20 .. 20."""
    return (y + operator.A(torch.full((1, *pipe.sample_shape), 20.0))) / 40, noise_std / 40


@pytest.mark.parametrize("name", SCHEDULERS)
def test_twisted_smc_converges_to_gaussian_posteriors(name):
    covariance, matrix = autoregressive(2, 0.9), torch.tensor([[1.0, 0.0]])
    operator, truth = MatrixOperator(matrix, (1, 1, 2)), posterior(covariance, matrix, torch.ones(1), 0.3)
    scheduler = SCHEDULERS[name]()
    data = GaussianScoreModel(torch.zeros(1, 1, 2), covariance=covariance)
    pipe = ScoreSdeInverseProblemPipeline(data.network(scheduler), scheduler, data_min=-20.0, data_max=20.0)
    pipe.set_progress_bar_config(disable=True)
    y, noise_std = in_image_units(pipe, torch.ones(1, 1), operator, 0.3)
    out = pipe(y, operator, noise_std, method="twisted_smc", num_samples=4000, output_type="latent")
    x = out.images.flatten(1).double()
    assert out.nfe == 2 * 200
    assert float((x.mean(0) - truth.mean).abs().max()) < 0.03
    # Of 4000 particles, and of a chain of 200 steps, which itself loses 3 % of the variance.
    assert float((x.var(0) / truth.covariance.diag() - 1).abs().max()) < 0.12
    assert Moments(x.mean(0), torch.cov(x.T)).kl_to(truth) < 0.01


def test_twisted_smc_weighs_the_modes_of_a_mixture_where_moment_matching_does_not():
    """p(mode | y) of four modes seen through a noisy sum: the share of particles at each is its posterior weight."""
    means = torch.tensor([[-9.0, 9.0], [9.0, -8.0], [3.0, 0.5], [-3.0, 1.0]]).reshape(4, 1, 1, 2)
    data = GaussianMixtureScoreModel(torch.tensor([0.1, 0.2, 0.3, 0.4]), means, 1.0)
    matrix, measured_sum, noise_std = torch.tensor([[1.0, 1.0]]), torch.tensor([1.0]), 0.3
    exact = data.posterior(matrix, measured_sum, noise_std)
    scheduler, operator = VESDEScheduler(sigma_max=100.0), MatrixOperator(matrix, (1, 1, 2))
    pipe = ScoreSdeInverseProblemPipeline(data.network(scheduler), scheduler, data_min=-20.0, data_max=20.0)
    pipe.set_progress_bar_config(disable=True)
    y, noise_std = in_image_units(pipe, measured_sum[None], operator, noise_std)
    options = {"num_samples": 3000, "output_type": "latent", "generator": torch.Generator().manual_seed(0)}
    errors = {}
    for method in ("twisted_smc", "moment_matching"):
        x = pipe(y, operator, noise_std, method=method, **options).images.flatten(1).double()
        shares = torch.bincount(torch.cdist(x, means.flatten(1).double()).argmin(1), minlength=4) / len(x)
        errors[method] = float((shares - exact.log_weights.exp()).abs().max())
    assert errors["twisted_smc"] < 0.04
    assert errors["moment_matching"] > 0.1


def test_populations_of_twisted_smc_do_not_mix():
    pipe, operator = pipeline("vp", autoregressive(4, 0.9), (1, 2, 2)), AveragePoolOperator(2)
    y = torch.tensor([0.1, 0.9]).reshape(2, 1, 1, 1)
    options = {"method": "twisted_smc", "num_inference_steps": 20, "num_samples": 8, "output_type": "latent"}
    seeds = [torch.Generator().manual_seed(k) for k in range(16)]
    both = pipe(y, operator, 0.1, generator=seeds, **options).images
    alone = pipe(y[1:], operator, 0.1, generator=[torch.Generator().manual_seed(k) for k in range(8, 16)], **options)
    torch.testing.assert_close(both[8:], alone.images, rtol=1e-5, atol=1e-5)


def test_twisted_smc_reproduces_an_exact_measurement():
    pipe, operator = pipeline("vp", 0.1 * autoregressive(16, 0.9), (1, 4, 4)), AveragePoolOperator(2)
    y = torch.rand(1, 1, 2, 2)
    images = pipe(
        y, operator, method="twisted_smc", num_inference_steps=20, num_samples=16, output_type="latent"
    ).images
    torch.testing.assert_close(operator.A(images), y.expand(16, -1, -1, -1), rtol=1e-5, atol=1e-5)
