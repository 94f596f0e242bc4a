"""Entries: measurement operators and conditions."""

from .case import Entry, like
from .strategies import Kind, count, flag, instance, name, numbers, only, operator, real, score_function, some, tensor, time


AN_SDE = instance("sde('ve')", "sde('vp')", extra=("scheduler('vp')", "VPSDE"))
X = tensor(2, 1, 4, 4, strict=False)
COLOR = tensor(2, 3, 4, 4, strict=False)
Y = tensor(2, 1, 4, 4)
OPERATOR = operator(1, 4)
NOISE_STD = real(0.01, 1, "-1.0")
STEP = Kind(some("torch.tensor(0.5)", "torch.tensor(0.9)"), time().hopeless, time().doubtful)


def mask() -> Kind:
    """A mask that broadcasts to the states."""
    return Kind(
        some("torch.tensor([1.0, 0.0, 1.0, 1.0])", "torch.ones(3, 4, 4)", "torch.tensor([True, False]).repeat(2)", "np.ones((4, 4))"),
        some("None", "'a'", "object()", "[]", "{}", "torch.zeros(3, 4, 4)", "torch.full((4, 4), 0.5)", "torch.full((4, 4), nan)", "['a']",
             "torch.full((4, 4), 2.0)", "torch.ones(5)", "torch.zeros(0)", "lambda: 1", "np.array(['a'])", "[[1], [1, 0]]", "torch.ones(4, 4).to_sparse()"),
        some("1", "True", "torch.ones(4, 4, dtype=torch.int64)", "[1, 0, 1, 1]", "torch.ones(4, 4).half()", "torch.ones(4, 4).to('meta')", "torch.ones(4, 4) * 1j"),
    )  # fmt: skip


def operators() -> list[Entry]:
    """Constructors, applied to a color image, and methods."""
    kernel = Kind(
        some("torch.ones(3, 3) / 9", "torch.rand(1, 3)", "torch.ones(3, 3, dtype=torch.float64)"),
        some("None", "'a'", "object()", "[[1.0]]", "torch.ones(2, 2)", "torch.ones(3)", "torch.zeros(3, 3)", "torch.full((3, 3), nan)",
             "torch.ones(0, 0)", "torch.ones(5, 5)", "torch.ones(1, 3, 3)", "{}", "torch.full((1, 1), inf)", "3"),
        some("torch.ones(3, 3, dtype=torch.int64)", "torch.ones(3, 3).half()", "torch.ones(3, 3, dtype=torch.bool)", "np.ones((3, 3))",
             "torch.ones(1, 1).to_sparse()", "torch.ones(1, 1, dtype=torch.complex64)", "torch.ones(1, 1).to('meta')"),
    )  # fmt: skip
    weights = numbers("(0.3, 0.6, 0.1)", "[1, 1, 1]", "torch.ones(3)", "np.ones(3)",
                      hopeless=("[0, 0, 0]", "[1.0, nan, 1.0]", "[]", "[1.0]", "[1.0] * 4", "(inf, 1, 1)", "1.0"), doubtful=("[1e200] * 3", "['1', '2', '3']"))  # fmt: skip
    factor = Kind(some("1", "2"), count().hopeless | some("3", "100"), count(2, 2).doubtful)
    std = real(0.2, 0.4, "0.0", "-1.0")
    size = count(3, 3).optional().plus(hopeless=("2", "7"))
    entries = [
        Entry("MaskOperator", {"known": mask()}, then="applied"),
        Entry("GrayOperator", {"weights": weights}, then="applied"),
        Entry("AveragePoolOperator", {"factor": factor}, then="applied"),
        Entry("BlurOperator", {"kernel": kernel}, then="applied"),
        Entry("BlurOperator.gaussian", {"std": std, "size": size}, then="applied"),
        Entry("Composition", {"outer": operator(3, 4), "inner": operator(3, 4)}, then="applied", aliases={"outer": ("known",), "inner": ("known",)}),
    ]  # fmt: skip
    for source in ("MaskOperator(torch.ones(4, 4))", "GrayOperator()", "AveragePoolOperator(2)", "BlurOperator.gaussian(0.3)"):
        entries.append(Entry(f"{source}.measure", {"x": COLOR, "noise_std": NOISE_STD, "generator": only("None")}))
        entries.append(Entry(f"{source}.A", {"x": COLOR}))
    entries += [
        Entry("MaskOperator(torch.ones(4, 4)).At", {"y": Y.tolerant().plus(hopeless=("None", "'a'", "object()", "[]"))}),
        Entry("MaskOperator(torch.ones(4, 4)).solve", {"y": Y, "variance": real(0.1, 1, "-1.0"), "noise_variance": NOISE_STD}, check=like("y")),
        Entry("MaskOperator(torch.ones(4, 4)).pseudo_inverse", {"y": X}, check=like("y")),
        Entry("BlurOperator.gaussian(0.3).solve", {"y": Y, "variance": real(0.1, 1, "-1.0"), "noise_variance": NOISE_STD}, check=like("y")),
    ]
    return entries


