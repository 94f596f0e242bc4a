"""The official predictor-corrector samplers, replayed with our predictors and correctors on recorded noise.

Handed the official (t, s) pairs, our steps are the official ones to rounding, with these translations:

- the official loop corrects before it predicts, at t_i = linspace(T, eps, N)[i], whose score the step uses; but
  Euler-Maruyama (and sub-VP's "reverse diffusion", which is the same Euler step) moves by T / N, not by t_i - t_{i+1};
- VE reverse diffusion and ancestral sampling take their coefficients from neighbours in N log-spaced sigmas, that is from
  k / (N - 1) to (k - 1) / (N - 1) with k = floor(t_i (N - 1)); below sigma_min they go to noise 0, which is Tweedie's
  denoising at t = 0;
- VP reverse diffusion and ancestral sampling use a table of N betas: our `DiscreteVPSDE`, from (k + 1) / N to k / N; the
  official ancestral step is DDPM's with the larger variance, our `ancestral_large`;
- "probability flow" with reverse diffusion halves the score and drops the noise of the same step;
- the Langevin step of VP has a factor alpha_k = 1 - beta_k, a change of snr to snr sqrt(alpha_k);
- norms are batch means.
"""

import json
import math
from collections.abc import Callable

import pytest
import torch
from golden_toys import SDES, Golden
from safetensors.torch import load_file
from torch import Tensor

from scoresde_pipelines import SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.models.official.config import preset_from_official_config
from scoresde_pipelines.models.official.keys import from_official
from scoresde_pipelines.schedulers import (
    DiscreteVPSDE,
    ancestral,
    ancestral_large,
    annealed_langevin,
    euler_maruyama,
    langevin,
    probability_flow_euler,
    reverse_diffusion,
)


Score = Callable[[Tensor, Tensor], Tensor]
NAMES = [
    f"pc.{sde}.{predictor}.{corrector}.pf0"
    for sde in ("ve", "vp")
    for predictor in ("euler_maruyama", "reverse_diffusion", "ancestral_sampling", "none")
    for corrector in ("langevin", "ald", "none")
]
NAMES += [
    f"pc.{sde}.reverse_diffusion.{corrector}.pf1" for sde in ("ve", "vp") for corrector in ("langevin", "ald", "none")
]
NAMES += [
    "pc.subvp.euler_maruyama.none.pf0",
    "pc.subvp.reverse_diffusion.none.pf0",
    "pc.subvp.reverse_diffusion.none.pf1",
    "pc.subvp.none.none.pf0",
    "pc.subvp.euler_maruyama.none.pf0.B",
    "pc.subvp.reverse_diffusion.none.pf0.nodenoise",
]
for _sde in ("ve", "vp"):
    NAMES += [
        f"pc.{_sde}.reverse_diffusion.langevin.pf0.n2",
        f"pc.{_sde}.reverse_diffusion.langevin.pf0.nodenoise",
        f"pc.{_sde}.none.ald.pf0.n3.nodenoise",
        f"pc.{_sde}.reverse_diffusion.langevin.pf0.discrete",
        f"pc.{_sde}.ancestral_sampling.none.pf0.discrete",
        f"pc.{_sde}.euler_maruyama.none.pf0.discrete",
        f"pc.{_sde}.none.ald.pf0.discrete",
        f"pc.{_sde}.reverse_diffusion.langevin.pf0.B",
        f"pc.{_sde}.euler_maruyama.none.pf0.B",
    ]
NETWORKS = [
    "pc.ve.reverse_diffusion.langevin.pf0.net_ve",
    "pc.ve.euler_maruyama.none.pf0.net_ve",
    "pc.ve.ancestral_sampling.none.pf0.net_ve",
    "pc.vp.reverse_diffusion.langevin.pf0.net_vp",
    "pc.vp.euler_maruyama.none.pf0.net_vp",
    "pc.vp.ancestral_sampling.none.pf0.net_vp",
    "pc.subvp.reverse_diffusion.none.pf0.net_subvp",
    "pc.subvp.euler_maruyama.none.pf0.net_subvp",
]


