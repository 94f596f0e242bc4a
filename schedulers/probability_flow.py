r"""The probability-flow ODE (paper eq. 13), solved adaptively in variables of unit scale.

The ODE  dx/dt = f x - 1/2 g^2 score  of any linear SDE loses its linear part in  y = x / alpha  as a function of the
noise ratio  r = sigma / alpha:

    dy/dr = eps(x, t) = -sigma score(x, t).

The range of r spans decades, and y grows with r. We therefore solve for a state z of unit scale as a function of a
variable u of finite range. With a rough standard deviation sigma_data of the data,

    r = sigma_data rho,   rho = tan(u)^2,   h = sqrt(1 + rho^2),   z = y / (sigma_data h),

    dz/du = (d rho/du) / h (eps - rho/h z),   d rho/du = 2 tan(u) (1 + rho).

For data N(0, sigma_data^2 I) the right-hand side is zero for every SDE. Errors in z have the same weight at every u. At
large rho an error of the network's eps enters dz/du with a factor sqrt(rho) only. RK45 takes about two thirds of the
evaluations that it takes on the original ODE, at an error of the same order (`docs/likelihood.md`).

This file solves every SDE with an invertible log-SNR, forwards (data to latents) and backwards (sampling).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .checks import (
    as_real,
    as_time,
    check_finite,
    check_function,
    check_instance,
    check_integer,
    check_number,
    check_values,
)
from .runge_kutta import BOGACKI_SHAMPINE, DORMAND_PRINCE, ODEError, StepControl, Tableau, integrate
from .score_function import ScoreFunction, check_score, select_rows, with_condition
from .sde import DATA_STD, LARGEST_SIGMA, SDE, SMALLEST_SIGMA, SMALLEST_TIME, expand_to, finest_dtype
from .transfers import to_device


# Start with small steps from data: a large one would skip its structure unnoticed. Errors grow from data to noise, so the
# steps must stay well within the tolerance; from noise to data they shrink.
FROM_DATA, FROM_NOISE = StepControl(first_step=0.01), StepControl(gains=(0.85, 0.2))
LOOSE_TOLERANCE = 1e-3
SMALLEST_TOLERANCE = 1e-12  # below lies the rounding of double precision
MOST_STEPS = 10**9


@dataclass
class FlowSolution:
    """A solved probability-flow ODE.

    Args:
        x: states at the end, (B, *D), in the dtype of the input.
        nfe: evaluations of the score function that each sample took, (B,), CPU int64.
        num_steps: accepted steps per sample, (B,), CPU int64.
    """

    x: Tensor
    nfe: Tensor
    num_steps: Tensor


class UnitScaleFlow:
    """The probability-flow ODE as a field dz/du = F(z, u).

    Args:
        score_fn: `(x, t, **condition) -> score` with `x` (b, *D) in `dtype` and `t` (b,).
        sde: the SDE.
        dtype: what `score_fn` works in; the state itself is float64.
        data_std: rough standard deviation sigma_data of the data; it changes the cost, not the result.
        condition: per-sample tensors (B, ...), bound to `score_fn` by name, as `PerSample` does.
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        sde: SDE,
        dtype: torch.dtype,
        data_std: float = DATA_STD,
        condition: Mapping[str, Tensor] | None = None,
    ):
        self.score_fn = with_condition(score_fn, condition)
        self.sde, self.dtype = sde, dtype
        self.data_std = check_number("data_std", data_std, SMALLEST_SIGMA, LARGEST_SIGMA)

    def variable(self, t: float) -> float:
        """u of the time t; ValueError where the SDE has no noise, or no signal, in float64."""
        ratio = float(self.sde.noise_ratio(as_time(t).double()))
        if not 0 < ratio < math.inf:
            raise ValueError(
                f"times must have a positive, finite sigma / alpha, got {ratio:g} at t = {t:g} "
                f"(a larger sampling_eps starts later)"
            )
        return math.atan(math.sqrt(ratio / self.data_std))

    def time(self, u: Tensor) -> Tensor:
        """t of `u`, same shape, float64."""
        return self.sde.t_from_log_snr(-2 * torch.log(self.data_std * noise_ratio(u)))

    def scale(self, u: Tensor | float) -> Tensor:
        """x / z = alpha sigma_data h, in the shape of `u`, float64."""
        u = as_real("u", u).double()
        return self.sde.alpha(self.time(u)) * self.data_std * (1 + noise_ratio(u) ** 2).sqrt()

    def __call__(self, z: Tensor, u: Tensor, rows: Tensor) -> Tensor:
        """dz/du, shape of `z` (b, *D), at `u` (b,) of the samples `rows` (b,)."""
        t, rho = self.time(u), noise_ratio(u)
        h = (1 + rho**2).sqrt()
        x = (z * expand_to(self.sde.alpha(t) * self.data_std * h, z)).to(self.dtype)
        score = select_rows(self.score_fn, rows)(x, to_device(t, x.device, x.dtype))
        score = check_score(score, x).to(z.dtype)
        rate = noise_ratio_slope(u) / h
        return score * expand_to(-rate * self.sde.sigma(t), z) - z * expand_to(rate * rho / h, z)


