"""Entries: measurement operators and conditions."""

from .case import Entry, like
from .strategies import Kind, count, functions, instance, name, numbers, only, real, some
from .strategies_data import generator, operator, score_function, tensor, time


AN_SDE = instance("sde('ve')", "sde('vp')", extra=("scheduler('vp')", "VPSDE"))
X = tensor(2, 1, 4, 4, strict=False)
# Operators and conditions take states of any shape that fits them.
FREE = tensor(2, 1, 4, 4, strict=False, fixed=False)
COLOR = tensor(2, 3, 4, 4, strict=False, fixed=False)
Y = tensor(2, 1, 4, 4)
OPERATOR = operator(1, 4)
NOISE_STD = real(0.01, 1, "-1.0")
STEP = Kind(some("torch.tensor(0.5)", "torch.tensor(0.9)"), time().hopeless, time().doubtful)


def mask() -> Kind:
    """A mask that broadcasts to the states."""
    return Kind(
        some(
            "torch.tensor([1.0, 0.0, 1.0, 1.0])",
            "torch.ones(3, 4, 4)",
            "torch.tensor([True, False]).repeat(2)",
            "np.ones((4, 4))",
        ),
        some(
            "None; 'a'; object(); []; {}; torch.zeros(3, 4, 4); torch.full((4, 4), 0.5); torch.full((4, 4), nan); "
            "['a']; torch.full((4, 4), 2.0); torch.ones(5); torch.zeros(0); lambda: 1; np.array(['a']); "
            "[[1], [1, 0]]; torch.ones(4, 4).to_sparse()",
        ),
        some(
            "1; True; torch.ones(4, 4, dtype=torch.int64); [1, 0, 1, 1]; torch.ones(4, 4).half(); "
            "torch.ones(4, 4).to('meta'); torch.ones(4, 4) * 1j",
        ),
    )


def operators() -> list[Entry]:
    """Constructors, applied to a color image, and methods."""
    kernel = Kind(
        some("torch.ones(3, 3) / 9", "torch.rand(1, 3)", "torch.ones(3, 3, dtype=torch.float64)"),
        some(
            "None; 'a'; object(); [[1.0]]; torch.ones(2, 2); torch.ones(3); torch.zeros(3, 3); "
            "torch.full((3, 3), nan); torch.ones(0, 0); torch.ones(5, 5); torch.ones(1, 3, 3); {}; "
            "torch.full((1, 1), inf); 3",
        ),
        some(
            "torch.ones(3, 3, dtype=torch.int64); torch.ones(3, 3).half(); torch.ones(3, 3, dtype=torch.bool); "
            "np.ones((3, 3)); torch.ones(1, 1).to_sparse(); torch.ones(1, 1, dtype=torch.complex64); "
            "torch.ones(1, 1).to('meta')",
        ),
    )
    weights = numbers(
        "(0.3, 0.6, 0.1)",
        "[1, 1, 1]",
        "torch.ones(3)",
        "np.ones(3)",
        hopeless=("[0, 0, 0]", "[1.0, nan, 1.0]", "[]", "[1.0]", "[1.0] * 4", "(inf, 1, 1)", "1.0"),
        doubtful=("[1e200] * 3", "['1', '2', '3']"),
    )
    factor = Kind(some("1", "2"), count().hopeless | some("3", "100"), count(2, 2).doubtful)
    std = real(0.2, 0.3, "0.0", "-1.0")
    size = count(3, 3).optional().plus(hopeless=("2", "7"))
    color = operator(3, 4)
    # Its adjoint is checked where a condition is made of it.
    told = ("known", "weights", "factor", "operator")
    part = Kind(color.good, color.hopeless.filter(lambda text: text != "wrong_adjoint()"), some("wrong_adjoint()"))
    entries = [
        Entry("MaskOperator", {"known": mask()}, then="applied"),
        Entry("GrayOperator", {"weights": weights}, then="applied"),
        Entry("AveragePoolOperator", {"factor": factor}, then="applied"),
        Entry("BlurOperator", {"kernel": kernel}, then="applied"),
        Entry("BlurOperator.gaussian", {"std": std, "size": size}, then="applied", aliases={"size": ("kernel",)}),
        Entry(
            "Composition",
            {"outer": part, "inner": part},
            then="applied",
            aliases={"outer": told, "inner": told},
        ),
    ]
    for source in (
        "MaskOperator(torch.ones(4, 4))",
        "GrayOperator()",
        "AveragePoolOperator(2)",
        "BlurOperator.gaussian(0.3)",
    ):
        entries.append(Entry(f"{source}.measure", {"x": COLOR, "noise_std": NOISE_STD, "generator": only("None")}))
        entries.append(Entry(f"{source}.A", {"x": COLOR}))
    entries += [
        Entry(
            "MaskOperator(torch.ones(4, 4)).At", {"y": Y.tolerant().plus(hopeless=("None", "'a'", "object()", "[]"))}
        ),
        Entry(
            "MaskOperator(torch.ones(4, 4)).solve",
            {"y": FREE, "variance": real(0.1, 1, "-1.0"), "noise_variance": NOISE_STD},
            check=like("y"),
        ),
        Entry("MaskOperator(torch.ones(4, 4)).pseudo_inverse", {"y": FREE}, check=like("y")),
        Entry(
            "BlurOperator.gaussian(0.3).solve",
            {"y": FREE, "variance": real(0.1, 1, "-1.0"), "noise_variance": NOISE_STD},
            check=like("y"),
        ),
    ]
    return entries


