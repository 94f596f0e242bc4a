"""The probability-flow ODE against closed forms, the official figures and its own contracts."""

import math

import pytest
import torch
from golden_networks import network_score
from golden_toys import SDES, Golden
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde_pipelines import ScoreSdePipeline, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.models import GaussianMixtureScoreModel, GaussianScoreModel
from scoresde_pipelines.schedulers import SDE, DiscreteVPSDE
from scoresde_pipelines.schedulers.probability_flow import ODEError, solve_probability_flow
from scoresde_pipelines.schedulers.runge_kutta import BOGACKI_SHAMPINE, DORMAND_PRINCE, Step, integrate, take_step


class CosineSDE(SDE):
    """A user's own SDE: everything else is derived."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(0.5 * math.pi * 0.999 * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * 0.999 * t)


ALL_SDES = {**SDES, "cosine": CosineSDE(), "table": DiscreteVPSDE(torch.linspace(1e-4, 0.02, 1000).tolist())}


@pytest.fixture(scope="module")
def golden(shared_dir):
    return Golden(shared_dir)


def gaussian(dimensions: int = 6) -> GaussianScoreModel:
    return GaussianScoreModel(torch.linspace(-0.5, 0.5, dimensions), torch.linspace(0.02, 0.5, dimensions))


def bimodal() -> GaussianMixtureScoreModel:
    return GaussianMixtureScoreModel([0.3, 0.5, 0.2], [[-0.7], [0.1], [0.8]], [0.01, 0.04, 0.0025])


def swing(z: Tensor, u: Tensor, rows: Tensor) -> Tensor:
    """dz/du = z cos u, solved by exp(sin u)."""
    return z * torch.cos(u).reshape(-1, 1)


# ------------------------------------------------------------------ the stepper


def fixed_steps(tableau, count: int) -> float:
    z, u, width = torch.ones(1, 1).double(), torch.zeros(1).double(), torch.full((1,), 2.0 / count).double()
    rows = torch.arange(1)
    for _ in range(count):
        _, z = take_step(swing, Step(rows, u, width, z, [swing(z, u, rows)], tableau))
        u = u + width
    return abs(float(z) - math.exp(math.sin(2.0)))


@pytest.mark.parametrize("tableau", [DORMAND_PRINCE, BOGACKI_SHAMPINE], ids=["dormand_prince", "bogacki_shampine"])
def test_measured_order_is_the_declared_one(tableau):
    errors = [fixed_steps(tableau, count) for count in (64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(tableau.order, abs=0.1)


@pytest.mark.parametrize(
    ("tableau", "order"), [(DORMAND_PRINCE, 4), (BOGACKI_SHAMPINE, 3)], ids=["dormand_prince", "bogacki_shampine"]
)
def test_dense_output_has_its_order(tableau, order):
    def error(width: float) -> float:
        rows, u, h = torch.arange(1), *torch.tensor([[0.3], [width]], dtype=torch.float64)
        z = torch.exp(torch.sin(u))[:, None]
        step, _ = take_step(swing, Step(rows, u, h, z, [swing(z, u, rows)], tableau))
        fractions = (0.2, 0.4, 0.6, 0.8)
        return max(
            abs(float(step.at(torch.tensor([f], dtype=torch.float64))) - math.exp(math.sin(0.3 + f * width)))
            for f in fractions
        )

    assert math.log2(error(0.1) / error(0.05)) > order + 0.7  # one step: local error, order + 1


@pytest.mark.parametrize("tableau", [DORMAND_PRINCE, BOGACKI_SHAMPINE], ids=["dormand_prince", "bogacki_shampine"])
def test_tableau_is_consistent(tableau):
    for node, weights in zip(tableau.nodes, tableau.stages):
        assert sum(weights) == pytest.approx(node, abs=1e-14)
    assert sum(tableau.error) == pytest.approx(0, abs=1e-15)
    # At the end of the step the dense output is the solution.
    ends = [sum(row) for row in tableau.dense]
    assert ends == pytest.approx([*tableau.stages[-1], 0], abs=1e-9)


def test_finished_samples_are_not_evaluated():
    evaluated = torch.zeros(4, dtype=torch.int64)
    rates = torch.tensor([0.1, 1.0, 10.0, 30.0]).double()

    def decay(z: Tensor, u: Tensor, rows: Tensor) -> Tensor:
        evaluated.index_add_(0, rows, torch.ones_like(rows))
        return -rates[rows].reshape(-1, 1) * (z - torch.cos(u).reshape(-1, 1))

    solution = integrate(decay, torch.ones(4, 2).double(), 0.0, 3.0, tolerance=1e-6)
    assert torch.equal(solution.nfe, evaluated)
    assert evaluated[3] > 2 * evaluated[0]
    # z' = -k (z - cos u):  z = (k^2 cos u + k sin u) / (k^2 + 1) + C e^(-k u)
    start = rates**2 / (rates**2 + 1)
    exact = (rates**2 * math.cos(3) + rates * math.sin(3)) / (rates**2 + 1) + (1 - start) * torch.exp(-3 * rates)
    assert torch.allclose(solution.z, exact[:, None].expand(4, 2), atol=2e-6)


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("name", ALL_SDES)
@pytest.mark.parametrize("data_std", [0.2, 2.0])
def test_gaussian_data_flow_is_exact(name, data_std):
    sde, data = ALL_SDES[name], gaussian()
    x = torch.randn(3, 6, dtype=torch.float64) * sde.prior_std
    solved = solve_probability_flow(
        lambda x, t: data.score(sde, x, t), sde, x, 1.0, 1e-3, tolerance=1e-8, data_std=data_std
    )

    def moments(t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = (c(torch.tensor(t, dtype=torch.float64)) for c in (sde.alpha, sde.sigma))
        return alpha * data.means[0], (alpha**2 * data.eigenvalues[0] + sigma**2).sqrt()

    (mean_1, std_1), (mean_0, std_0) = moments(1.0), moments(1e-3)
    assert torch.allclose(solved.x, mean_0 + std_0 * (x - mean_1) / std_1, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", SDES)
def test_in_one_dimension_the_flow_is_the_quantile_map(name):
    sde, data = SDES[name], bimodal()

    def cdf(x: Tensor, t: float) -> Tensor:
        alpha, sigma = (c(torch.tensor(t, dtype=torch.float64)) for c in (sde.alpha, sde.sigma))
        std = (alpha**2 * data.eigenvalues + sigma**2).sqrt()
        z = (x - alpha * data.means.T) / std.T
        return (data.log_weights.exp() * 0.5 * torch.erfc(-z / math.sqrt(2))).sum(-1)

    x = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None] * sde.prior_std
    solved = solve_probability_flow(lambda x, t: data.score(sde, x, t), sde, x, 1.0, 1e-3, tolerance=1e-7)
    assert torch.allclose(cdf(solved.x, 1e-3), cdf(x, 1.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ALL_SDES)
def test_round_trip_returns_within_the_tolerance(name):
    sde, data = ALL_SDES[name], bimodal()
    x = data.sample(64, torch.Generator().manual_seed(0))
    score = lambda x, t: data.score(sde, x, t)  # noqa: E731
    latents = solve_probability_flow(score, sde, x, 1e-3, 1.0, tolerance=1e-6).x
    back = solve_probability_flow(score, sde, latents, 1.0, 1e-3, tolerance=1e-6).x
    assert float((back - x).abs().max()) < 1e-4
    assert float((back - x).abs().mean()) < 5e-6


# ------------------------------------------------------------------ the official figures


@pytest.mark.parametrize("start", ["prior", "z"])
@pytest.mark.parametrize("model", ["A", "B"])
@pytest.mark.parametrize("name", SDES)
def test_replays_the_official_samples_with_fewer_evaluations(golden, name, model, start):
    case = golden.cases[f"ode.{name}.{model}.nodenoise"]
    exact = golden.outputs[f"ode.{name}.{model}.nodenoise.{start}.exact"]
    official = golden.outputs[f"ode.{name}.{model}.nodenoise.{start}.f64"]
    score, x = golden.score(model, name), golden.start(name, start)
    solved = solve_probability_flow(score, SDES[name], x, 1.0, case["eps"], tolerance=1e-5)
    error = (golden.data_scale(name, solved.x) - exact).square().mean().sqrt()
    assert error < 2e-5
    assert error < 1.6 * (official - exact).square().mean().sqrt()
    most = {"ve": 0.5, "vp": 0.8, "subvp": 0.82}[name]
    assert int(solved.nfe.max()) <= most * case["nfe_f64"][("prior", "z").index(start)]
    strict = solve_probability_flow(score, SDES[name], x, 1.0, case["eps"], tolerance=1e-9)
    assert torch.allclose(golden.data_scale(name, strict.x), exact, atol=1e-7, rtol=0)


@pytest.mark.parametrize("start", ["prior", "z"])
@pytest.mark.parametrize("model", ["A", "B"])
@pytest.mark.parametrize("name", SDES)
def test_replays_the_official_denoised_samples(golden, name, model, start):
    """The official code's last step: one reverse-diffusion step of 1 / N from t = eps, its mean."""
    key = f"ode.{name}.{model}.denoise"
    score, x, eps, sde = golden.score(model, name), golden.start(name, start), golden.cases[key]["eps"], SDES[name]
    x = solve_probability_flow(score, sde, x, 1.0, eps, tolerance=1e-9).x
    t = torch.tensor(eps, dtype=torch.float64)
    denoised = official_last_step(name, x, score(x, t.expand(len(x))), t)
    exact = golden.outputs[f"{key}.{start}.exact"]
    assert torch.allclose(golden.data_scale(name, denoised), exact, atol=1e-7, rtol=0)


