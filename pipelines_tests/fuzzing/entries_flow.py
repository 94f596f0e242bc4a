"""Entries: the probability-flow ODE, likelihoods and the closed-form models."""

from .case import Entry, like, shaped
from .entries_mathematics import AN_SDE, DATA_STD
from .strategies import Kind, count, flag, instance, name, numbers, only, real
from .strategies_data import generator, score_function, tensor, time


DATA = tensor(2, 1, 4, 4, fixed=False)
TOLERANCE = real(1e-3, 1e-2, "0.0", "-1e-3", "1.0", "5.0").plus(hopeless=("0",))
# The score function of most cases, -x, is exact for data N(0, I) under the VP SDE.
FLOW_SDE = instance("sde('vp')", extra=("scheduler('vp')", "VPSDE"))
ENDS = real(0.01, 0.99, "0.0", "-0.5", "1.5")
PROBES = count(1, 2)


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
        "sampling_eps": real(1e-4, 1e-2, "0.0", "-1.0", "2.0"),
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
            "solve_with_restarts",
            {
                **start,
                "t_start": only("1.0"),
                "t_end": real(1e-4, 1e-3, "0.0", "-0.5", "1.5"),
                "num_restarts": count(0, 2),
                "generator": generator(2),
                **options,
                "condition": condition,
            },
            check=lambda result, arguments: like("x")(result.x, arguments),
            aliases={"score_fn": ("score",), "x": ("generator",)},
        ),
        Entry(
            "fit_steps",
            {
                "score_fn": score_function(),
                "scheduler": instance("scheduler('vp')").plus(hopeless=("VPSDEScheduler",)),
                "noise": DATA,
                "num_inference_steps": count(2, 4).plus(hopeless=("1", "21")),
                "trials": count(0, 1),
            },
            check=lambda result, _: None if result.config.learned_steps else "nothing learned",
            aliases={"score_fn": ("score",)},
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
                "None; 'a'; torch.full((1, 1, 4, 4), 256); torch.full((1, 1, 4, 4), -1); torch.full((1, 1, 4, 4), nan)",
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
    variances = real(0.1, 1, "-1.0").plus(
        good=("[0.1, 0.2]",), hopeless=("[1.0, 2.0, 3.0]", "[0.1, nan]", "[-0.1, 0.1]", "[[0.1]]")
    )
    # One variance for each component, or two.
    variances = Kind(
        variances.good,
        variances.hopeless.filter(lambda text: text not in ("[1, 2]", "np.array([1.0, 2.0])", "torch.zeros(2)")),
        variances.doubtful,
    )
    matrices = numbers(
        "torch.eye(2).repeat(2, 1, 1)",
        hopeless=(
            "torch.eye(2); -torch.eye(2).repeat(2, 1, 1); torch.full((2, 2, 2), nan); torch.eye(3).repeat(2, 1, 1); "
            "torch.tensor([[[1.0, 5.0], [5.0, 1.0]]] * 2); torch.tensor([[[1.0, 0.5], [0.0, 1.0]]] * 2)",
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


ENTRIES = {"flow": flow_entries(), "analytic": analytic_entries()}
