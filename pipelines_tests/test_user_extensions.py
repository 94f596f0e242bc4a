"""A user's own SDE, predictor and corrector, defined in this file, work in the pipeline, the loss and the likelihood."""

import inspect
import math

import pytest
import torch
from diffusers.configuration_utils import register_to_config

from scoresde_pipelines import (
    SDE,
    DDPMpp,
    GaussianScoreModel,
    ScoreSdePipeline,
    SDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)
from scoresde_pipelines.schedulers.likelihood import log_likelihood
from scoresde_pipelines.training.losses import score_matching_loss


class CosineSDE(SDE):
    def alpha(self, t):
        return torch.cos(1.55 * t)

    def sigma(self, t):
        return torch.sin(1.55 * t)


class CosineScheduler(SDEScheduler):
    def make_sde(self):
        return CosineSDE()


class PowerSDE(SDE):
    """Variance preserving with alpha = cos(1.55 t^power)."""

    def __init__(self, power):
        self.power = power

    def alpha(self, t):
        return torch.cos(1.55 * t**self.power)

    def sigma(self, t):
        return torch.sin(1.55 * t**self.power)


class TunedPowerScheduler(SDEScheduler):
    @register_to_config
    def __init__(self, power: float = 2.0, **kwargs):
        super().__init__(**kwargs)

    def make_sde(self):
        return PowerSDE(self.config.power)


class ScaledVPScheduler(VPSDEScheduler):
    """A parameter on top of a scheduler that has its own."""

    @register_to_config
    def __init__(self, extra: int = 1, **kwargs):
        super().__init__(**kwargs)


def known_variance_ancestral(sde, x, score, t, s):
    """A draw from p(x_s | x_t, x_0) with the denoised image for x_0."""
    scale, std = sde.transition(t, s)
    mean = (x + std**2 * score) / scale
    return mean, std * sde.sigma(s) / sde.sigma(t)


def fixed_size_langevin(sde, x, score, t, noise, snr):
    """Langevin with the step snr^2 sigma_t^2, half the annealed rule's."""
    size = (snr * sde.sigma(t)) ** 2
    mean = x + size * score
    return mean, mean + torch.sqrt(2 * size) * noise


def pipeline(scheduler, v: float = 0.04) -> ScoreSdePipeline:
    data = GaussianScoreModel(torch.full((3, 16, 16), 0.25), v)
    pipe = ScoreSdePipeline(data.network(scheduler), scheduler, data_min=-1.0, data_max=1.0)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def moments(pipe: ScoreSdePipeline, n: int) -> tuple[float, float]:
    x = pipe(16, n, generator=torch.Generator().manual_seed(0), output_type="latent").images
    return float(x.mean()), float(x.std())


@pytest.mark.parametrize(
    "extension, limit", [(CosineSDE, 12), (known_variance_ancestral, 15), (fixed_size_langevin, 15)]
)
def test_extensions_are_as_short_as_promised(extension, limit):
    assert len(inspect.getsource(extension).rstrip().splitlines()) <= limit


@pytest.mark.parametrize("predictor", ["euler_maruyama", "reverse_diffusion", "ancestral", "exponential"])
@pytest.mark.parametrize("corrector", [None, "langevin"])
def test_an_sde_of_one_s_own_samples(predictor, corrector):
    mean, std = moments(pipeline(CosineScheduler(predictor=predictor, corrector=corrector, snr=0.05)), 200)
    assert mean == pytest.approx(0.25, abs=0.02)
    assert std == pytest.approx(0.2, rel=0.05)


def test_its_scheduler_saves_loads_and_trains(tmp_path):
    CosineScheduler(corrector="langevin", snr=0.07).save_pretrained(tmp_path)
    scheduler = CosineScheduler.from_pretrained(tmp_path)
    assert scheduler.config.snr == 0.07 and isinstance(scheduler.sde, CosineSDE)
    data = GaussianScoreModel(torch.zeros(2, 4, 4), 0.04)
    batch = data.sample(256, torch.Generator().manual_seed(0)).float()

    def loss(network) -> float:
        t = torch.linspace(0.05, 0.95, 256)
        noise = torch.randn(batch.shape, generator=torch.Generator().manual_seed(1))
        return float(score_matching_loss(scheduler.score_fn(network), scheduler.sde, batch, t, noise).mean())

    # E |sigma score + z|^2 per dimension at the exact score is alpha^2 v / (alpha^2 v + sigma^2).
    angle = 1.55 * torch.linspace(0.05, 0.95, 256, dtype=torch.float64)
    signal = torch.cos(angle) ** 2 * 0.04
    expected = float((signal / (signal + torch.sin(angle) ** 2)).mean())
    assert loss(data.network(scheduler)) == pytest.approx(expected, rel=0.06)
    assert loss(GaussianScoreModel(torch.full((2, 4, 4), 0.3), 0.04).network(scheduler)) > 1.1 * expected


def reloaded(scheduler, path):
    scheduler.save_pretrained(path)
    loaded = type(scheduler).from_pretrained(path)
    return loaded, type(scheduler).from_config(scheduler.config), type(scheduler).from_config(loaded.config)