USED = "(lambda f: f(torch.ones(2, 1, 4, 4), torch.tensor(0.5)))"
RESAMPLED = f"(lambda f: ({USED}(f), f.resample(torch.ones(2, 1, 4, 4), torch.tensor(0.4)))[1])"
MASK = "MaskOperator(torch.ones(4, 4))"
SCORE = score_function(finite=False)
INTERVAL = numbers(
    "(0.1, 50.0)",
    "[0.0, 10.0]",
    hopeless=("(5.0, 0.1)", "(-1.0, 1.0)", "(nan, 1.0)", "(0.1,)", "(0.1, 1.0, 2.0)", "()"),
).optional()
RATIO = Kind(some("sde('vp').noise_ratio"), some("'a'", "3", "object()"), some("lambda t: None", "lambda t: 'a'"))
TOLD = {"score_fn": ("score",), "with_label": ("score_fn",), "without": ("score_fn",), "posterior": ("score_fn",)}


def log_probability(arguments: str) -> Kind:
    """A log-probability of labels."""
    results = "None; 1.0; x; x.sum(); x.detach().sum((1, 2, 3)); 'a'; torch.zeros(2); x.long().sum((1, 2, 3))"
    not_finite = functions(arguments, "x.sum((1, 2, 3)) * nan")
    good = functions(arguments, "-x.flatten(1).square().sum(1)")
    return Kind(
        some(*good),
        some("None; 'a'; 3; object()", *functions(arguments, results)),
        some(*not_finite),
    )


def guidance() -> list[Entry]:
    """Guidance by classifiers and without, each used at one state."""
    scale = real(1.1, 3)
    interval = {"interval": INTERVAL, "noise_ratio": RATIO}
    return [
        Entry(
            "ClassifierGuidance",
            {"score_fn": SCORE, "log_prob": log_probability("x, t"), "scale": scale, **interval},
            then=USED,
            aliases=TOLD,
        ),
        Entry(
            "DenoisedClassifierGuidance",
            {"score_fn": SCORE, "sde": AN_SDE, "log_prob": log_probability("x"), "scale": scale, "interval": INTERVAL},
            then=USED,
            aliases=TOLD,
        ),
        Entry(
            "ClassifierFreeGuidance",
            {"with_label": SCORE, "without": SCORE, "scale": scale, **interval},
            then=USED,
            aliases=TOLD,
        ),
        Entry(
            "AutoGuidance",
            {"score_fn": SCORE, "weak_score_fn": SCORE, "scale": scale, **interval},
            then=USED,
            aliases=TOLD | {"weak_score_fn": ("score_fn",)},
        ),
        Entry(
            "ClassifierGuidance(lambda x, t: -x, lambda x, t: -x.flatten(1).sum(1))",
            {"x": FREE, "t": STEP},
            check=like("x"),
        ),
        Entry("ClassifierFreeGuidance(lambda x, t: -x, lambda x, t: -2 * x)", {"x": FREE, "t": STEP}, check=like("x")),
    ]


