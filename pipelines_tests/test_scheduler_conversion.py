"""Every stock scheduler of diffusers, in memory and from disk: the same noise schedule, or a refusal that names it."""

import importlib
import inspect
import pkgutil

import diffusers.schedulers
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.deprecated import ScoreSdeVpScheduler
from diffusers.schedulers.scheduling_sde_ve import ScoreSdeVeScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from scoresde_pipelines import SDE, SDEScheduler, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.schedulers.scheduling_conversion import sde_scheduler_class, to_sde_scheduler


def stock_classes() -> list[type]:
    for module in pkgutil.walk_packages(diffusers.schedulers.__path__, "diffusers.schedulers."):
        try:
            importlib.import_module(module.name)
        except ImportError:  # torchsde
            continue

    def below(cls):
        for subclass in cls.__subclasses__():
            yield subclass
            yield from below(subclass)

    found = {cls for cls in below(SchedulerMixin) if cls.__module__.startswith("diffusers.")}
    return sorted(found, key=lambda cls: cls.__name__)


ARGUMENTS = {
    "AmusedScheduler": {"mask_token_id": 1},
    "VQDiffusionScheduler": {"num_vec_classes": 4},
    "RFD4ProteinaScheduler": {"schedule_mode": "power", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
}
SCORE_SDES = ("ScoreSdeVeScheduler", "ScoreSdeVpScheduler")


def from_disk(scheduler, folder):
    scheduler.save_pretrained(folder)
    return to_sde_scheduler(SDEScheduler.load_config(folder))


def public(config):
    return {key: value for key, value in config.items() if not key.startswith("_")}


def check_table(ours, stock):
    n = len(stock.alphas_cumprod)
    alpha = ours.sde.alpha(torch.arange(1, n + 1, dtype=torch.float64) / n)
    torch.testing.assert_close(alpha**2, stock.alphas_cumprod.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", stock_classes(), ids=lambda cls: cls.__name__)
def test_every_stock_scheduler_converts_or_is_refused_by_name(cls, tmp_path):
    stock = cls(**ARGUMENTS.get(cls.__name__, {}))
    try:
        ours = to_sde_scheduler(stock)
    except ValueError as error:
        assert f"got {cls.__name__}: " in str(error)
        with pytest.raises(ValueError, match=f"got {cls.__name__}: "):
            from_disk(stock, tmp_path)
        return
    loaded = from_disk(stock, tmp_path)
    assert public(loaded.config) == public(ours.config)
    assert torch.equal(loaded.timesteps, ours.timesteps)
    if cls.__name__ not in SCORE_SDES:
        check_table(ours, stock)
        assert ours.config.prediction_type == stock.config.get("prediction_type", "epsilon")


def test_at_least_the_schedulers_with_a_ddpm_table_convert():
    converted = set()
    for cls in stock_classes():
        try:
            to_sde_scheduler(cls(**ARGUMENTS.get(cls.__name__, {})))
            converted.add(cls.__name__)
        except ValueError:
            pass
    tables = {cls.__name__ for cls in stock_classes() if "beta_start" in inspect.signature(cls.__init__).parameters}
    assert converted == (tables | set(SCORE_SDES)) - {"LCMScheduler", "TCDScheduler"} and len(converted) >= 20


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_every_schedule_of_betas(beta_schedule, zero_snr, tmp_path):
    try:
        stock = DDPMScheduler(beta_schedule=beta_schedule, rescale_betas_zero_snr=zero_snr, beta_end=0.015)
    except NotImplementedError:
        pytest.skip(f"this version of diffusers has no schedule {beta_schedule}")
    for ours in (to_sde_scheduler(stock), from_disk(stock, tmp_path)):
        check_table(ours, stock)


@pytest.mark.parametrize(
    "stock",
    [
        HeunDiscreteScheduler(beta_schedule="exp", num_train_timesteps=200),
        HeunDiscreteScheduler(prediction_type="sample"),
        DDPMScheduler(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3),
        CogVideoXDDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        EulerDiscreteScheduler(rescale_betas_zero_snr=True),
        DPMSolverMultistepScheduler(use_karras_sigmas=True, variance_type="fixed_small"),
    ],
    ids=lambda stock: type(stock).__name__,
)
def test_options_of_the_table_survive_the_disk(stock, tmp_path):
    ours, loaded = to_sde_scheduler(stock), from_disk(stock, tmp_path)
    for one in (ours, loaded):
        check_table(one, stock)
        assert one.config.prediction_type == stock.config.prediction_type
    # What is saved again is one of ours and keeps the table.
    again = from_disk(ours, tmp_path / "again")
    assert type(again) is VPSDEScheduler and torch.equal(again.alphas_cumprod, ours.alphas_cumprod)


def test_options_at_their_default_become_ours_and_others_stay(tmp_path):
    for spacing, expected in (("leading", None), ("trailing", "trailing")):
        stock = DDPMScheduler(timestep_spacing=spacing)  # "leading" is DDPM's default
        for ours in (to_sde_scheduler(stock), from_disk(stock, tmp_path)):
            assert ours.config.timestep_spacing == expected and ours.config.predictor == "ancestral"
    stock = DDPMScheduler(variance_type="fixed_large")
    assert from_disk(stock, tmp_path).config.variance_type == "fixed_large"
    assert from_disk(DDIMScheduler(), tmp_path).config.predictor == "exponential"
    kept = DDIMScheduler.from_config(VPSDEScheduler(predictor="euler_maruyama", snr=0.3).config)
    for ours in (to_sde_scheduler(kept), from_disk(kept, tmp_path)):
        assert (ours.config.predictor, ours.config.snr) == ("euler_maruyama", 0.3)


def test_score_sde_schedulers_are_their_formulas(tmp_path):
    stock = ScoreSdeVpScheduler(beta_min=0.1, beta_max=20.0)
    for ours in (to_sde_scheduler(stock), from_disk(stock, tmp_path)):
        # sigma(1/2)^2 = 1 - exp(-(beta_min / 2 + (beta_max - beta_min) / 8))
        half = torch.tensor(0.5, dtype=torch.float64)
        assert float(ours.sde.sigma(half)) == pytest.approx((1 - 2.718281828459045**-2.5375) ** 0.5, abs=1e-9)
        assert ours.config.continuous and ours.config.sampling_eps == 1e-3
    stock = ScoreSdeVeScheduler(sigma_max=380.0, snr=0.075, sampling_eps=1e-4)
    for ours in (to_sde_scheduler(stock), from_disk(stock, tmp_path)):
        assert type(ours) is VESDEScheduler and ours.sde.sigma_max == 380.0
        assert (ours.config.snr, ours.config.sampling_eps, ours.config.corrector) == (0.075, 1e-4, "langevin")


@pytest.mark.parametrize(
    "stock, reason",
    [
        (DDPMScheduler(variance_type="learned"), "variance_type 'learned'"),
        (DPMSolverMultistepScheduler(variance_type="learned_range"), "variance_type 'learned_range'"),
        (UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), "flow matching"),
        (EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"), "ln\\(sigma\\) / 4"),
        (DDPMScheduler(prediction_type="velocity"), "prediction_type must be one of .* got 'velocity'"),
        (DDPMScheduler(beta_start=0.0), "beta_start must be a finite number"),
        (DDIMScheduler(num_train_timesteps=1), "betas must be a sequence of at least 2 numbers"),
        (ScoreSdeVpScheduler(num_train_timesteps=1), "beta_end must be a finite number"),
        (LCMScheduler(prediction_type="flow_prediction"), "its network is distilled"),
    ],
    ids=[
        "learned",
        "learned_range",
        "flow",
        "continuous",
        "prediction_type",
        "no noise",
        "1 beta",
        "1 step",
        "distilled",
    ],
)
def test_options_without_an_sde_are_refused_with_the_reason(stock, reason, tmp_path):
    with pytest.raises(ValueError, match=f"got {type(stock).__name__}: .*{reason}"):
        to_sde_scheduler(stock)
    with pytest.raises(ValueError, match=f"got {type(stock).__name__}: .*{reason}"):
        from_disk(stock, tmp_path)


class LinearSDE(SDE):
    def __init__(self, slope: float = 2.0):
        self.slope = slope

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return self.slope * t


class LinearSigmaScheduler(SDEScheduler):
    @register_to_config
    def __init__(
        self,
        slope: float = 2.0,
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        predictor: str | None = "reverse_diffusion",
        corrector: str | None = None,
        snr: float = 0.16,
        correct_steps: int = 1,
        batch_mean_norm: bool = False,
        sampling_eps: float = 1e-3,
        timestep_spacing: str = "linspace",
        prologue: bool = False,
    ):
        self.setup()

    def make_sde(self):
        return LinearSDE(self.config.slope)


def test_schedulers_of_this_package_and_of_a_user_come_back_as_they_were(tmp_path):
    for k, scheduler in enumerate((SubVPSDEScheduler(beta_end=0.01), LinearSigmaScheduler(slope=3.5))):
        assert to_sde_scheduler(scheduler) is scheduler
        loaded = from_disk(scheduler, tmp_path / str(k))
        assert type(loaded) is type(scheduler) and public(loaded.config) == public(scheduler.config)
    assert loaded.sde.slope == 3.5


def test_what_is_no_scheduler_is_refused():
    with pytest.raises(TypeError, match="scheduler must be a diffusers scheduler or its config, got str"):
        to_sde_scheduler("ddpm")
    with pytest.raises(ValueError, match="scheduler config must hold its class under '_class_name', got None"):
        to_sde_scheduler({"beta_start": 0.1})
    for name in ("NoSuchScheduler", "os", "SDE"):
        with pytest.raises(ValueError, match=f"'{name}' must be .*: import the module that defines it first"):
            to_sde_scheduler({"_class_name": name})
    with pytest.raises(ValueError, match="must name a scheduler under '_class_name', got 'deprecated'"):
        to_sde_scheduler({"_class_name": "deprecated"})
    assert sde_scheduler_class("VESDEScheduler") is VESDEScheduler