def official_last_step(name: str, x: Tensor, score: Tensor, t: Tensor, n: int = 1000) -> Tensor:
    k = int(t * (n - 1))
    if name == "ve":  # from sigmas[k] to the one below, which for k = 0 is no noise
        sigmas = torch.exp(torch.linspace(math.log(0.01), math.log(50.0), n, dtype=torch.float64))
        return x + (sigmas[k] ** 2 - (sigmas[k - 1] ** 2 if k else 0)) * score
    if name == "vp":
        beta = torch.linspace(0.1 / n, 20.0 / n, n, dtype=torch.float64)[k]
        return (2 - torch.sqrt(1 - beta)) * x + beta * score
    return x - (SDES[name].drift(x, t) - SDES[name].diffusion(t) ** 2 * score) / n


# ------------------------------------------------------------------ the recorded networks


def official_solver(score, sde: SDE, x: Tensor, start: float, end: float, tolerance: float) -> tuple[Tensor, int]:
    """SciPy's RK45 on dx/dt with one error norm for the batch, as the official code has it."""

    def drift(t: float, flat) -> Tensor:
        state, time = torch.from_numpy(flat).reshape(x.shape), torch.full((len(x),), t, dtype=x.dtype)
        g = sde.diffusion(time).reshape(-1, 1, 1, 1)
        return (sde.drift(state, time) - 0.5 * g**2 * score(state, time)).numpy().ravel()

    solution = solve_ivp(drift, (start, end), x.numpy().ravel(), rtol=tolerance, atol=tolerance)
    return torch.from_numpy(solution.y[:, -1]).reshape(x.shape), solution.nfev


