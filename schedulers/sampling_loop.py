"""The sampling loop of pipelines and training: from a score function and a start to images."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import Generator, check_function, check_generator, check_instance, check_state
from .score_function import ScoreFunction, check_score


if TYPE_CHECKING:
    from .scheduling_sde import SDEScheduler


@torch.no_grad()
def sampling_loop(
    scheduler: "SDEScheduler",
    score_fn: ScoreFunction,
    x: Tensor,
    generator: Generator = None,
    *,
    constrain: Callable[[Tensor, Tensor], Tensor] | None = None,
    on_step: Callable[[int, Tensor, Tensor], Tensor | None] | None = None,
) -> Tensor:
    """One score and one `scheduler.step_score` per entry of the plan; `scheduler.set_timesteps` has been called.

    Args:
        scheduler: an `SDEScheduler`.
        score_fn: `(x, t) -> score`, at states (B, *D) and 0-dim float64 times: `scheduler.score_fn(network)`, a condition,
            or a function of your own.
        x: the start, (B, *D): unit noise times `scheduler.init_noise_sigma`.
        generator: source of every random draw.
        constrain: `(x, t) -> x`, applied after each step; `t` is the SDE's time of the new state, 0 after the last step.
        on_step: `(i, timestep, x) -> x or None`, called after each step with the network's timestep; may replace the
            state.

    Returns:
        The clean images, (B, *D), in the dtype of `x`.
    """
    from .scheduling_sde import SDEScheduler  # imports this package's mathematics

    check_instance("scheduler", scheduler, SDEScheduler)
    check_function("score_fn", score_fn, 2)
    generator = check_generator("generator", generator, len(check_state("x", x, 1)))
    check_function("constrain", constrain, 2, optional=True)
    check_function("on_step", on_step, 3, optional=True)
    begin, end = scheduler.begin_index or 0, torch.zeros((), dtype=torch.float64, device="cpu")
    for i in range(begin, len(scheduler.times)):
        t = scheduler.times[i]
        x = scheduler.step_score(check_score(score_fn(x, t), x), t, x, generator=generator, return_dict=False)[0]
        if constrain is not None:
            x = check_score(
                constrain(x, scheduler.times[i + 1] if i + 1 < len(scheduler.times) else end), x, "constrain"
            )
        if on_step is not None:
            changed = on_step(i - begin, scheduler.timesteps[i], x)
            x = x if changed is None else check_score(changed, x, "on_step")
    return x
