"""The SDEs against the official code's figures and against closed forms written out here."""

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

from scoresde_pipelines.schedulers import SDE, VESDE, VPSDE, DiscreteVPSDE, SubVPSDE, VPSDEScheduler
from scoresde_pipelines.schedulers.discrete_sdes import DiscreteSubVPSDE, DiscreteVESDE


class CosineSDE(SDE):
    """A user's own: alpha = cos, sigma = sin of an angle c t; then f = -c tan(c t) and g^2 = 2 c tan(c t)."""

    angle = 0.5 * math.pi * 0.999

    def alpha(self, t):
        return torch.cos(self.angle * t)

    def sigma(self, t):
        return torch.sin(self.angle * t)


BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SDES = {
    "ve": VESDE(0.01, 50.0),
    "ve_1348": VESDE(0.02, 1348.0),
    "vp": VPSDE(0.1, 20.0),
    "vp_other": VPSDE(0.5, 8.0),
    "vp_constant": VPSDE(5.0, 5.0),
    "subvp": SubVPSDE(0.1, 20.0),
    "subvp_other": SubVPSDE(0.5, 8.0),
    "cosine": CosineSDE(),
    "discrete_vp": DiscreteVPSDE(BETAS),
    "discrete_subvp": DiscreteSubVPSDE(BETAS),
    "discrete_ve": DiscreteVESDE(BETAS),
}
CLOSED_FORMS = ["ve", "ve_1348", "vp", "vp_other", "vp_constant", "subvp", "subvp_other", "cosine"]
TIMES = [1e-5, 1e-3, 0.01, 0.2, 0.5, 0.9, 1.0]


def closed_form(sde: SDE, t: np.ndarray) -> dict[str, np.ndarray]:
    """alpha, sigma, drift rate f and squared diffusion of the paper's formulas, float64."""
    if isinstance(sde, CosineSDE):
        angle = sde.angle * t
        rate = sde.angle * np.tan(angle)
        return {"alpha": np.cos(angle), "sigma": np.sin(angle), "f": -rate, "g2": 2 * rate}
    if isinstance(sde, VESDE):
        sigma = sde.sigma_min ** (1 - t) * sde.sigma_max**t
        return {
            "alpha": np.ones_like(t),
            "sigma": sigma,
            "f": np.zeros_like(t),
            "g2": 2 * sigma**2 * math.log(sde.sigma_max / sde.sigma_min),
        }
    beta = (1 - t) * sde.beta_min + t * sde.beta_max
    integral = 0.5 * t * (sde.beta_min + beta)
    variance = -np.expm1(-integral)
    form = {"alpha": np.exp(-integral / 2), "sigma": np.sqrt(variance), "f": -beta / 2, "g2": beta}
    if isinstance(sde, SubVPSDE):
        form |= {"sigma": variance, "g2": -beta * np.expm1(-2 * integral)}
    return form


# ---------------------------------------------------------------------- the official code's figures


GOLDEN = {
    "ve": VESDE(0.01, 50.0),
    "vp": VPSDE(0.1, 20.0),
    "subvp": SubVPSDE(0.1, 20.0),
    "ve_celebahq256": VESDE(0.01, 348.0),
    "ve_ffhq1024": VESDE(0.01, 1348.0),
}


@pytest.fixture(scope="module")
def golden(shared_dir):
    folder = shared_dir / "golden"
    return json.loads((folder / "sde_lib.json").read_text()), load_file(folder / "sde_lib.safetensors")


