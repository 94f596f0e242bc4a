"""Entries: SDEs, predictors, correctors, the ODE, likelihoods and the closed-form models."""

from typing import Any

import numpy as np

from .case import Entry, first_like, like, shape_of, shaped
from .strategies import Kind, count, flag, instance, name, numbers, only, real
from .strategies_data import instant, tensor, time


SDES = ("sde('ve')", "sde('vp')", "sde('subvp')")
AN_SDE = instance(*SDES, extra=("scheduler('vp')", "VPSDE"))
# A function may not need every part of the SDE.
SOME_SDE = AN_SDE.tolerant()
STATE, FREE_STATE = tensor(2, 3, strict=False), tensor(2, 3, strict=False, fixed=False)
BETA_MIN, BETA_MAX = real(0.05, 0.2, "-1.0", "50.0"), real(5, 30, "0.0", "-1.0", "0.01")
SIGMA_MIN, SIGMA_MAX = real(0.005, 0.1, "0.0", "-1.0", "60.0"), real(5, 50, "0.0", "-1.0", "0.001")
DATA_STD = real(0.3, 1.0, "0.0", "-1.0")
MATRIX_12 = ("[[1.0, 0.5]]",)


def same_shape_as_time(result: Any, arguments: dict[str, Any]) -> str | None:
    """The result has the shape of `t`."""
    expected = np.shape(arguments["t"])
    return None if shape_of(result) == expected else f"shape {shape_of(result)} for t of shape {expected}"


def of_sdes(method: str, arguments: dict[str, Kind], check: Any = None) -> list[Entry]:
    """The entries of one method for each SDE."""
    return [Entry(f"{sde}.{method}", arguments, check=check) for sde in SDES]


def sde_entries() -> list[Entry]:
    """Constructors and methods of the SDEs."""
    betas = numbers(
        "[0.01] * 10",
        "torch.linspace(1e-4, 0.02, 10)",
        "np.linspace(1e-4, 0.02, 5)",
        hopeless=("[0.0]; [1.0, 2.0]; [-0.1, 0.1]; [[0.1, 0.1]]; torch.zeros(0); torch.full((3,), nan); 1j",),
        doubtful=("(0.1, 0.2)", "[1]", "[1e-300] * 3"),
    )
    entries = [
        Entry("VESDE", {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX}, then="coefficients"),
        Entry("VPSDE", {"beta_min": BETA_MIN, "beta_max": BETA_MAX}, then="coefficients"),
        Entry("SubVPSDE", {"beta_min": BETA_MIN, "beta_max": BETA_MAX}, then="coefficients"),
        *(Entry(f"Discrete{name}SDE", {"betas": betas}, then="coefficients") for name in ("VP", "VE", "SubVP")),
    ]
    for method in ("alpha", "sigma", "log_alpha", "drift_rate", "diffusion"):
        entries += of_sdes(method, {"t": time()}, same_shape_as_time)
    entries += of_sdes("log_snr", {"t": time()}, same_shape_as_time)
    entries += of_sdes("noise_ratio", {"t": time()}, same_shape_as_time)
    log_snr = {"log_snr": time().plus(good=("torch.tensor([-3.0, 0.0, 4.0])",))}
    entries += of_sdes("t_from_log_snr", log_snr)
    entries += of_sdes("transition", {"t": only("1.0", "torch.tensor(1.0)"), "s": time()})
    entries += of_sdes("transition", {"t": time(), "s": only("0.01", "torch.tensor(0.01)")})
    entries += of_sdes("drift", {"x": FREE_STATE, "t": time(2)}, like("x"))
    entries += of_sdes("marginal", {"x0": FREE_STATE, "t": time(2)})
    entries += of_sdes("denoise", {"x": STATE, "score": STATE, "t": time(2)}, like("x"))
    entries += of_sdes("prior_log_prob", {"z": FREE_STATE}, shaped("z"))
    return entries


def step_entries() -> list[Entry]:
    """Predictors and correctors as functions."""
    state = {"sde": SOME_SDE, "x": STATE, "score": STATE}
    names = [
        "euler_maruyama",
        "reverse_diffusion",
        "ancestral",
        "ancestral_large",
        "exponential",
        "probability_flow_euler",
    ]
    both = [
        {"t": only("torch.tensor(0.5)"), "s": instant("torch.tensor(0.1)", "torch.tensor(0.3)")},
        {"t": instant(), "s": only("torch.tensor(0.01)")},
    ]
    entries = [Entry(function, state | times, check=first_like("x")) for function in names for times in both]
    noise = {"t": instant(), "noise": STATE, "snr": real(0.01, 0.3, "0.0", "-1.0")}
    entries += [
        Entry("langevin", {**state, **noise, "batch_mean_norm": flag()}, check=first_like("x")),
        Entry("annealed_langevin", {**state, **noise}, check=first_like("x")),
        Entry("CORRECTORS['metropolis_langevin']()", {**state, **noise}, check=first_like("x")),
        Entry(
            "MetropolisLangevin",
            {"log_prob": only("None", "lambda x, t: -x.flatten(1).sum(1)").plus(hopeless=("3; 'a'; []; int; nan",))},
        ),
        Entry(
            "ExponentialMultistep",
            {"order": count(1, 4).plus(hopeless=("100",)), "data_std": real(0.1, 1, "0.0", "-1.0")},
        ),
        Entry("ExponentialAdamsBashforth", {"order": count(1, 4).plus(hopeless=("100",))}),
        Entry("Restart", {"data_std": real(0.1, 1, "0.0", "-1.0")}),
        Entry(
            "LearnedSteps",
            {
                "data_std": real(0.1, 1, "0.0", "-1.0"),
                "learned_steps": only("None", "{}").plus(hopeless=("[]", "{'2': 3}")),
            },
        ),
        Entry("PREDICTORS['heun']()", state | both[0]),
    ]
    return entries


def parameterization_entries() -> list[Entry]:
    """From a network's output to a score and back."""
    kinds = name("epsilon", "score", "sample", "v_prediction")
    made = "Parameterization('epsilon', 'scaled', 100)"
    return [
        Entry(
            "Parameterization",
            {
                "prediction_type": kinds,
                "time": name("scaled", "sigma", "index"),
                "num_train_timesteps": count(2, 9),
                "sigma_data": DATA_STD,
                "data_mean": real(-1, 1),
            },
        ),
        Entry(f"{made}.network_time", {"sde": SOME_SDE, "t": time()}, check=same_shape_as_time),
        Entry(f"{made}.t_from_network_time", {"sde": SOME_SDE, "time": time()}),
        Entry(f"{made}.score", {"sde": SOME_SDE, "output": STATE, "x": STATE, "t": time(2)}, check=like("x")),
        Entry(f"{made}.output", {"sde": SOME_SDE, "score": STATE, "x": STATE, "t": time(2)}, check=like("x")),
        Entry(f"{made}.target", {"sde": SOME_SDE, "x0": STATE, "noise": STATE, "t": time(2)}, check=like("x0")),
        *(
            Entry(
                f"TIME_GRIDS['{grid}']",
                {"sde": SOME_SDE, "n": count(2, 5), "sampling_eps": real(1e-5, 1e-2, "0.0", "-1.0", "1.0", "2.0")},
            )
            for grid in ("linspace", "leading", "trailing", "log_snr", "karras", "official")
        ),
    ]


ENTRIES = {
    "sde": sde_entries(),
    "steps": step_entries() + parameterization_entries(),
}