@torch.no_grad()
@pytest.mark.parametrize("name", SDES)
def test_networks_replay_the_official_ode(golden, shared_dir, name):
    """The recorded solver on our network gives the recorded samples: same field. And ours solves that field."""
    key, sde, score = f"ode.{name}.net_{name}.nodenoise", SDES[name], network_score(shared_dir, name)
    case, x, recorded = golden.cases[key], golden.start(name, "z"), golden.outputs[f"{key}.z.f64"]
    official, nfe = official_solver(score, sde, x, 1.0, case["eps"], 1e-5)
    size = recorded.square().mean().sqrt()
    # Of sub-VP's steps one is accepted or rejected by a hair, which rounding decides (266 evaluations in float32 as well).
    assert nfe in (case["nfe_f64"], case["nfe_f32"])
    difference = (golden.data_scale(name, official) - recorded).square().mean().sqrt() / size
    assert float(difference) < (2e-5 if name == "subvp" else 5e-6)
    solved = golden.data_scale(name, solve_probability_flow(score, sde, x, 1.0, case["eps"], tolerance=1e-5).x)
    assert float((solved - recorded).square().mean().sqrt() / size) < 1e-3  # both at 1e-5 a step


@torch.no_grad()
@pytest.mark.parametrize("name", SDES)
def test_networks_to_a_tightened_tolerance(golden, shared_dir, name):
    """On a stretch of the way, where random networks can be solved to the end in a test's time."""
    sde, score = SDES[name], network_score(shared_dir, name)
    x = golden.start(name, "z")[:1] * float(sde.sigma(torch.tensor(0.6))) / sde.prior_std
    strict, _ = official_solver(score, sde, x, 0.6, 0.55, 1e-9)
    solved = solve_probability_flow(score, sde, x, 0.6, 0.55, tolerance=1e-8).x
    assert float((solved - strict).abs().max() / strict.square().mean().sqrt()) < 2e-6


# ------------------------------------------------------------------ contracts


def test_a_sample_does_not_depend_on_its_batch():
    sde, data = SDES["vp"], bimodal()
    x = torch.randn(64, 1, dtype=torch.float64)
    score = lambda x, t: data.score(sde, x, t)  # noqa: E731
    together = solve_probability_flow(score, sde, x, 1.0, 1e-3)
    for i in (0, 17, 63):
        alone = solve_probability_flow(score, sde, x[i : i + 1], 1.0, 1e-3)
        assert torch.allclose(alone.x[0], together.x[i], atol=1e-12, rtol=0)
        assert alone.nfe == together.nfe[i]
    assert len(together.nfe.unique()) > 1