def official_step(name: str, sde: SDE, n: int, x: torch.Tensor, t: torch.Tensor, index: torch.Tensor):
    """f and G of the official `discretize`, from our methods, and where the two are the same step.

    VE: neighbours among n log-spaced sigmas, our transition over 1 / (n - 1) (the first entry starts at noise 0, which
    is no time of this SDE). VP: the table of betas, our DiscreteVPSDE. Sub-VP: the base class's Euler step.
    """
    same = torch.ones_like(index, dtype=torch.bool)
    if name.startswith("ve"):
        scale, std = sde.transition(index.to(t) / (n - 1), (index - 1).to(t) / (n - 1))
        same = index > 0
    elif name == "vp":
        table = DiscreteVPSDE(torch.linspace(0.1 / n, 20 / n, n, dtype=torch.float64))
        scale, std = table.transition((index + 1).double() / n, index.double() / n)
    else:
        return sde.drift(x, t) / n, sde.diffusion(t) / math.sqrt(n), same
    return (scale.to(t) - 1)[:, None, None, None] * x, std.to(t), same


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", GOLDEN)
def test_every_official_quantity_is_replayed(golden, name, dtype):
    document, tensors = golden
    sde, n = GOLDEN[name], document["sdes"][name]["N"]
    kind, tolerance = (torch.float32, 2e-5) if dtype == "f32" else (torch.float64, 1e-9)
    x, score, t = (tensors[key].to(kind) for key in ("x", "score", "t"))
    recorded = {key.split(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.{dtype}.")}

    mean, std = sde.marginal(x, t)
    drift, g = sde.drift(x, t), sde.diffusion(t)
    f, step_std, same = official_step(name, sde, n, x, t, recorded["timestep_index"])
    g_wide, step_wide = g[:, None, None, None], step_std[:, None, None, None]
    ours = {
        "mean": mean,
        "std": std,
        "drift": drift,
        "diffusion": g,
        "rev_drift": drift - g_wide**2 * score,
        "rev_diffusion": g,
        "rev_ode_drift": drift - 0.5 * g_wide**2 * score,
        "prior_logp": sde.prior_log_prob(x),
        "f": f,
        "G": step_std,
        "rev_f": f - step_wide**2 * score,
        "rev_G": step_std,
        "rev_ode_f": f - 0.5 * step_wide**2 * score,
        "rev_ode_G": torch.zeros_like(t),
    }
    steps = {"f", "G", "rev_f", "rev_G", "rev_ode_f", "rev_ode_G"}
    for key, value in ours.items():
        assert value.dtype == kind
        rows, bound = (same if key in steps else torch.ones_like(same)), tolerance
        if dtype == "f32" and key not in ("mean", "drift", "prior_logp"):
            # The official float32 loses digits in 1 - exp(-small) and in sigma_i^2 - sigma_{i-1}^2: the float64 case is
            # the strict one.
            rows, bound = rows & (t >= 0.03), 2e-4
        torch.testing.assert_close(
            value[rows], recorded[key][rows], rtol=bound, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )
    assert (
        not set(recorded)
        - set(ours)
        - {
            "timestep_index",
            "discrete_sigmas",
            "discrete_betas",
            "alphas",
            "alphas_cumprod",
            "sqrt_alphas_cumprod",
            "sqrt_1m_alphas_cumprod",
        }
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_float32_keeps_what_the_official_float32_loses(golden, name):
    tensors, sde = golden[1], GOLDEN[name]
    t = tensors["t"]
    for key, value in (("std", sde.sigma(t.float())), ("diffusion", sde.diffusion(t.float()))):
        error = (value.double() / tensors[f"{name}.f64.{key}"] - 1).abs().max()
        assert error < 2e-6, key
    if name != "vp" and name != "subvp":
        return
    official = (tensors[f"{name}.f32.std"].double() / tensors[f"{name}.f64.std"] - 1).abs().max()
    assert official > 5e-3  # 0.6 % (VP) and 1.2 % (sub-VP) at t = 1e-5


def test_official_tables(golden):
    tensors = golden[1]
    levels = GOLDEN["ve"].sigma(torch.arange(1000, dtype=torch.float64) / 999)
    torch.testing.assert_close(levels, tensors["ve.f64.discrete_sigmas"], rtol=1e-12, atol=0)
    # float32 betas, as DDPM keeps them: hence 1e-6.
    table = VPSDEScheduler()
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(table.betas.double(), tensors["vp.f64.discrete_betas"], rtol=1e-7, atol=0)
    for value, key in (
        (table.sde.alpha(times), "sqrt_alphas_cumprod"),
        (table.sde.sigma(times), "sqrt_1m_alphas_cumprod"),
    ):
        torch.testing.assert_close(value, tensors[f"vp.f64.{key}"], rtol=1e-6, atol=0)


# ---------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 4e-6)])
def test_coefficients_are_the_paper_s(name, dtype, tolerance):
    sde = SDES[name]
    t = torch.tensor(TIMES[:-1] if name == "cosine" else TIMES, dtype=dtype)
    expected = closed_form(sde, t.double().numpy())
    x = torch.full((len(t), 2, 3), 1.5, dtype=dtype)
    mean, std = sde.marginal(x, t)
    ours = {
        "alpha": sde.alpha(t),
        "sigma": sde.sigma(t),
        "f": sde.drift(x, t)[:, 0, 0] / 1.5,
        "g2": sde.diffusion(t) ** 2,
    }
    for key, value in ours.items():
        assert value.dtype == dtype and value.shape == t.shape
        np.testing.assert_allclose(value.double().numpy(), expected[key], rtol=tolerance, atol=1e-12, err_msg=key)
    np.testing.assert_allclose(mean[:, 1, 2].double().numpy(), 1.5 * expected["alpha"], rtol=tolerance)
    np.testing.assert_allclose(std.double().numpy(), expected["sigma"], rtol=tolerance)
    log_snr = 2 * np.log(expected["alpha"] / expected["sigma"])
    np.testing.assert_allclose(sde.log_snr(t).double().numpy(), log_snr, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("name", SDES)
def test_overrides_agree_with_what_the_base_class_derives(name):
    sde, t = SDES[name], torch.tensor([1e-4, 0.03, 0.21234, 0.5, 0.77, 0.999], dtype=torch.float64)
    torch.testing.assert_close(sde.drift_rate(t), SDE.drift_rate(sde, t), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(sde.diffusion(t), SDE.diffusion(sde, t), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(sde.log_alpha(t), SDE.log_alpha(sde, t), rtol=1e-8, atol=1e-12)
    # The VP prior is N(0, I), what x_T tends to, not N(0, sigma_T^2 I).
    assert sde.prior_std == pytest.approx(SDE.prior_std.fget(sde), rel=0.1 if "vp_" in name else 1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(SDE.diffusion(sde, t.clone()), sde.diffusion(t), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", SDES)
def test_transition_kernels_compose_and_start_at_the_marginal(name):
    sde = SDES[name]
    grid = torch.tensor([1e-5, 1e-3, 0.05, 0.3, 0.9, 0.9995, 1.0], dtype=torch.float64)
    s, u, t = grid[:-2], grid[1:-1], grid[2:]
    (scale_us, std_us), (scale_tu, std_tu), (scale_ts, std_ts) = (
        sde.transition(u, s),
        sde.transition(t, u),
        sde.transition(t, s),
    )
    torch.testing.assert_close(scale_tu * scale_us, scale_ts, rtol=1e-12, atol=0)
    torch.testing.assert_close(scale_tu**2 * std_us**2 + std_tu**2, std_ts**2, rtol=1e-9, atol=0)
    # The marginal at s, carried to t, is the marginal at t.
    torch.testing.assert_close(scale_ts * sde.alpha(s), sde.alpha(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(scale_ts**2 * sde.sigma(s) ** 2 + std_ts**2, sde.sigma(t) ** 2, rtol=1e-9, atol=0)
    scale, std = sde.transition(t, t)
    assert torch.equal(scale, torch.ones_like(t)) and torch.equal(std, torch.zeros_like(t))
    scale, std = sde.transition(t, torch.zeros_like(t))
    torch.testing.assert_close(scale * sde.alpha(torch.zeros(()).double()), sde.alpha(t), rtol=1e-12, atol=0)
    floor = sde.sigma(torch.zeros(()).double())
    torch.testing.assert_close(scale**2 * floor**2 + std**2, sde.sigma(t) ** 2, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SDES)
def test_a_short_transition_is_the_infinitesimal_one(name):
    sde, t, step = SDES[name], torch.tensor([0.01, 0.3, 0.8], dtype=torch.float64) + 1e-4, 1e-7
    scale, std = sde.transition(t, t - step)
    torch.testing.assert_close((scale - 1) / step, sde.drift_rate(t), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(std / math.sqrt(step), sde.diffusion(t), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", SDES)
def test_integers_are_log_snrs_too(name):
    sde = SDES[name]
    expected = sde.t_from_log_snr(torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(sde.t_from_log_snr(torch.tensor([1, -2])), expected)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_log_snr_and_its_inverse(name, dtype, tolerance):
    sde, t = SDES[name], torch.tensor([1e-5, 1e-3, 0.02, 0.4, 0.77, 1.0], dtype=dtype)
    log_snr = sde.log_snr(t)
    assert bool((log_snr.diff() < 0).all())
    back = sde.t_from_log_snr(log_snr)
    assert back.dtype == dtype and back.shape == t.shape
    # In time where log-SNR is steep, in log-SNR where it is flat.
    torch.testing.assert_close(sde.log_snr(back.double()), sde.log_snr(t.double()), rtol=1e-6, atol=tolerance)
    ends = torch.tensor([1e4, -1e4], dtype=dtype)
    torch.testing.assert_close(sde.t_from_log_snr(ends), torch.tensor([0.0, 1.0], dtype=dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_scalar_times_and_python_numbers(name):
    sde, x = SDES[name], torch.randn(3, 4)
    expected = closed_form(sde, np.array(0.37))
    mean, std = sde.marginal(x, 0.37)
    assert mean.dtype == torch.float32 and std.shape == ()
    torch.testing.assert_close(mean, float(expected["alpha"]) * x)
    assert float(std) == pytest.approx(float(expected["sigma"]), rel=1e-12)
    assert sde.drift(x, torch.tensor(0.37, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("name", SDES)
def test_prior(name):
    sde, z = SDES[name], torch.randn(3, 2, 5, dtype=torch.float64) * 4
    expected = scipy.stats.norm.logpdf(z.numpy(), scale=sde.prior_std).sum((1, 2))
    np.testing.assert_allclose(sde.prior_log_prob(z).numpy(), expected, rtol=1e-12)
    stds = {"ve": 50.0, "ve_1348": 1348.0, "cosine": math.sin(CosineSDE.angle)}
    if name in stds or "vp" in name:
        assert sde.prior_std == pytest.approx(stds.get(name, 1.0), rel=1e-12)


def test_denoise_is_tweedie_s_formula():
    # For data at one point x_0 the score is -(x - alpha x_0) / sigma^2 and the denoised image x_0.
    x0, x = torch.tensor([[0.3, -0.8]], dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    for sde in SDES.values():
        t = torch.tensor([0.4], dtype=torch.float64)
        score = -(x - sde.alpha(t) * x0) / sde.sigma(t) ** 2
        torch.testing.assert_close(sde.denoise(x, score, t), x0, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------- tables of betas


SCHEDULES = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "sigmoid"},
    {"num_train_timesteps": 100, "beta_end": 0.2},
    {"trained_betas": [0.1, 0.2, 0.3, 0.4], "num_train_timesteps": 4},
]


@pytest.mark.parametrize("config", SCHEDULES, ids=lambda c: ",".join(map(str, c.values()))[:30] or "default")
def test_discrete_vp_has_ddpm_s_alphas_cumprod_at_every_index(config):
    stock, ours = DDPMScheduler(**config), VPSDEScheduler(**config)
    n = len(stock.betas)
    times = torch.arange(1, n + 1, dtype=torch.float64) / n
    torch.testing.assert_close(ours.betas, stock.betas, rtol=1e-6, atol=1e-8)
    exact = torch.cumprod(1 - stock.betas.double(), 0)
    torch.testing.assert_close(ours.sde.alpha(times) ** 2, exact, rtol=2e-5, atol=1e-9)
    torch.testing.assert_close(ours.sde.sigma(times) ** 2, 1 - exact, rtol=2e-5, atol=1e-9)
    scale, std = ours.sde.transition(times, times - 1 / n)
    torch.testing.assert_close(scale**2, 1 - stock.betas.double(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(std**2, stock.betas.double(), rtol=1e-5, atol=0)


def test_zero_terminal_snr_stays_finite():
    # Only the last alpha, zero in the table, is raised: to half of its neighbour where that is below 2^-12.
    sde, n = VPSDEScheduler(rescale_betas_zero_snr=True).sde, 1000
    stock = DDPMScheduler(rescale_betas_zero_snr=True).alphas_cumprod.double()
    alpha = sde.alpha(torch.arange(1, n + 1, dtype=torch.float64) / n)
    torch.testing.assert_close(alpha[:-1] ** 2, stock[:-1], rtol=1e-3, atol=1e-12)
    assert float(stock[-1]) == 0 and float(alpha[-1] / alpha[-2]) == pytest.approx(0.5, rel=1e-9)
    t = torch.linspace(0.99, 1, 101, dtype=torch.float64)
    assert bool((sde.alpha(t).diff() < 0).all()) and bool(torch.isfinite(sde.diffusion(t)).all())
    assert float(DiscreteVPSDE([0.5, 1.0]).alpha(torch.ones(()).double())) == pytest.approx(2**-12, rel=1e-9)


def test_between_the_nodes_a_table_follows_the_continuous_sde_it_was_sampled_from():
    # beta_i = 1 - exp(-int over cell i of beta): the table's log alpha is the continuous one's at every node.
    exact, n = VPSDE(0.1, 20.0), 1000
    nodes = exact.log_alpha(torch.arange(n + 1, dtype=torch.float64) / n)
    table = DiscreteVPSDE(-torch.expm1(2 * nodes.diff()))
    t = torch.linspace(0.0, 1.0, 7919, dtype=torch.float64)
    torch.testing.assert_close(table.log_alpha(t), exact.log_alpha(t), rtol=0, atol=1e-9)
    torch.testing.assert_close(table.beta(t), exact.beta(t), rtol=0, atol=1e-5)
    vp, ve = table.log_snr(t[1:]), DiscreteVESDE(table.betas).log_snr(t[1:])
    torch.testing.assert_close(vp, ve, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: VESDE(0.0, 50.0), "sigma_min"),
        (lambda: VESDE(2.0, 1.0), "sigma_max"),
        (lambda: VPSDE(-1.0, 2.0), "beta_min"),
        (lambda: SubVPSDE(3.0, 2.0), "beta_min must be at most beta_max"),
        (lambda: DiscreteVPSDE([0.1, 1.2]), "betas"),
        (lambda: DiscreteVPSDE([0.1]), "betas"),
        (lambda: DiscreteVPSDE([0.1, 1.0, 0.1]), "betas"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_an_sde_without_formulas_says_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"SDE must implement alpha\(t\)"):
        SDE().alpha(torch.tensor(0.5))
