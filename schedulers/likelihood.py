r"""Log-likelihoods by the probability-flow ODE (paper section 4.3 and eq. 39).

Along a path of dz/du = F the density changes by its divergence,

    log p(x at t = a) = log p(x at t = T) + log |dx_T/dz| - log |dx_a/dz| + int div F du,      a = sampling_eps,

in the variables of `probability_flow`, where the two determinants are closed forms. The path does not depend on the
divergence, so we compute them separately: the ODE adaptively, on forward evaluations alone, and the integral by
Gauss-Legendre quadrature on its dense output. We integrate over log rho (minus half the log-SNR, up to a constant), where
the trace and its variance are nearly constant. Each step is split into panels of at most `PANEL` with `NODES` nodes each.
This takes fewer vector-Jacobian products than a log-density that is part of the ODE, lets every node draw its own probes
with equal weight, and keeps the estimate unbiased: neither the path nor the nodes depend on the probes.

The density is that of the model at the smallest time: the prior N(0, prior_std^2 I), transformed by the flow.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .checks import check_choice, check_generator, check_integer, shown
from .divergence import DIVERGENCES, MOST_PROBES, PROBE_DISTRIBUTIONS, Divergence, ExactDivergence
from .inference_mode import differentiates
from .probability_flow import (
    FROM_DATA,
    UnitScaleFlow,
    check_flow,
    noise_ratio,
    noise_ratio_slope,
)
from .runge_kutta import Step, integrate
from .score_function import ScoreFunction
from .sde import DATA_STD, SDE, expand_to, finest_dtype


NODES, PANEL = 4, 0.5


@dataclass
class LogLikelihood:
    """Log-densities with their cost and their errors. All per sample, (B,), except `latents`.

    Args:
        log_prob: log p(x) in nats, float64.
        latents: where the flow ends at t = T, (B, *D), in the dtype of x.
        nfe: evaluations of the score function, those under a vector-Jacobian product included, CPU int64.
        probe_error: standard error of `log_prob` due to the random probes, nats; zero for the exact divergence, NaN for
            one probe shared along the path, which gives no estimate of it.
        solver_error: estimate of the ODE solver's error, nats, to first order in its embedded error estimates. Not a
            bound: against closed forms the true error is up to 3 times as large.
    """

    log_prob: Tensor
    latents: Tensor
    nfe: Tensor
    probe_error: Tensor
    solver_error: Tensor


@differentiates
@torch.no_grad()
def log_likelihood(
    score_fn: ScoreFunction,
    sde: SDE,
    x: Tensor,
    *,
    divergence: str | Divergence = "hutchinson",
    num_probes: int = 1,
    tolerance: float = 1e-5,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    probe_distribution: str = "rademacher",
    sampling_eps: float = 1e-5,
    data_std: float = DATA_STD,
    max_steps: int = 1000,
    condition: Mapping[str, Tensor] | None = None,
    eps: float | None = None,
) -> LogLikelihood:
    """log p(x) of a score model, its latents and its errors.

    Args:
        score_fn: `(x, t, **condition) -> score`, for example `scheduler.score_fn(unet)` or a condition made of it;
            differentiable in x.
        sde: the SDE.
        x: data, (B, *D), in the model's range; taken to be at t = sampling_eps.
        divergence: "hutchinson" (new probes at every node), "hutchinson_shared" (one set for the whole path, the
            official estimator), "exact" (D products a node), or a `Divergence`.
        num_probes: probes per sample and node.
        tolerance: error per step of the ODE solver.
        generator: source of the probes. With a list of B generators each sample depends on its own only.
        probe_distribution: "rademacher" or "gaussian".
        sampling_eps: the smallest time.
        data_std: rough standard deviation of the data; changes the cost, not the result.
        max_steps: most steps that a sample may take.
        condition: per-sample tensors (B, ...) for `score_fn`, by name (class labels).
        eps: the deprecated name of `sampling_eps`.

    Raises:
        ValueError, TypeError: for an argument out of its range, before any work.
        ODEError: if the solver fails on a sample.
    """
    if eps is not None:
        warnings.warn("eps is called sampling_eps; eps leaves with the next release", FutureWarning, stacklevel=2)
        sampling_eps = eps
    tolerance = check_flow(score_fn, sde, x, tolerance, max_steps, condition, sampling_eps=sampling_eps)
    estimator = _make_divergence(divergence, num_probes, probe_distribution)
    flow = UnitScaleFlow(score_fn, sde, x.dtype, data_std, condition)
    start, end = flow.variable(sampling_eps), flow.variable(sde.T)
    scales = float(flow.scale(start)), float(flow.scale(end))
    estimator.begin(x, spawn_generators(generator, len(x)))
    integral = _TraceIntegral(flow, estimator, len(x))
    solution = integrate(
        flow,
        x.to(finest_dtype(x.device)) / scales[0],
        start,
        end,
        tolerance=tolerance,
        max_steps=max_steps,
        control=FROM_DATA,
        on_step=integral.add_step,
    )
    latents = solution.z * scales[1]
    log_prob = sde.prior_log_prob(latents) + x[0].numel() * math.log(scales[1] / scales[0])
    return LogLikelihood(
        log_prob=log_prob + integral.value.to(log_prob),
        latents=latents.to(x.dtype),
        nfe=solution.nfe + integral.nfe,
        probe_error=integral.standard_error.to(log_prob),
        solver_error=integral.solver_error.to(log_prob),
    )


def spawn_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[torch.Generator]:
    """One generator per sample: those given, or new ones on the CPU seeded by the one given.

    Raises:
        TypeError, ValueError: for anything else, or a list of another length than `count`.
    """
    generator = check_generator("generator", generator, count)
    if generator is None or isinstance(generator, torch.Generator):
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**62, (count,), generator=generator, device=device).tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]
    return list(generator)


def _make_divergence(divergence: str | Divergence, num_probes: int, distribution: str) -> Divergence:
    check_integer("num_probes", num_probes, most=MOST_PROBES)
    check_choice("probe_distribution", distribution, PROBE_DISTRIBUTIONS)
    if isinstance(divergence, Divergence):
        return divergence
    if not isinstance(divergence, str) or divergence not in DIVERGENCES:
        raise ValueError(f"divergence must be one of {sorted(DIVERGENCES)} or a Divergence, got {shown(divergence)}")
    return DIVERGENCES[divergence](num_probes, distribution)


class _TraceIntegral:
    """int div F du per sample, summed up step by step, with its errors."""

    def __init__(self, flow: UnitScaleFlow, divergence: Divergence, count: int):
        self.flow, self.divergence = flow, divergence
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        self.nodes = ((nodes + 1) / 2).tolist()
        self.weights = torch.as_tensor(weights / 2, device="cpu")
        # Contrast orthogonal to quadratics: estimates noise from one probe.
        contrast = np.polynomial.legendre.legval(nodes, [0] * (NODES - 1) + [1]) * weights
        self.contrast = torch.as_tensor(contrast / np.linalg.norm(contrast), device="cpu")
        self.replicates = torch.zeros(1, count, dtype=torch.float64, device="cpu")
        self.variance = torch.zeros(count, dtype=torch.float64, device="cpu")
        self.uncertainty = torch.zeros(count, dtype=torch.float64, device="cpu")
        self.solver_error = torch.zeros(count, dtype=torch.float64, device="cpu")
        self.nfe = torch.zeros(count, dtype=torch.int64, device="cpu")

    def add_step(self, step: Step) -> None:
        low, high = (torch.log(noise_ratio(u)) for u in (step.start, step.start + step.width))
        panels = ((high - low).abs() / PANEL).ceil().clamp_min(1)
        for panel in range(int(panels.max())):
            there = panels > panel
            width = ((high - low) / panels)[there]
            self._add_panel(step.select(there), low[there] + panel * width, width)
        self.solver_error[step.rows] += self._solver_error(step).cpu().double()

    def _add_panel(self, step: Step, low: Tensor, width: Tensor) -> None:
        estimates = torch.stack([self._estimate(step, low + node * width) for node in self.nodes])  # (m, K, b)
        rows, probes = step.rows, estimates.shape[1]
        self.nfe[rows] += NODES
        if len(self.replicates) != probes:
            self.replicates = self.replicates.repeat(probes, 1)
        self.replicates[:, rows] += width * torch.einsum("m,mkb->kb", self.weights, estimates)
        variance = width**2 * self._variance(estimates)
        self.variance[rows] += variance
        self.uncertainty[rows] += variance**2 / ((NODES * (probes - 1) if probes > 1 else 1) + 2)

    def _estimate(self, step: Step, log_ratio: Tensor) -> Tensor:
        # div F du in the variable log rho, (K, b), float64 on the CPU.
        u = torch.atan(torch.exp(log_ratio / 2))
        z = step.at((u - step.start) / step.width)
        value = self.divergence(lambda z: self.flow(z, u, step.rows), z, step.rows)
        return value.cpu().double() * noise_ratio(u) / noise_ratio_slope(u)

    def _variance(self, estimates: Tensor) -> Tensor:
        # Variance of the step's quadrature sum per unit width: from K independent estimates at each node or, with one, from
        # the contrast.
        if estimates.shape[1] > 1:
            per_node = estimates.var(1) / estimates.shape[1]
            return torch.einsum("m,mb->b", self.weights**2, per_node)
        noise = torch.einsum("m,mkb->b", self.contrast, estimates) ** 2
        return noise * (self.weights**2).sum()

    def _solver_error(self, step: Step) -> Tensor:
        # An error e of the state changes log p by score'e. The last slope holds the score: -score = h eps / rho in
        # these variables, and eps = h slope / (d rho/du) + rho z / h.
        u = step.start + step.width
        rho = noise_ratio(u)
        slope = step.slopes[-1] * expand_to((1 + rho**2) / (rho * noise_ratio_slope(u)), step.error)
        return ((slope + step.end) * step.error).flatten(1).sum(1).abs()

    @property
    def value(self) -> Tensor:
        return self.replicates.mean(0)

    @property
    def standard_error(self) -> Tensor:
        if isinstance(self.divergence, ExactDivergence):
            return torch.zeros_like(self.variance)
        if self.divergence.shared_probes:
            count = len(self.replicates)
            return self.replicates.std(0) / math.sqrt(count) if count > 1 else torch.full_like(self.variance, math.nan)
        # Few degrees of freedom (Satterthwaite's count): inflate to the Student-t variance.
        freedom = (self.variance**2 / self.uncertainty.clamp_min(1e-300) - 2).clamp_min(3.0)
        return (self.variance * freedom / (freedom - 2)).sqrt()