def conditions() -> list[Entry]:
    """Classifier guidance, posteriors and constraints, each used at one state."""
    use = "(lambda f: f(lambda x, t: -x, torch.ones(2, 1, 4, 4), torch.tensor(0.5)))"
    use_new = "(lambda f: f(torch.ones(2, 1, 4, 4), torch.tensor(0.5)))"
    log_prob = Kind(
        some("lambda x, t: -x.flatten(1).square().sum(1)"),
        some("None", "'a'", "3", "object()", *(f"lambda x, t: {body}" for body in (
            "None", "1.0", "x", "x.sum()", "x.detach().sum((1, 2, 3))", "'a'", "x.sum((1, 2, 3)) * nan", "torch.zeros(2)", "x.long().sum((1, 2, 3))"))),
    )  # fmt: skip
    scale = real(0, 3, "-1.0")
    posterior = {
        "sde": AN_SDE, "operator": OPERATOR, "y": Y, "measurement": Y, "noise_std": NOISE_STD,
        "covariance": name("moment_matching", "pseudo_inverse"), "data_std": real(0.3, 1, "0.0", "-1.0"),
        "tolerance": real(1e-3, 1e-2, "-1.0"), "max_iterations": count(1, 3),
    }  # fmt: skip
    prior = {"score_fn": score_function()} | posterior
    made = "LinearPosterior(sde(), MaskOperator(torch.ones(4, 4)), torch.ones(2, 1, 4, 4), 0.1)"
    made_new = "(lambda x, t: -x, sde(), MaskOperator(torch.ones(4, 4)), torch.ones(2, 1, 4, 4), 0.1)"
    told = {"score_fn": ("score",), "measurement": ("y",)}
    return [
        Entry("ClassifierGuidance", {"log_prob": log_prob, "scale": scale}, then=use),
        Entry("ClassifierGuidance(lambda x, t: -x.flatten(1).sum(1))", {"score_fn": score_function(), "x": X, "t": STEP}),
        Entry("LinearPosterior", posterior, then=use),
        Entry("MomentMatching", prior, then=use_new, aliases=told),
        Entry("PseudoInverse", prior, then=use_new, aliases=told),
        Entry("PseudoInverseGuidance", prior, then=use_new, aliases=told),
        Entry(made, {"score_fn": score_function(), "x": X, "t": STEP}, check=like("x")),
        Entry(f"MomentMatching{made_new}", {"x": X, "t": STEP}, check=like("x")),
        Entry("Replacement", {"sde": AN_SDE, "operator": OPERATOR, "y": Y, "measurement": Y, "draw": instance("torch.randn_like")}, then=use_new),
        Entry("Replacement(sde(), MaskOperator(torch.ones(4, 4)), torch.ones(2, 1, 4, 4))", {"x": X, "t": STEP}),
        Entry("check_operator", {"operator": OPERATOR, "sample_shape": numbers("(1, 4, 4)", hopeless=("(0, 4, 4)", "(4,)", "(-1, 4, 4)", "(1.5, 4, 4)")),
              "measurement": Y}),
        Entry("check_range", {"operator": OPERATOR, "sample_shape": only("(1, 4, 4)"),
              "measurement": Kind(some("torch.rand(2, 1, 4, 4).sign()"), Y.hopeless, Y.doubtful), "noise_std": NOISE_STD}),
        Entry("CORRECTORS['langevin']", {"sde": AN_SDE, "x": X, "score": X, "t": STEP, "noise": X, "snr": real(0.01, 0.3, "-1.0"), "batch_mean_norm": flag()}),
    ]  # fmt: skip


ENTRIES = {"operators": operators(), "conditions": conditions()}