def posteriors() -> list[Entry]:
    """Posteriors of measurements, each used at one state, and the sampling loop."""
    common = {
        "sde": AN_SDE,
        "operator": OPERATOR,
        "y": Y,
        "noise_std": NOISE_STD,
        "data_std": real(0.3, 1, "0.0", "-1.0"),
    }
    matching = {
        "score_fn": SCORE,
        **common,
        "covariance": name("moment_matching", "pseudo_inverse"),
        "tolerance": real(1e-3, 1e-2, "-1.0"),
        "max_iterations": count(1, 3),
    }
    predictor = Kind(
        some("ancestral"), some("None", "'ancestral'", "3", "lambda *a: None", "lambda *a: (1, 2, 3)", "object()")
    )
    smc = {
        "score_fn": SCORE,
        **common,
        "noise_std": real(0.1, 1, "-1.0"),
        "particles": count(1, 2).plus(hopeless=("3",)),
        "predictor": predictor,
        "threshold": real(0.2, 0.8, "-1.0", "2.0"),
    }
    made = f"(lambda x, t: -x, sde(), {MASK}, torch.ones(2, 1, 4, 4), 0.1)"
    draw = Kind(
        some("torch.randn_like"),
        some("'a'", "3", "object()", "lambda x: None", "lambda x: x[:, :, 1:]", "lambda x: 'a'"),
        some("lambda x: x * nan"),  # as of a score: its values are not read, which would wait for the device
    )
    loop = {
        "scheduler": instance(
            "scheduler('subvp')", "scheduler('vp')", extra=("DDPMScheduler()", "VPSDEScheduler", "sde('vp')")
        ),
        "score_fn": SCORE,
        "x": FREE,
        "generator": generator(2),
        "constrain": Kind(some("None", "lambda x, t: x"), some("'a'", "3", "lambda x, t: None", "lambda x, t: x[:1]")),
        "on_step": Kind(
            some("None", "lambda i, t, x: None"), some("'a'", "3", "lambda i, t, x: 3", "lambda i, t, x: x[:1]")
        ),
    }
    told = {
        **TOLD,
        "operator": ("known", "A", "At", "y", "measurement", "factor", "weights"),
        "x": ("generator",),
        "measurement": ("y",),
    }
    return [
        Entry("MomentMatching", matching, then=USED, aliases=told),
        Entry(f"MomentMatching{made}", {"x": X, "t": STEP}, check=like("x")),
        Entry("TwistedSMC", smc, then=RESAMPLED, aliases=told),
        Entry(
            "Replacement",
            {"sde": AN_SDE, "operator": OPERATOR, "measurement": Y, "y": Y, "draw": draw},
            then=USED,
            aliases=told,
        ),
        Entry(f"Replacement(sde(), {MASK}, torch.ones(2, 1, 4, 4))", {"x": FREE, "t": STEP}),
        Entry(
            "posterior_start", {"posterior": SCORE, "sde": AN_SDE, "x": FREE, "t": STEP}, check=like("x"), aliases=told
        ),
        Entry(
            "TiledScore",
            {
                "score_fn": SCORE,
                "tile_size": count(2, 4).plus(
                    good=("(2, 3)",), hopeless=("(2,)", "(0, 2)", "{}"), doubtful=("[2, 3]",)
                ),
                "overlap": count(0, 1).optional().plus(hopeless=("4", "5")),
                "max_batch": count(1, 3),
            },
            then=USED,
            aliases=told | {"overlap": ("tile_size",)},
        ),
        Entry("sampling_loop", loop, check=like("x"), aliases=told),
        Entry(
            "PerSample",
            {
                "function": Kind(SCORE.good, some("None; 'a'; 3; object(); []"), SCORE.doubtful),
                "class_labels": only("torch.tensor([1, 2])"),
            },
            then="(lambda f: f.rows(torch.tensor([0])))",
        ),
    ]


def checks() -> list[Entry]:
    """Checks of a measurement before sampling."""
    shape = numbers("(1, 4, 4)", hopeless=("(0, 4, 4)", "(4,)", "(-1, 4, 4)", "(1.5, 4, 4)"))
    told = {
        "operator": ("known", "A", "At", "measurement", "y", "factor", "weights"),
        "sample_shape": ("operator", "measurement", "known"),
    }
    # Only operators with `nonnegative` have a range.
    ranged = Kind(
        some(MASK), some("None; 'mask'; 3; object(); MaskOperator; []; AveragePoolOperator(3)"), OPERATOR.hopeless
    )
    clean = Kind(some("torch.rand(2, 1, 4, 4).sign()"), Y.hopeless, Y.doubtful)
    return [
        Entry("check_operator", {"operator": OPERATOR, "sample_shape": shape, "measurement": Y}, aliases=told),
        Entry(
            "check_range",
            {
                "operator": ranged,
                "sample_shape": only("(1, 4, 4)"),
                "measurement": clean,
                "noise_std": NOISE_STD,
                "slack": real(0.0, 0.1, "-1.0"),
            },
            aliases=told,
        ),
    ]


ENTRIES = {"operators": operators(), "conditions": guidance() + posteriors() + checks()}
