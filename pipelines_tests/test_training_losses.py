"""The losses against recorded figures of the official code, their closed forms, and the time samplers' densities."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scoresde_pipelines.schedulers import (
    VESDE,
    VPSDE,
    DiscreteVPSDE,
    SubVPSDE,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
)
from scoresde_pipelines.schedulers.parameterization import Parameterization
from scoresde_pipelines.training.ema import ExponentialMovingAverage
from scoresde_pipelines.training.losses import ddpm_loss, denoising_loss, score_matching_loss, smld_loss
from scoresde_pipelines.training.objectives import make_objective


SHARED = Path(os.environ.get("SCORESDE_SHARED", Path(__file__).parents[2] / "shared"))
needs_golden = pytest.mark.skipif(
    not (SHARED / "golden" / "losses.json").exists(), reason="the recorded reference figures are not here"
)
SDES = {"ve": VESDE(0.01, 50.0), "vp": VPSDE(0.1, 20.0), "subvp": SubVPSDE(0.1, 20.0)}
SCHEDULERS = {
    "ve": lambda **options: VESDEScheduler(sigma_min=0.01, sigma_max=50.0, **options),
    "vp": lambda **options: VPSDEScheduler(continuous=True, **options),
    "subvp": SubVPSDEScheduler,
}
DTYPES = {"f32": torch.float32, "f64": torch.float64}
TOLERANCES = {"f32": 1e-5, "f64": 1e-9}


class ToyNetwork(torch.nn.Module):
    """The network of the recorded figures: a tanh(x) + b labels / (1 + labels)."""

    def __init__(self, dtype):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.5, dtype=dtype))
        self.b = torch.nn.Parameter(torch.tensor(-0.25, dtype=dtype))

    def forward(self, x, labels):
        labels = labels.to(x.dtype)
        return self.a * torch.tanh(x) + self.b * (labels / (1 + labels)).reshape(-1, 1, 1, 1)


def golden():
    document = json.loads((SHARED / "golden" / "losses.json").read_text())
    return document, load_file(SHARED / "golden" / "losses.safetensors")


def golden_cases():
    return golden()[0]["cases"] if (SHARED / "golden" / "losses.json").exists() else []


def discrete_loss(case, network, batch, labels, noise):
    """SMLD or DDPM: their objective at the times of the recorded labels; the network is told the label."""
    if case["loss"] == "get_smld_loss_fn":
        # The official levels fall from sigma_max (label 0) to sigma_min.
        sde, prediction, index, name = VESDE(0.01, 50.0), "score", 999 - labels, "smld"
    else:
        betas = torch.linspace(0.1 / 1000, 20 / 1000, 1000, dtype=torch.float64)
        sde, prediction, index, name = DiscreteVPSDE(betas), "epsilon", labels, "ddpm"
    objective = make_objective(name)
    t = objective.times(sde, (index.double() + 0.5) / 1000)
    return denoising_loss(
        lambda x, _: network(x, labels), Parameterization(prediction), sde, batch, t, noise,
        weighting=objective.weighting, reduce_mean=case["reduce_mean"],
    ).mean()  # fmt: skip


def replay(case, network, tensors):
    """The loss of one recorded case."""
    dtype, name, mean = DTYPES[case["dtype"]], case["sde"], case["reduce_mean"]
    batch, noise = tensors["batch"].to(dtype), tensors["z"].to(dtype)
    batch = batch if name == "ve" else 2 * batch - 1
    if case["loss"] != "get_sde_loss_fn" and case["loss"]:
        return discrete_loss(case, network, batch, tensors["labels"], noise)
    t = tensors["u"].to(dtype) * (1 - case["eps"]) + case["eps"]
    scheduler, weighting = SCHEDULERS[name](), case["likelihood_weighting"]
    return score_matching_loss(
        scheduler.score_fn(network), scheduler.sde, batch, t, noise, likelihood_weighting=weighting, reduce_mean=mean
    ).mean()


@needs_golden
@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case["key"])
def test_losses_and_gradients_replay_the_official_code(case):
    network = ToyNetwork(DTYPES[case["dtype"]])
    loss = replay(case, network, golden()[1])
    loss.backward()
    figures = [loss.item(), network.a.grad.item(), network.b.grad.item()]
    recorded = [case["loss_value"], case["grad_a"], case["grad_b"]]
    assert figures == pytest.approx(recorded, rel=TOLERANCES[case["dtype"]])


@needs_golden
@pytest.mark.parametrize(
    "case", [case for case in golden_cases() if "sde_loss" not in case["loss"]], ids=lambda c: c["key"]
)
def test_the_deprecated_discrete_losses_still_work(case):
    dtype, tensors, mean = DTYPES[case["dtype"]], golden()[1], case["reduce_mean"]
    batch, noise, labels = tensors["batch"].to(dtype), tensors["z"].to(dtype), tensors["labels"]
    network = ToyNetwork(dtype)
    with pytest.warns(FutureWarning, match="use the objective"):
        if case["sde"] == "ve":
            sigmas = torch.logspace(math.log10(50), math.log10(0.01), 1000, dtype=torch.float64).to(dtype)
            loss = smld_loss(network, sigmas, batch, labels, noise, reduce_mean=mean)
        else:
            betas = torch.linspace(0.1 / 1000, 20 / 1000, 1000, dtype=torch.float64)
            alphas_cumprod = torch.cumprod(1 - betas, dim=0).to(dtype)
            loss = ddpm_loss(network, alphas_cumprod, 2 * batch - 1, labels, noise, reduce_mean=mean)
    assert loss.mean().item() == pytest.approx(case["loss_value"], rel=TOLERANCES[case["dtype"]])


@needs_golden
@pytest.mark.parametrize("index", range(3))
def test_warm_up_clipping_and_ema_replay_the_official_training_steps(index):
    document, tensors = golden()
    run = document["train_steps"][index]
    case = {"dtype": "f64", "sde": "vp", "loss": "", "eps": 1e-5, "likelihood_weighting": False, "reduce_mean": True}
    network = ToyNetwork(torch.float64)
    betas = (run["beta1"], run["beta2"])
    optimizer = torch.optim.Adam(
        network.parameters(), lr=run["lr"], betas=betas, eps=run["adam_eps"], weight_decay=run["weight_decay"]
    )
    ema = ExponentialMovingAverage(network, max_decay=run["ema_decay"])
    for step, row in enumerate(run["rows"]):
        rate = min(step / run["warmup"], 1.0) if run["warmup"] else 1.0
        optimizer.param_groups[0]["lr"] = run["lr"] * rate
        loss = replay(case, network, tensors)
        optimizer.zero_grad()
        loss.backward()
        if run["grad_clip"] >= 0:
            torch.nn.utils.clip_grad_norm_(network.parameters(), run["grad_clip"])
        optimizer.step()
        ema.update(network)
        evaluated = replay(case, ema.model, tensors)
        figures = [loss, network.a, network.b, ema.model.a, ema.model.b, evaluated]
        recorded = [row[key] for key in ("loss", "a", "b", "ema_a", "ema_b", "eval_loss_with_ema")]
        assert [figure.item() for figure in figures] == pytest.approx(recorded, rel=1e-9)


@pytest.mark.parametrize("name", SDES)
def test_loss_of_the_exact_score_of_gaussian_data_is_its_closed_form(name):
    # Data N(0, v): the score is -x / (alpha^2 v + sigma^2), the expected loss alpha^2 v / (alpha^2 v + sigma^2).
    sde, variance, count = SDES[name], 0.25, 200_000
    generator = torch.Generator().manual_seed(0)
    x0 = math.sqrt(variance) * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    for time in (0.05, 0.3, 0.7):
        t = torch.full((count,), time, dtype=torch.float64)
        signal, total = sde.alpha(t[0]) ** 2 * variance, sde.alpha(t[0]) ** 2 * variance + sde.sigma(t[0]) ** 2
        losses = score_matching_loss(lambda x, _, total=total: -x / total, sde, x0, t, noise)
        error = losses.std() / math.sqrt(count)
        assert losses.mean().item() == pytest.approx((signal / total).item(), abs=4 * error.item())


@pytest.mark.parametrize("prediction_type", ["score", "epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", SDES)
def test_a_perfect_network_has_zero_loss_under_every_prediction_type(name, prediction_type):
    scheduler = SCHEDULERS[name](prediction_type=prediction_type)
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 5, 2, 4, 4, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.1, 1.0, 5, dtype=torch.float64)
    target = scheduler.parameterization.target(scheduler.sde, x0, noise, t)
    losses = score_matching_loss(scheduler.score_fn(lambda x, time: target), scheduler.sde, x0, t, noise)
    assert losses.tolist() == pytest.approx([0.0] * 5, abs=1e-18)


def test_half_precision_data_is_perturbed_in_float32():
    # sigma = 50, x_0 = 0.5 in bfloat16: x_t - sigma z must still be 0.5, to float32 rounding of numbers near 50.
    sde, seen = VESDE(0.01, 50.0), {}
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 9)

    def score_fn(x, t):
        seen["x"] = x
        return torch.zeros_like(x)

    half = torch.full((1, 9), 0.5, dtype=torch.bfloat16)
    score_matching_loss(score_fn, sde, half, torch.ones(1, dtype=torch.bfloat16), noise)
    assert seen["x"].dtype == torch.float32
    assert (seen["x"].double() - 50 * noise).tolist()[0] == pytest.approx([0.5] * 9, abs=1e-5)


def test_wrong_shapes_are_named():
    x0, noise = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"noise and x0 must have one shape, got \(1, 1, 4, 4\)"):
        score_matching_loss(lambda x, t: x, VPSDE(), x0, torch.ones(2), noise[:1])
    with pytest.raises(ValueError, match=r"t must have one value per sample, shape \(2,\), got \(3,\)"):
        score_matching_loss(lambda x, t: x, VPSDE(), x0, torch.ones(3), noise)


def test_ema_copies_buffers_and_averages_parameters():
    network = torch.nn.BatchNorm1d(2)
    ema = ExponentialMovingAverage(network, max_decay=0.9999)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(7.0)
    ema.update(network)
    assert ema.model.weight.tolist() == pytest.approx([1 + 2 * 9 / 11] * 2)
    assert ema.model.running_mean.tolist() == [7.0, 7.0]
    assert not ema.model.training and not any(p.requires_grad for p in ema.model.parameters())
