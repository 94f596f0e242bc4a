"""The fuzzer itself: what it judges right and wrong, that calls can be repeated, and that no public name is left out."""

import inspect

import pytest
from fuzzing import oracle
from fuzzing.case import Case, Entry
from fuzzing.entries import FAMILIES
from fuzzing.oracle import judge, names_argument, repeat
from fuzzing.pieces import NAMESPACE
from fuzzing.pieces_files import Refused
from fuzzing.strategies import count
from fuzzing.survey import explore, run
from hypothesis import Phase

import scoresde_pipelines
from scoresde_pipelines import models, schedulers


OUTCOMES = {
    "(lambda count: [0] * count)": ("2", "result"),
    "(lambda count: check_integer('count', count))": ("'a'", "refused"),
    "(lambda count: check_integer('number', count))": ("'a'", "unnamed"),
    "(lambda count: torch.zeros(2) + count)": ("'a'", "unnamed"),
    "(lambda count: [][count])": ("7", "type"),
    "(lambda count: torch.zeros(count))": ("-1", "type"),
    "(lambda count: torch.ones(1) / count)": ("0", "not finite"),
    "(lambda count: torch.ones(1) * count)": ("nan", "not finite"),
    "(lambda count: count + 1)": ("torch.full((2,), nan)", "result"),  # a state of a formula
    "(lambda count: {'a': [1.0, float('inf')]})": ("2", "not finite"),
    "(lambda count: [value for value in iter(int, 1)])": ("2", "hang"),
}


@pytest.mark.parametrize("source", OUTCOMES)
def test_outcomes(source, monkeypatch):
    monkeypatch.setattr(oracle, "LIMIT_S", 0.2)
    value, kind = OUTCOMES[source]
    outcome = judge(Case(Entry(source, {"count": count()}), {"count": value}, ("count",)))
    assert (outcome.kind, outcome.right) == (kind, kind in ("result", "refused")), outcome


def test_a_value_without_a_right_result_must_be_refused_and_a_right_one_accepted():
    entry = Entry("(lambda count: 1)", {"count": count()})
    assert judge(Case(entry, {"count": "'a'"}, ("count",), hopeless=True)).kind == "accepted"
    strict = Entry("(lambda count: check_integer('count', count, 5))", {"count": count()})
    assert judge(Case(strict, {"count": "2"})).kind == "valid call refused"


def test_a_result_of_a_wrong_shape_is_invalid():
    entry = Entry("(lambda x: x[:1])", {"x": count()}, check=lambda result, given: str(result.shape))
    assert judge(Case(entry, {"x": "torch.zeros(2)"})) == oracle.Outcome(False, "invalid", "torch.Size([1])")


@pytest.mark.parametrize(
    ("message", "name", "expected"),
    [
        ("t must be positive, got -1", "t", True),
        ("can't convert np.ndarray of type numpy.str_", "t", False),
        ("The size of tensor a (2) must match the size of tensor b (3)", "x", False),
        ("sample of shape (2, 3) is too small", "sample", True),
        ("multinomial needs samples", "sample", False),
        ("f() missing 1 required positional argument: 'sde'", "sde", True),
        ("unsupported operand type(s) for *: 'Tensor' and 'function'", "operator", False),
    ],
)
def test_which_messages_name_an_argument(message, name, expected):
    assert names_argument(ValueError(message), name) is expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Invalid value for '--seed'", False),
        ("Invalid value for '--model'", True),
        ("no file model.safetensors", False),
        ("model must be a folder", True),
    ],
)
def test_which_command_line_messages_name_an_option(message, expected):
    assert names_argument(Refused(message), "model") is expected


def test_the_message_of_a_command_is_its_error():
    with pytest.raises(Refused, match=r"^Invalid value for '--limit': "):
        repeat("likelihood_command(model='m/m', data='d', output='o.csv', limit='a')")


def test_a_printed_call_repeats_the_result():
    case = Case(Entry("sde('vp').alpha", {"t": count()}), {"t": "torch.tensor([0.0, 1.0])"})
    assert case.text == "sde('vp').alpha(t=torch.tensor([0.0, 1.0]))"
    assert repeat(case.text).tolist() == pytest.approx([1.0, 0.006571586], rel=1e-5)


def test_the_seed_decides_the_calls():
    assert _texts("sde", 20) == _texts("sde", 20)
    assert run(40, families=["sde"]).outcomes == run(40, families=["sde"]).outcomes


def _texts(family, calls):
    texts = []
    explore(FAMILIES[family], calls, 0, lambda case: texts.append(case.text), [Phase.generate])
    return texts


# Base classes and results, which a user does not call, and networks that other entries make.
NOT_CALLED = set(
    [
        "AnalyticNetwork",
        "Divergence",
        "ExactDivergence",
        "FlowSolution",
        "Heun",
        "LinearOperator",
        "LogLikelihood",
        "ModelMixin",
        "NoiseConditionalClassifierOutput",
        "ODEError",
        "Predictor",
        "Preset",
        "SDE",
        "SDEScheduler",
        "SDESchedulerOutput",
        "SchedulerMixin",
        "ScoreFunction",
        "ScoreSdeLikelihoodOutput",
        "ScoreSdePipelineOutput",
        "TimeGrid",
        "matched_prior",
    ]
)


def test_every_public_name_is_fuzzed():
    sources = " ".join(entry.source for entries in FAMILIES.values() for entry in entries)
    public = {name for module in (scoresde_pipelines, schedulers, models) for name in module.__all__}
    called = {name for name in public if callable(NAMESPACE[name])}
    assert sorted(name for name in called - NOT_CALLED if name not in sources) == []


# Arguments that no entry passes: they are for loading, or another argument's entry needs their default.
NOT_PASSED = {
    "VESDEScheduler": {"trained_betas"},
    "SubVPSDEScheduler": {"trained_betas"},
    "TwistedSMC": {"uniform"},
    "log_likelihood": {"eps"},  # the deprecated name of sampling_eps
    "evaluate": {"train_split", "features_weights", "cache_dir"},
    "ScoreSdeClassConditionalPipeline": {"image_processor"},
}


def test_every_argument_of_a_public_name_is_passed():
    passed: dict[str, set[str]] = {}
    for entries in FAMILIES.values():
        for entry in entries:
            passed.setdefault(entry.source, set()).update(entry.known_arguments)
    missing = {}
    for name in passed.keys() & set(scoresde_pipelines.__all__ + schedulers.__all__ + models.__all__):
        parameters = inspect.signature(NAMESPACE[name]).parameters.values()
        named = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if rest := named - passed[name] - NOT_PASSED.get(name, set()):
            missing[name] = rest
    assert missing == {}
