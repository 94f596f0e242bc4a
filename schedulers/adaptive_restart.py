r"""Stochastic sampling to a tolerance: the adaptive ODE in descents, with exact noise between them.

The steps of an adaptive SDE solver are random, and a step that is rejected must be repeated on the same Brownian path, or
the law of the noise is no longer Gaussian. Here no step of the solver is random. Each descent is an ODE, solved to the
tolerance for every sample on its own; between two descents the forward kernel leads from the lower level up to the higher
one, with noise that is drawn once, whatever the solver did. So the solver's error is the only one of the method, while the
noise replaces what the network did wrong above the lower level (`restart.Restart` does so at a fixed number of calls).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .checks import as_time, check_generator, check_integer, check_number
from .probability_flow import FlowSolution, check_flow, solve_probability_flow
from .restart import HIGH, LOW
from .score_function import ScoreFunction
from .sde import DATA_STD, LARGEST_SIGMA, SDE, SMALLEST_SIGMA


MOST_RESTARTS = 1000


@torch.no_grad()
def solve_with_restarts(
    score_fn: ScoreFunction,
    sde: SDE,
    x: Tensor,
    t_start: float,
    t_end: float,
    *,
    num_restarts: int = 3,
    generator: torch.Generator | list[torch.Generator] | None = None,
    tolerance: float = 1e-3,
    data_std: float = DATA_STD,
    max_steps: int = 1000,
    condition: Mapping[str, Tensor] | None = None,
) -> FlowSolution:
    """Restart sampling to a tolerance: samples at `t_end` from states `x` at `t_start`.

    The ODE is solved down to the noise ratio sigma / alpha of `restart.LOW` (0.2) times `data_std`; then `num_restarts`
    times exact noise leads up to `restart.HIGH` (2) times `data_std`, or to `t_start` where there is less noise, and the ODE
    down again, the last time to `t_end`. With a list of generators a sample depends on its own alone, whatever the batch it
    is in.

    Args:
        score_fn: `(x, t, **condition) -> score`, for example `scheduler.score_fn(unet)`.
        sde: the SDE.
        x: states at `t_start`, (B, *D), as in `solve_probability_flow`.
        t_start, t_end: times in (0, T], on both sides of the lower level.
        num_restarts: how often; 0 is the ODE alone.
        generator: source of the noise, one or one for each sample.
        tolerance, max_steps, condition: of every descent, as in `solve_probability_flow`.
        data_std: rough standard deviation of the data, which determines the two levels.

    Returns:
        The states, and the evaluations and accepted steps of each sample in all descents.

    Raises:
        ValueError, TypeError: for an argument out of its range, before any work.
        ODEError: as `solve_probability_flow`.
    """
    check_flow(score_fn, sde, x, tolerance, max_steps, condition, t_start=t_start, t_end=t_end)
    num_restarts = check_integer("num_restarts", num_restarts, 0, MOST_RESTARTS)
    generator = check_generator("generator", generator, len(x))
    data_std = check_number("data_std", data_std, SMALLEST_SIGMA, LARGEST_SIGMA)
    low, high = restart_times(sde, data_std)
    high = min(high, t_start)
    if num_restarts and not t_end < low < high:
        raise ValueError(
            f"t_end must be less and t_start more than t = {low:.4g} of the restarts, got {t_end}, {t_start}"
        )
    descents = (
        [(t_start, low), *[(high, low)] * (num_restarts - 1), (high, t_end)] if num_restarts else [(t_start, t_end)]
    )
    total = FlowSolution(x, *torch.zeros(2, len(x), dtype=torch.int64, device="cpu"))
    for i, (t, s) in enumerate(descents):
        if i:
            scale, std = sde.transition(as_time(high), as_time(low))
            x = float(scale) * x + float(std) * _noise_like(x, generator)
        part = solve_probability_flow(
            score_fn,
            sde,
            x,
            t,
            s,
            tolerance=tolerance,
            data_std=data_std,
            max_steps=max_steps,
            condition=condition,
        )
        x = part.x
        total = FlowSolution(x, total.nfe + part.nfe, total.num_steps + part.num_steps)
    return total


def restart_times(sde: SDE, data_std: float) -> tuple[float, float]:
    """The times of the lower and of the higher level of a restart."""
    ratios = torch.tensor([LOW * data_std, HIGH * data_std], dtype=torch.float64, device="cpu")
    low, high = sde.t_from_log_snr(-2 * ratios.log()).tolist()
    return low, high


def _noise_like(x: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    if isinstance(generator, list):
        return torch.cat([_noise_like(row[None], one) for row, one in zip(x, generator)])
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