def noise_ratio(u: Tensor) -> Tensor:
    """rho = sigma / (alpha sigma_data) of the variable u of `UnitScaleFlow`, same shape."""
    return torch.tan(u) ** 2


def noise_ratio_slope(u: Tensor) -> Tensor:
    """d rho / du, same shape."""
    tangent = torch.tan(u)
    return 2 * tangent * (1 + tangent**2)


def check_flow(
    score_fn: ScoreFunction, sde: SDE, x: Tensor, tolerance: float, max_steps: int, condition: Any, **times: float
) -> float:
    """The tolerance. Raises ValueError or TypeError, naming the argument, for what the solver cannot start from."""
    check_function("score_fn", score_fn)
    with_condition(score_fn, condition)  # checks it
    check_function("score_fn", score_fn, 2, named=condition or ())
    check_instance("sde", sde, SDE)
    check_values("x", check_finite("x", x))
    if x.ndim < 2 or not x.numel():
        raise ValueError(f"x must have shape (B, *D) with B and D of at least 1, got {tuple(x.shape)}")
    check_integer("max_steps", max_steps, most=MOST_STEPS)
    for name, t in times.items():
        check_number(name, t, SMALLEST_TIME, sde.T)
    return check_number("tolerance", tolerance, SMALLEST_TOLERANCE, 1, ends="[)")


@torch.no_grad()
def solve_probability_flow(
    score_fn: ScoreFunction,
    sde: SDE,
    x: Tensor,
    t_start: float,
    t_end: float,
    *,
    tolerance: float = 1e-5,
    data_std: float = DATA_STD,
    tableau: Tableau | None = None,
    max_steps: int = 1000,
    condition: Mapping[str, Tensor] | None = None,
) -> FlowSolution:
    """Solves the probability-flow ODE for `x` from `t_start` to `t_end`, in either direction.

    Step size, error control and number of evaluations are per sample: a result does not depend on the batch.

    Args:
        score_fn: `(x, t, **condition) -> score`, for example `scheduler.score_fn(unet)`.
        sde: the SDE.
        x: states at `t_start`, (B, *D). The score function gets this dtype; the solver works in float64.
        t_start, t_end: times in (0, T].
        tolerance: absolute and relative error per step, root mean square over a sample, in units of the data's scale.
        data_std: rough standard deviation of the data; changes the cost, not the result.
        tableau: the Runge-Kutta method; by default of order five, from noise at tolerances of 1e-3 and more of order three.
        max_steps: most steps that a sample may take.
        condition: per-sample tensors (B, ...) for `score_fn`, by name (class labels).

    Raises:
        ValueError, TypeError: for an argument out of its range, before any work.
        ODEError: on NaN, a vanishing step or `max_steps`, naming the sample.
    """
    tolerance = check_flow(score_fn, sde, x, tolerance, max_steps, condition, t_start=t_start, t_end=t_end)
    if tableau is not None:
        check_instance("tableau", tableau, Tableau)
    flow = UnitScaleFlow(score_fn, sde, x.dtype, data_std, condition)
    start, end = flow.variable(t_start), flow.variable(t_end)
    z = x.to(finest_dtype(x.device)) / float(flow.scale(start))
    from_data = start < end
    if tableau is None:
        # A network's score is not smooth: at loose tolerances order five pays only from data, where errors grow.
        tableau = DORMAND_PRINCE if from_data or tolerance < LOOSE_TOLERANCE else BOGACKI_SHAMPINE
    solution = integrate(
        flow,
        z,
        start,
        end,
        tolerance=tolerance,
        tableau=tableau,
        max_steps=max_steps,
        control=FROM_DATA if from_data else FROM_NOISE,
    )
    return FlowSolution((solution.z * float(flow.scale(end))).to(x.dtype), solution.nfe, solution.num_steps)


__all__ = ["DATA_STD", "FlowSolution", "ODEError", "ScoreFunction", "UnitScaleFlow", "solve_probability_flow"]
