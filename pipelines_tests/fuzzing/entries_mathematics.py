"""Entries: SDEs, predictors, correctors, the ODE, likelihoods and the closed-form models."""

from typing import Any

import numpy as np

from .case import Entry, first_like, like, shape_of, shaped
from .strategies import (
    Kind,
    count,
    flag,
    generator,
    instance,
    instant,
    name,
    numbers,
    only,
    real,
    score_function,
    tensor,
    time,
)


SDES = ("sde('ve')", "sde('vp')", "sde('subvp')")
AN_SDE = instance(*SDES, extra=("scheduler('vp')", "VPSDE"))
# A function may not need every part of the SDE.
SOME_SDE = AN_SDE.tolerant()
STATE, FREE_STATE = tensor(2, 3, strict=False), tensor(2, 3, strict=False, fixed=False)
DATA = tensor(2, 1, 4, 4, fixed=False)
BETA_MIN, BETA_MAX = real(0.05, 0.2, "0.0", "-1.0", "50.0"), real(5, 30, "0.0", "-1.0", "0.01")
SIGMA_MIN, SIGMA_MAX = real(0.005, 0.1, "0.0", "-1.0", "60.0"), real(5, 50, "0.0", "-1.0", "0.001")
TOLERANCE = real(1e-3, 1e-2, "0.0", "-1e-3", "1.0", "5.0").plus(hopeless=("0",))
# The score function of most cases, -x, is exact for data N(0, I) under the VP SDE.
FLOW_SDE = instance("sde('vp')", extra=("scheduler('vp')", "VPSDE"))
DATA_STD = real(0.3, 1.0, "0.0", "-1.0")
ENDS = real(0.01, 0.99, "0.0", "-0.5", "1.5")
PROBES = count(1, 2)
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
        hopeless=(
            "[0.0]",
            "[1.0, 2.0]",
            "[-0.1, 0.1]",
            "[[0.1, 0.1]]",
            "torch.zeros(0)",
            "torch.full((3,), nan)",
            "1j",
        ),
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
    entries += of_sdes("transition", {"t": only("0.5", "torch.tensor(0.5)"), "s": time()})
    entries += of_sdes("transition", {"t": time(), "s": only("0.01", "torch.tensor(0.01)")})
    entries += of_sdes("drift", {"x": FREE_STATE, "t": time(2)}, like("x"))
    entries += of_sdes("marginal", {"x0": FREE_STATE, "t": time(2)})
    entries += of_sdes("denoise", {"x": STATE, "score": STATE, "t": time(2)}, like("x"))
    entries += of_sdes("prior_log_prob", {"z": FREE_STATE}, shaped("z"))
    return entries


