"""What pipelines do with no option chosen, on Gaussian fields; the presets; and whose sampler wins."""

import pytest
import torch

from scoresde_pipelines import (
    GaussianMixtureScoreModel,
    ScoreSdeColorizationPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeInverseProblemPipeline,
    ScoreSdePipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)
from scoresde_pipelines.quality import QUALITIES, choose_sampler
from scoresde_pipelines.schedulers import AveragePoolOperator, Restart, to_sde_scheduler


SCHEDULERS = {
    "ve": lambda **kw: VESDEScheduler(sigma_max=50.0, **kw),
    "vp": lambda **kw: VPSDEScheduler(continuous=True, **kw),
    "subvp": SubVPSDEScheduler,
    "table": VPSDEScheduler,
}
SIZE = 16
MEAN, STD = 0.5, 0.3
DOUBLE = torch.float64


def field(channels=1):
    """Covariance of fields of SIZE x SIZE pixels with correlation 0.8 between neighbours, and 0.5 between channels."""
    i = torch.arange(SIZE, dtype=DOUBLE)
    line = 0.8 ** (i[:, None] - i).abs()
    between = torch.full((channels, channels), 0.5, dtype=DOUBLE).fill_diagonal_(1.0)
    return STD**2 * torch.kron(between, torch.kron(line, line))


def pipeline(kind, scheduler, channels=1):
    mean = torch.full((1, channels, SIZE, SIZE), MEAN)
    data = GaussianMixtureScoreModel(torch.ones(1), mean, covariances=field(channels)[None])
    pipe = kind(data.network(scheduler), scheduler, data_min=0.0, data_max=1.0)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def image(channels=1):
    factor = torch.linalg.cholesky(field(channels))
    x = MEAN + factor @ torch.randn(len(factor), generator=draw(1), dtype=DOUBLE)
    return x.reshape(1, channels, SIZE, SIZE).clamp(0, 1).float()


def whitened_variance(samples, covariance, matrix, y, noise_std=0.0, basis=None):
    """Mean variance of samples (n, d) about the posterior's mean, in its units, in the directions `basis` (d, m)."""
    gram = matrix @ covariance @ matrix.T + noise_std**2 * torch.eye(len(matrix), dtype=DOUBLE)
    gain = torch.linalg.solve(gram, matrix @ covariance).T
    mean = MEAN + gain @ (y - matrix @ torch.full((len(covariance),), MEAN, dtype=DOUBLE))
    posterior = covariance - gain @ matrix @ covariance
    basis = torch.eye(len(covariance), dtype=DOUBLE) if basis is None else basis
    factor = torch.linalg.cholesky(basis.T @ posterior @ basis)
    white = torch.linalg.solve_triangular(factor, basis.T @ (samples - mean).T, upper=False)
    return float(white.square().mean())


# ---------------------------------------------------------------------- right, in at most 110 calls


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("quality, calls", [(None, 100), ("draft", 20)])
def test_images_have_the_law_of_the_data(name, quality, calls):
    output = pipeline(ScoreSdePipeline, SCHEDULERS[name]())(
        160, generator=draw(), output_type="latent", quality=quality
    )
    assert output.nfe == calls
    x = output.images.flatten(1).double()
    nothing, none = torch.zeros(0, SIZE**2, dtype=DOUBLE), torch.zeros(0, dtype=DOUBLE)
    # 160 fields of 256 white numbers: an error of 0.7 %.
    assert whitened_variance(x, field(), nothing, none) == pytest.approx(1.0, abs=0.03)
    assert float(x.std()) == pytest.approx(STD, rel=0.04)


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
@pytest.mark.parametrize("quality, calls, error", [(None, 110, 0.03), ("draft", 28, 0.07)])
def test_inpainting_has_the_law_of_the_posterior(name, quality, calls, error):
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1
    pipe, known = pipeline(ScoreSdeInpaintPipeline, SCHEDULERS[name]()), mask.flatten() == 0
    output = pipe(image(), mask, num_samples=100, generator=draw(), output_type="latent", quality=quality)
    assert output.nfe <= calls
    identity = torch.eye(SIZE**2, dtype=DOUBLE)
    x, y = output.images.flatten(1).double(), image().flatten().double()[known]
    ratio = whitened_variance(x, field(), identity[known], y, basis=identity[:, ~known])
    assert ratio == pytest.approx(1.0, abs=error)


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_colorization_has_the_law_of_the_posterior(name):
    pipe = pipeline(ScoreSdeColorizationPipeline, SCHEDULERS[name](), channels=3)
    gray = image(3).mean(1, keepdim=True)
    output = pipe(gray, num_samples=40, generator=draw(), output_type="latent")
    assert output.nfe <= 110
    identity = torch.eye(SIZE**2, dtype=DOUBLE)
    mean_of_channels = torch.kron(torch.full((1, 3), 1 / 3, dtype=DOUBLE), identity)
    colors = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, -2.0]], dtype=DOUBLE)
    x = output.images.flatten(1).double()
    ratio = whitened_variance(
        x, field(3), mean_of_channels, gray.flatten().double(), basis=torch.kron(colors, identity)
    )
    assert ratio == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