def test_conditions_follow_their_samples():
    sde = SDES["ve"]
    models = [GaussianScoreModel([m, -m], 0.01 * (1 + m)) for m in (0.0, 1.0, 5.0)]

    def score(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        each = torch.stack([model.score(sde, x, t) for model in models])
        return each[class_labels, torch.arange(len(x))]

    labels, x = torch.tensor([2, 0, 1, 2]), torch.zeros(4, 2).double()
    solved = solve_probability_flow(score, sde, x, 1.0, 1e-3, condition={"class_labels": labels})
    for i, label in enumerate(labels):
        model = models[int(label)]
        alone = solve_probability_flow(lambda x, t: model.score(sde, x, t), sde, x[:1], 1.0, 1e-3)  # noqa: B023
        assert torch.allclose(solved.x[i], alone.x[0], atol=1e-12)


def test_the_score_function_gets_the_dtype_of_x():
    seen = set()

    def score(x: Tensor, t: Tensor) -> Tensor:
        seen.update({x.dtype, t.dtype})
        return -x / (1 + 1e-4)

    solved = solve_probability_flow(score, SDES["vp"], torch.zeros(2, 3), 1.0, 1e-3)
    assert seen == {torch.float32} and solved.x.dtype == torch.float32


def test_nan_names_its_sample():
    def score(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((x[:, :1] > 0) & (t[:, None] < 0.5), torch.nan, -x)

    x = torch.tensor([[-1.0], [1.0], [-1.0]]).double()
    with pytest.raises(ODEError, match=r"sample 1 .* not finite"):
        solve_probability_flow(score, SDES["vp"], x, 1.0, 1e-3)


def test_step_limit_names_itself():
    data = bimodal()
    with pytest.raises(ODEError, match=r"sample 0 .*max_steps=3"):
        solve_probability_flow(
            lambda x, t: data.score(SDES["vp"], x, t), SDES["vp"], torch.ones(1, 1).double(), 1.0, 1e-3, max_steps=3
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tolerance": 0}, ValueError, "tolerance"),
        ({"t_end": 0.0}, ValueError, "t_end must be a finite number"),
        ({"t_start": 1.5}, ValueError, "t_start must be a finite number"),
        ({"x": torch.zeros(3)}, ValueError, "x must have shape"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "floating-point"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"data_std": -1.0}, ValueError, "data_std"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"x": torch.zeros(1, 1), "t_start": 1.0, "t_end": 1e-3, **change}
    with pytest.raises(error, match=message):
        solve_probability_flow(lambda x, t: x, SDES["vp"], **arguments)


# ------------------------------------------------------------------ in the pipeline


@pytest.mark.parametrize("scheduler", [VESDEScheduler(sigma_max=50.0), VPSDEScheduler(continuous=True)])
def test_pipeline_solves_to_the_exact_image(scheduler):
    mean, variance = torch.linspace(0.2, 0.8, 4).reshape(1, 2, 2), torch.linspace(0.01, 0.1, 4).reshape(1, 2, 2)
    data = GaussianScoreModel(mean, variance)
    pipe = ScoreSdePipeline(data.network(scheduler), scheduler)
    noise = torch.randn(3, 1, 2, 2)
    output = pipe(batch_size=3, latents=noise, ode_tolerance=1e-5, output_type="latent")
    # The flow keeps the standard score of every pixel; the last step is Tweedie's formula.
    t = torch.tensor(scheduler.smallest_time, dtype=torch.float64)
    (a1, s1), (a0, s0) = ((scheduler.sde.alpha(v), scheduler.sde.sigma(v)) for v in (torch.ones_like(t), t))
    z = (noise * scheduler.sde.prior_std - a1 * mean) / (a1**2 * variance + s1**2).sqrt()
    exact = mean + a0 * variance / (a0**2 * variance + s0**2).sqrt() * z
    assert torch.allclose(output.images.double(), exact.double(), atol=1e-4, rtol=0)
    assert output.nfe.shape == (3,) and int(output.nfe.max()) < 65


def test_pipeline_refuses_a_bad_tolerance():
    scheduler = VPSDEScheduler()
    pipe = ScoreSdePipeline(GaussianScoreModel([[[0.0]]], 1.0).network(scheduler), scheduler)
    with pytest.raises(ValueError, match="ode_tolerance"):
        pipe(ode_tolerance=0.0)


def test_a_time_without_noise_is_refused():
    class Cancelling(SDE):
        def alpha(self, t):
            return 1 - 0.95 * t**3.5  # 1 in float64 at t = 1e-5

        def sigma(self, t):
            return (1 - self.alpha(t) ** 2).sqrt()

    with pytest.raises(ValueError, match="times must have a positive, finite sigma / alpha, got 0 at t = 1e-05"):
        solve_probability_flow(lambda x, t: -x, Cancelling(), torch.zeros(1, 2), 1.0, 1e-5)