def step_entries() -> list[Entry]:
    """Predictors and correctors as functions."""
    state = {"sde": SOME_SDE, "x": STATE, "score": STATE}
    names = (
        "euler_maruyama",
        "reverse_diffusion",
        "ancestral",
        "ancestral_large",
        "exponential",
        "probability_flow_euler",
    )
    both = [
        {"t": only("torch.tensor(0.5)"), "s": instant("torch.tensor(0.1)", "torch.tensor(0.3)")},
        {"t": instant(), "s": only("torch.tensor(0.01)")},
    ]
    entries = [Entry(function, state | times, check=first_like("x")) for function in names for times in both]
    noise = {"t": instant(), "noise": STATE, "snr": real(0.01, 0.3, "0.0", "-1.0")}
    entries += [
        Entry("langevin", {**state, **noise, "batch_mean_norm": flag()}, check=first_like("x")),
        Entry("annealed_langevin", {**state, **noise}, check=first_like("x")),
        Entry("ExponentialMultistep", {"order": count(1, 4).plus(hopeless=("100",))}),
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


def flow_entries() -> list[Entry]:
    """The probability-flow ODE and what it measures."""
    options = {"tolerance": TOLERANCE, "data_std": DATA_STD, "max_steps": count(900, 1000)}
    condition = instance("None", "{}").optional().plus(hopeless=("{'a': 3}", "{3: torch.zeros(2)}", "['a']"))
    start = {"score_fn": score_function(), "sde": FLOW_SDE, "x": DATA}
    divergences = name("hutchinson", "exact").plus(good=("ExactDivergence()",), hopeless=("Divergence",))
    probes = {"divergence": divergences, "num_probes": PROBES, "probe_distribution": name("rademacher", "gaussian")}
    measured = {
        **start,
        **probes,
        **options,
        "generator": generator(2),
        "eps": real(1e-4, 1e-2, "0.0", "-1.0", "2.0"),
        "condition": condition,
    }
    levels = real(-1, 0, "2.0").plus(hopeless=("3.0",))
    return [
        Entry(
            "solve_probability_flow",
            {**start, "t_start": ENDS, "t_end": only("0.005"), **options, "condition": condition},
            check=lambda result, arguments: like("x")(result.x, arguments),
            aliases={"score_fn": ("score",), "x": ("generator",)},
        ),
        Entry(
            "solve_probability_flow",
            {**start, "t_start": only("1.0"), "t_end": ENDS, **options},
            check=lambda result, arguments: like("x")(result.x, arguments),
            aliases={"score_fn": ("score",), "x": ("generator",)},
        ),
        Entry(
            "solve_probability_flow",
            {
                "score_fn": only("lambda x, t: -x"),
                "sde": FLOW_SDE,
                "x": DATA,
                "t_start": ENDS,
                "t_end": ENDS,
                "tableau": instance("None").optional(),
            },
        ),
        Entry(
            "log_likelihood",
            measured,
            check=shaped("x", field="log_prob"),
            aliases={"score_fn": ("score",), "x": ("generator",)},
        ),
        Entry(
            "HutchinsonDivergence",
            {"num_probes": PROBES, "distribution": name("rademacher", "gaussian"), "shared_probes": flag()},
        ),
        Entry(
            "PixelCells",
            {
                "data_min": levels,
                "data_max": real(1, 2, "-5.0"),
                "levels": count(2, 256).plus(hopeless=("1",)),
                "official": flag(),
            },
        ),
        Entry("PixelCells(-1.0, 1.0).centres", {"pixels": pixels()}),
    ]


def pixels() -> Kind:
    """Integer pixels of one gray image."""
    base = tensor(1, 1, 4, 4)
    good = only("torch.randint(0, 256, (1, 1, 4, 4))", "torch.zeros(1, 1, 4, 4, dtype=torch.uint8)").good
    return (
        Kind(good, base.hopeless, base.doubtful)
        .tolerant()
        .plus(
            hopeless=(
                "None",
                "'a'",
                "torch.full((1, 1, 4, 4), 256)",
                "torch.full((1, 1, 4, 4), -1)",
                "torch.full((1, 1, 4, 4), nan)",
            )
        )
    )


def analytic_entries() -> list[Entry]:
    """Closed-form models."""
    weights = numbers(
        "[0.3, 0.7]",
        "torch.ones(2)",
        hopeless=("[0.0, 1.0]", "[-1.0, 2.0]", "[1.0]", "[]", "[[1.0, 1.0]]", "[nan, 1.0]"),
    )
    means = numbers(
        "[[-1.0, 0.0], [1.0, 0.5]]", hopeless=("[0.0, 1.0]", "[[1.0], [2.0], [3.0]]", "[[nan, 0], [0, 0]]", "[[]]")
    )
    variance = real(0.1, 1, "-1.0").optional()
    variances = real(0.1, 1, "-1.0").plus(
        good=("[0.1, 0.2]",), hopeless=("[1.0, 2.0, 3.0]", "[0.1, nan]", "[-0.1, 0.1]", "[[0.1]]")
    )
    matrices = numbers(
        "torch.eye(2).repeat(2, 1, 1)",
        hopeless=(
            "torch.eye(2)",
            "-torch.eye(2).repeat(2, 1, 1)",
            "torch.full((2, 2, 2), nan)",
            "torch.eye(3).repeat(2, 1, 1)",
            "torch.tensor([[[1.0, 5.0], [5.0, 1.0]]] * 2)",
            "torch.tensor([[[1.0, 0.5], [0.0, 1.0]]] * 2)",
        ),
    )
    x = tensor(2, 2, strict=False)
    at = {"sde": AN_SDE, "x": x, "t": time(2)}
    noise_std = real(0.1, 1, "0.0", "-1.0")
    measured = tensor(1, dtype="float64")
    matrix = tensor(1, 2, dtype="float64")
    one = tensor(1, 4, 4)
    mean = (
        Kind(one.good, one.hopeless, one.doubtful)
        .tolerant()
        .plus(hopeless=("None", "'a'", "object()", "[nan]", "torch.full((2, 2), inf)", "{}"))
    )
    return [
        Entry("GaussianMixtureScoreModel", {"weights": weights, "means": means, "variances": variances}),
        Entry(
            "GaussianMixtureScoreModel",
            {"weights": weights, "means": only("[[-1.0, 0.0], [1.0, 0.5]]"), "covariances": matrices},
        ),
        Entry(
            "GaussianScoreModel",
            {"mean": mean, "variance": real(0.1, 1, "-1.0").plus(hopeless=("torch.zeros(7)", "-torch.ones(1, 4, 4)"))},
        ),
        Entry(
            "GaussianScoreModel",
            {
                "mean": only("[0.0, 1.0]"),
                "covariance": numbers("torch.eye(2)", hopeless=("torch.eye(3)", "-torch.eye(2)", "None")),
            },
        ),
        Entry("mixture().log_prob", at, check=shaped("x")),
        Entry("mixture().log_responsibilities", at, check=shaped("x", 2)),
        Entry("mixture().score", at, check=like("x")),
        Entry("mixture().denoise", at, check=like("x")),
        Entry("mixture().data_log_prob", {"x": x}, check=shaped("x")),
        Entry("mixture().sample", {"num_samples": count(1, 4), "generator": sample_generator()}),
        Entry("mixture().posterior", {"matrix": matrix, "measurement": measured, "noise_std": noise_std}),
        Entry(
            "mixture().network",
            {"scheduler": instance("scheduler('ve')", "scheduler('vp')", extra=("sde('vp')", "VPSDEScheduler"))},
        ),
        Entry(
            "AnalyticNetwork",
            {"model": instance("gaussian()", extra=("unet()",)), "scheduler": instance("scheduler('vp')")},
            then="forwarded",
        ),
        Entry(
            "network('vp')",
            {
                "sample": tensor(2, 1, 4, 4, strict=False),
                "timestep": time(2).plus(good=("500",)),
                "class_labels": instance("None").tolerant(),
                "return_dict": flag(),
            },
        ),
        Entry(
            "network('table')", {"sample": tensor(2, 1, 4, 4, strict=False), "timestep": time(2).plus(good=("500",))}
        ),
    ]


def sample_generator() -> Kind:
    """One generator or none."""
    return Kind(
        only("None", "torch.Generator().manual_seed(0)").good,
        only("'a'", "3", "object()", "np.random.default_rng(0)", "[]", "torch.Generator").good,
        only("[torch.Generator()]").good,
    )


ENTRIES = {
    "sde": sde_entries(),
    "steps": step_entries() + parameterization_entries(),
    "flow": flow_entries(),
    "analytic": analytic_entries(),
}
