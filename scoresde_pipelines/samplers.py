"""Short names of samplers, for the evaluation and every command: one table, which needs no torch.

A sampler of your own is a line more: `SAMPLERS["mine"] = {"predictor": "ancestral", "corrector": "langevin"}`.
"""

from typing import Any


# Settings of the scheduler; others are the model's own. Those of `CALL` are of the pipeline's call: `ode_tolerance` solves
# the ODE adaptively instead, with noise at `num_restarts` restarts.
SAMPLERS: dict[str, dict[str, Any]] = {
    "default": {},
    "pc": {"predictor": "reverse_diffusion", "corrector": "langevin"},  # the paper's predictor-corrector
    "reverse_diffusion": {"predictor": "reverse_diffusion", "corrector": None},
    "ancestral": {"predictor": "ancestral", "corrector": None},
    "ancestral_karras": {"predictor": "ancestral", "corrector": None, "timestep_spacing": "karras"},
    "euler_maruyama": {"predictor": "euler_maruyama", "corrector": None},
    "ddim": {"predictor": "exponential", "corrector": None},
    "multistep": {"predictor": "exponential_multistep", "corrector": None, "timestep_spacing": None},
    "learned": {"predictor": "learned_steps", "corrector": None, "timestep_spacing": None},  # see `fit_steps`
    "restart": {"predictor": "restart", "corrector": None, "timestep_spacing": None},
    "ode": {"ode_tolerance": 1e-3},
    "adaptive_restart": {"ode_tolerance": 1e-3, "num_restarts": 3},
}
ODE_TOLERANCE = "ode_tolerance"
NUM_RESTARTS = "num_restarts"
CALL = (ODE_TOLERANCE, NUM_RESTARTS)
GUIDANCE_SCALE = "guidance_scale"  # in an evaluation: images of given classes, with this guidance
WEAK_GUIDANCE_SCALE = "weak_guidance_scale"  # in an evaluation: autoguidance by its weak model


def with_sampler(scheduler: Any, sampler: str, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A copy of `scheduler` with a sampler's settings, and those of the pipeline's call.

    Args:
        scheduler: an `SDEScheduler`.
        sampler: the sampler's name, for the error.
        settings: its line of the table.

    Raises:
        ValueError: a setting is none of the scheduler's.
    """
    changes = {key: value for key, value in settings.items() if key not in CALL}
    unknown = sorted(set(changes) - set(scheduler.config))
    if unknown:
        raise ValueError(f"sampler must consist of settings of the scheduler, got {unknown} in {sampler!r}")
    options = {key: value for key, value in settings.items() if key in CALL}
    return type(scheduler).from_config(scheduler.config, **changes), options