def test_a_parameter_of_one_s_own_is_saved_with_all_the_others(tmp_path):
    common = {
        "num_train_timesteps": 40,
        "prediction_type": "v_prediction",
        "predictor": "exponential",
        "corrector": "langevin",
        "snr": 0.07,
        "correct_steps": 2,
        "batch_mean_norm": True,
        "sampling_eps": 2e-3,
        "timestep_spacing": "karras",
        "prologue": True,
        "sigma_data": 0.4,
        "data_mean": 0.1,
        "learned_steps": {"2": {"noise_ratios": [50.0, 1.0], "weights": [[-49.0], [0.0, -1.0]]}},
        "last_noise_level": 0.1,
        "multistep_order": 3,
    }
    assert set(common) == set(inspect.signature(SDEScheduler.__init__).parameters) - {"self"}
    scheduler = TunedPowerScheduler(power=3.0, **common)
    for one in (scheduler, *reloaded(scheduler, tmp_path)):
        assert one.config.power == one.sde.power == 3.0
        assert {key: one.config[key] for key in common} == common
        assert (one.order, len(one.timesteps)) == (3, 121)
    for one in (TunedPowerScheduler(snr=0.05), *reloaded(TunedPowerScheduler(snr=0.05), tmp_path)):
        assert (one.sde.power, one.config.snr, one.config.corrector) == (2.0, 0.05, None)
    scheduler = ScaledVPScheduler(extra=5, beta_end=0.03, continuous=True, snr=0.2)
    for one in (scheduler, *reloaded(scheduler, tmp_path)):
        assert (one.config.extra, one.sde.beta_max, one.config.snr) == (5, pytest.approx(30.0), 0.2)
        assert len(one.compatibles) >= 10


def test_a_pipeline_with_one_s_own_sde_loads_back_and_draws_the_same(tmp_path):
    pipe = ScoreSdePipeline(
        DDPMpp(sample_size=8, block_out_channels=(8,), layers_per_block=1).eval(),
        TunedPowerScheduler(power=3.0, snr=0.05),
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    loaded = ScoreSdePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.scheduler.sde.power == 3.0 and loaded.scheduler.config.snr == 0.05
    a, b = (p(1, 3, generator=torch.Generator().manual_seed(0), output_type="pt").images for p in (pipe, loaded))
    assert torch.equal(a, b)


def test_an_sde_of_one_s_own_has_a_likelihood():
    # The flow carries N(alpha m, p) at t = eps onto the marginal at T, and the prior's density comes back along it.
    sde, m, v, eps = CosineSDE(), 0.25, 0.04, 1e-3
    data, times = GaussianScoreModel(torch.full((3,), m), v), torch.tensor([eps, 1.0], dtype=torch.float64)
    (alpha, alpha_end), (p, p_end) = sde.alpha(times), sde.alpha(times) ** 2 * v + sde.sigma(times) ** 2
    x = data.sample(5, torch.Generator().manual_seed(0))
    latents = alpha_end * m + torch.sqrt(p_end / p) * (x - alpha * m)
    expected = sde.prior_log_prob(latents) + 1.5 * torch.log(p_end / p)

    score = CosineScheduler().score_fn(data.network(CosineScheduler()))
    result = log_likelihood(score, sde, x, divergence="exact", tolerance=1e-7, sampling_eps=eps)
    torch.testing.assert_close(result.latents, latents, rtol=0, atol=1e-4)
    torch.testing.assert_close(result.log_prob, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scheduler_class", [CosineScheduler, VPSDEScheduler, VESDEScheduler])
def test_a_predictor_of_one_s_own_goes_in_as_an_attribute(scheduler_class):
    config = {"sigma_max": 50.0} if scheduler_class is VESDEScheduler else {}
    scheduler, stock = (scheduler_class(corrector=None, **config) for _ in range(2))
    scheduler.predictor = known_variance_ancestral
    stock.predictor = type(stock)(predictor="ancestral", corrector=None, **config).predictor
    a, b = (
        pipeline(one)(2, 20, generator=torch.Generator().manual_seed(0), output_type="latent").images
        for one in (scheduler, stock)
    )
    assert torch.equal(a, b)


def test_a_corrector_of_one_s_own_goes_in_as_an_attribute():
    scheduler = VPSDEScheduler(continuous=True, predictor="reverse_diffusion", snr=math.sqrt(2) * 0.16)
    scheduler.corrector = fixed_size_langevin
    stock = VPSDEScheduler(continuous=True, predictor="reverse_diffusion", corrector="annealed_langevin", snr=0.16)
    assert (scheduler.order, stock.order) == (2, 2)
    a, b = (
        pipeline(one)(2, 20, generator=torch.Generator().manual_seed(0), output_type="latent")
        for one in (scheduler, stock)
    )
    torch.testing.assert_close(a.images, b.images, rtol=1e-5, atol=1e-5)
    assert a.nfe == b.nfe == 40


def test_a_corrector_alone_is_a_sampler():
    scheduler = VPSDEScheduler(continuous=True, snr=0.3)
    scheduler.predictor, scheduler.corrector = None, fixed_size_langevin
    result = pipeline(scheduler)(4, 30, generator=torch.Generator().manual_seed(0), output_type="latent")
    assert result.nfe == 30 and bool(torch.isfinite(result.images).all())


def test_an_sde_without_a_scheduler_says_what_to_write():
    with pytest.raises(NotImplementedError, match="SDEScheduler must implement make_sde"):
        SDEScheduler()