@pytest.fixture(scope="module")
def golden(shared_dir) -> Golden:
    return Golden(shared_dir)


def official_table(n: int) -> DiscreteVPSDE | None:
    """The table of betas of the official VP SDE; below N = 20 it has entries above 1 (and only VE cases are recorded)."""
    return DiscreteVPSDE(torch.linspace(0.1 / n, 20 / n, n, dtype=torch.float64)) if n > 20 else None


class OfficialSampler:
    """One recorded case: the official loop around our steps."""

    def __init__(self, case: dict, bank: Tensor, score: Score):
        self.case, self.score, self.noise = case, score, iter(bank)
        self.name, self.n = case["sde"], case["N"]
        self.sde = SDES[self.name]
        self.table = official_table(self.n)

    def run(self) -> tuple[Tensor, list[Tensor]]:
        """The result, and the state after each predictor."""
        x, trajectory = next(self.noise) * self.sde.prior_std, []
        mean = x
        for t in torch.linspace(1, self.case["eps"], self.n, dtype=x.dtype):
            k = int(t * (self.n - 1))
            mean, x = self.correct(mean, x, t, k)
            mean, x = self.predict(mean, x, t, k)
            trajectory.append(x)
        return (mean if self.case["denoise"] else x), trajectory

    def correct(self, mean: Tensor, x: Tensor, t: Tensor, k: int) -> tuple[Tensor, Tensor]:
        snr = self.case["snr"] * (1.0 if self.name == "ve" else math.sqrt(1 - float(self.table.betas[k])))
        for _ in range(0 if self.case["corrector"] == "none" else self.case["n_steps"]):
            score, noise = self.score(x, t), next(self.noise)
            if self.case["corrector"] == "langevin":
                mean, x = langevin(self.sde, x, score, t, noise, snr, batch_mean_norm=True)
            else:
                mean, x = annealed_langevin(self.sde, x, score, t, noise, snr)
        return mean, x

    def predict(self, mean: Tensor, x: Tensor, t: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if self.case["predictor"] == "none":
            return x, x  # the official "none" discards the mean
        score, noise, flow = self.score(x, t), next(self.noise), self.case["probability_flow"]
        if self.case["predictor"] == "euler_maruyama" or self.name == "subvp":
            step = probability_flow_euler if flow else euler_maruyama
            mean, std = step(self.sde, x, score, t, t - 1 / self.n)
        else:
            mean, std = self.neighbours(x, score * (0.5 if flow else 1.0), k)
            std = std * (0.0 if flow else 1.0)
        return mean, mean + std * noise

    def neighbours(self, x: Tensor, score: Tensor, k: int) -> tuple[Tensor, Tensor]:
        is_reverse = self.case["predictor"] == "reverse_diffusion"
        if self.name == "vp":
            times = torch.tensor([k + 1, k], dtype=torch.float64) / self.n
            return (reverse_diffusion if is_reverse else ancestral_large)(self.table, x, score, *times)
        times = torch.tensor([k, k - 1], dtype=torch.float64) / (self.n - 1)
        if k > 0:
            return (reverse_diffusion if is_reverse else ancestral)(self.sde, x, score, *times)
        return self.sde.denoise(x, score, times[0]), self.sde.sigma(times[0]) * is_reverse


class DiscreteToys(Golden):
    """The toys told the official discrete labels: entries of the tables instead of the marginal at t."""

    def __init__(self, shared_dir, n: int):
        super().__init__(shared_dir)
        self.n, self.table = n, official_table(n)

    def _coefficients(self, sde: str, t: Tensor) -> tuple[Tensor, ...]:
        k = torch.floor(t.double() * (self.n - 1))
        process, time = (SDES[sde], k / (self.n - 1)) if sde == "ve" else (self.table, (k + 1) / self.n)
        return tuple(value.reshape(-1, 1, 1, 1) for value in (process.alpha(time), process.sigma(time)))


def compare(golden: Golden, name: str, sampler: OfficialSampler, shared_dir, tolerance: float) -> None:
    result, trajectory = sampler.run()
    result, dtype = golden.data_scale(sampler.name, result), result.dtype
    expected = golden.outputs[f"{name}.{'f64' if dtype == torch.float64 else 'f32'}"]
    scale = float(expected.abs().max())
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * scale)
    recorded = load_file(shared_dir / "golden" / "samplers" / f"trajectories_{sampler.name}.safetensors").get(name)
    if recorded is not None and dtype == torch.float64:
        for ours, theirs in zip(trajectory, recorded, strict=True):
            torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_toy_scores_in_float64(golden, shared_dir, name):
    case = golden.cases[name]
    toys = golden if case["continuous"] else DiscreteToys(shared_dir, case["N"])
    sampler = OfficialSampler(case, golden.inputs["bank"], toys.score(case["model"], case["sde"]))
    compare(golden, name, sampler, shared_dir, 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_toy_scores_in_float32(golden, shared_dir, name):
    case = golden.cases[name]
    toys = golden if case["continuous"] else DiscreteToys(shared_dir, case["N"])
    exact = toys.score(case["model"], case["sde"])

    def score(x: Tensor, t: Tensor) -> Tensor:
        return exact(x.double(), t.double()).float()

    sampler = OfficialSampler(case, golden.inputs["bank"].float(), score)
    compare(golden, name, sampler, shared_dir, 1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(golden, shared_dir, name):
    case = golden.cases[name]
    description = json.loads((shared_dir / "golden" / "samplers" / "cases.json").read_text())["nets"][case["model"]]
    network = preset_from_official_config(description["config"]).make_model()
    state = load_file(shared_dir / "golden" / "samplers" / "nets.safetensors")
    prefix = f"{case['model']}."
    official = {key.removeprefix(prefix): v.float() for key, v in state.items() if key.startswith(prefix)}
    network.load_state_dict(from_official(network, official))
    schedulers = {
        "ve": VESDEScheduler(sigma_max=50.0),
        "vp": VPSDEScheduler(continuous=True),
        "subvp": SubVPSDEScheduler(),
    }
    with torch.no_grad():
        score = schedulers[case["sde"]].score_fn(network.eval().double())
        sampler = OfficialSampler(case, golden.inputs["bank"], score)
        compare(golden, name, sampler, shared_dir, 1e-9)


def test_every_recorded_case_is_replayed_or_has_a_reason(golden):
    recorded = {name for name, case in golden.cases.items() if case.get("sampler") == "pc" and "raises" not in case}
    # At N = 16 <= beta_max the official VP table has betas above 1 and the recorded result is NaN; ours refuses it.
    assert recorded - {*NAMES, *NETWORKS} == {"pc.vp.reverse_diffusion.none.pf0.N16"}
    with pytest.raises(ValueError, match="betas"):
        DiscreteVPSDE(torch.linspace(0.1 / 16, 20 / 16, 16))


def test_what_the_official_samplers_raise_for_works_here(golden):
    refused = {
        (case["sde"], case["predictor"], case["corrector"])
        for case in golden.cases.values()
        if case.get("sampler") == "pc" and "raises" in case
    }
    assert ("subvp", "euler_maruyama", "langevin") in refused and ("subvp", "ancestral_sampling", "none") in refused
    scheduler = SubVPSDEScheduler(predictor="ancestral", corrector="langevin", batch_mean_norm=True)
    scheduler.set_timesteps(5)
    x, toy = golden.inputs["bank"][0], golden.score("A", "subvp")
    for timestep in scheduler.timesteps:
        t = timestep.double() / 999
        output = -scheduler.sde.sigma(t) * toy(x, t)
        x = scheduler.step(output, timestep, x, generator=torch.Generator().manual_seed(0)).prev_sample
    assert bool(torch.isfinite(x).all())