@pytest.mark.parametrize("quality", [None, "default"])
def test_super_resolution_has_the_law_of_the_posterior(name, quality):
    pipe, operator, noise = pipeline(ScoreSdeInverseProblemPipeline, SCHEDULERS[name]()), AveragePoolOperator(4), 0.05
    y = operator.A(image())
    output = pipe(y, operator, noise, num_samples=100, generator=draw(), output_type="latent", quality=quality)
    assert output.nfe <= 110
    identity = torch.eye(SIZE**2, dtype=DOUBLE)
    matrix = operator.A(identity.reshape(-1, 1, SIZE, SIZE)).flatten(1).T
    ratio = whitened_variance(output.images.flatten(1).double(), field(), matrix, y.flatten().double(), noise)
    assert ratio == pytest.approx(1.0, abs=0.07)


# ---------------------------------------------------------------------- whose sampler


def chosen(scheduler, quality=None, steps=None, **kw):
    found, levels = choose_sampler(scheduler, quality, steps, **kw)
    return found.config.predictor, found.config.corrector, found.config.timestep_spacing, levels


def test_a_scheduler_without_a_choice_gets_the_default_s_and_keeps_its_own_configuration():
    scheduler = VESDEScheduler(sigma_max=50.0)
    assert chosen(scheduler) == chosen(scheduler, "default") == ("restart", None, None, 100)
    assert chosen(scheduler, "draft") == ("restart", None, None, 20)
    assert chosen(scheduler, "draft", 33) == ("restart", None, None, 33)
    assert chosen(scheduler, "paper") == ("reverse_diffusion", "langevin", "linspace", 1000)
    assert chosen(scheduler, None, 50) == ("reverse_diffusion", "annealed_langevin", None, 50)
    assert scheduler.config.predictor == "reverse_diffusion" and not isinstance(scheduler.predictor, Restart)
    with pytest.raises(ValueError, match="quality must be None or one of"):
        choose_sampler(scheduler, "best", None)


@pytest.mark.parametrize(
    "choice, levels",
    [
        ({"predictor": "ancestral"}, 1000),
        ({"corrector": "langevin"}, 1000),
        ({"timestep_spacing": "karras"}, 1000),
        ({"predictor": "exponential_multistep"}, 100),
        ({"predictor": "restart"}, 100),
        ({"predictor": "learned_steps"}, 100),
    ],
)
def test_a_named_sampler_is_kept_also_from_a_file(choice, levels, tmp_path):
    scheduler = VPSDEScheduler(**choice)
    scheduler.save_pretrained(tmp_path)
    for one in (scheduler, VPSDEScheduler.from_pretrained(tmp_path), VPSDEScheduler.from_config(scheduler.config)):
        own = (one.config.predictor, one.config.corrector, one.config.timestep_spacing)
        assert chosen(one) == chosen(one, "default") == (*own, levels)
        assert chosen(one, "draft") == ("restart", None, None, 20)
        assert chosen(one, "paper") == ("reverse_diffusion", "langevin", "linspace", 1000)


def test_saving_does_not_make_a_choice_of_a_default(tmp_path):
    VPSDEScheduler().save_pretrained(tmp_path)
    assert chosen(VPSDEScheduler.from_pretrained(tmp_path)) == ("restart", None, None, 100)


def test_stock_schedulers_that_describe_a_sampler_keep_it():
    from diffusers import DDIMScheduler, DDPMScheduler, ScoreSdeVeScheduler

    assert chosen(to_sde_scheduler(DDPMScheduler()))[0] == "restart"
    assert chosen(to_sde_scheduler(DDIMScheduler()))[0] == "exponential"
    assert chosen(to_sde_scheduler(ScoreSdeVeScheduler()))[:2] == ("reverse_diffusion", "langevin")


def test_a_predictor_of_one_s_own_is_kept():
    scheduler = VPSDEScheduler()
    scheduler.predictor = lambda sde, x, score, t, s: (x, torch.zeros_like(t))
    assert choose_sampler(scheduler, None, None)[0] is scheduler


def test_the_paper_s_sampler_on_few_levels():
    scheduler = VPSDEScheduler(continuous=True)
    output = pipeline(ScoreSdePipeline, scheduler)(2, 10, generator=draw(), output_type="latent", quality="paper")
    same = VPSDEScheduler.from_config(
        scheduler.config, predictor="reverse_diffusion", corrector="langevin", timestep_spacing="linspace"
    )
    expected = pipeline(ScoreSdePipeline, same)(2, 10, generator=draw(), output_type="latent")
    assert output.nfe == expected.nfe == 20 and torch.equal(output.images, expected.images)
    assert QUALITIES["paper"].levels == 1000
