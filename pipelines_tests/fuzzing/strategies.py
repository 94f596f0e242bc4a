"""Right and bad values for each kind of argument, as the source text of an expression.

Text, because a failure then prints as a call that can be pasted, and every call gets fresh objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


Texts = SearchStrategy[str]

NOT_NUMBERS = (
    "'a'; '2'; b'2'; ''; []; [1, 2]; {}; {'a': 1}; object(); 1j; float; lambda: 1; np.array([1.0, 2.0]); "
    "np.array(['a']); torch.zeros(2); torch.tensor(1j); Ellipsis; np.datetime64('2020')",
)
NOT_FINITE = ("nan", "inf", "-inf", "np.float64('nan')", "np.float32('inf')", "torch.tensor(nan)")
HUGE_INTEGERS = ("2**63", "-(2**63)", "10**30", "10**12")


@dataclass(frozen=True)
class Kind:
    """One kind of argument.

    Args:
        good: values with a right result.
        hopeless: values that must be refused, because no result is right.
        doubtful: values that may be refused or understood.
    """

    good: Texts
    hopeless: Texts
    doubtful: Texts = field(default_factory=st.nothing)

    def plus(self, *, good: Sequence[str] = (), hopeless: Sequence[str] = (), doubtful: Sequence[str] = ()) -> "Kind":
        """The same kind with more values."""
        return Kind(self.good | some(*good), self.hopeless | some(*hopeless), self.doubtful | some(*doubtful))

    def optional(self) -> "Kind":
        """The same kind where `None` is a right value."""
        return Kind(self.good | st.just("None"), self.hopeless.filter(lambda text: text != "None"), self.doubtful)

    def tolerant(self) -> "Kind":
        """The same kind where nothing is hopeless: whatever is accepted is held to the checks of the result alone."""
        return replace(self, hopeless=st.nothing(), doubtful=self.hopeless | self.doubtful)


def without(kind: Kind, *texts: str) -> Kind:
    """The same kind without some of its hopeless values."""
    return replace(kind, hopeless=kind.hopeless.filter(lambda text: text not in texts))


def some(*texts: str) -> Texts:
    """One of the given expressions; a text may hold several, separated by "; "."""
    expressions = [expression for text in texts for expression in text.split("; ")]
    return st.sampled_from(expressions) if expressions else st.nothing()


def functions(arguments: str, results: str) -> list[str]:
    """Functions that return each of the results, which "; " separates."""
    return [f"lambda {arguments}: {result}" for result in results.split("; ")]


def only(*texts: str) -> Kind:
    """An argument that is never corrupted."""
    return Kind(some(*texts), st.nothing())


def count(low: int = 1, high: int = 4, huge: bool = True) -> Kind:
    """An integer: right calls have one from `low` to `high`, and it must be at least 1, or 0 where `low` is 0."""
    below = (str(min(low, 1) - 1), "-1", "-100")
    hopeless = some(
        "None", "1.5", "np.float64(2.5)", *below, *NOT_NUMBERS, *NOT_FINITE, *(HUGE_INTEGERS if huge else ())
    )
    middle = (low + high + 1) // 2
    return Kind(
        st.integers(low, high).map(str),
        hopeless,
        some(*(f"{make}({middle})" for make in ("np.int64", "np.int16", "np.array", "torch.tensor", "float")), "True"),
    )


def real(low: float, high: float, *outside: str, infinite: bool = False) -> Kind:
    """A number between `low` and `high`; `outside` are numbers that must be refused."""
    middle = repr(round((low + high) / 2, 6))
    makers = ("np.float64", "np.float32", "np.float16", "np.array", "torch.tensor", "Fraction", "Decimal")
    not_finite = [text for text in NOT_FINITE if not infinite or "nan" in text]
    return Kind(
        st.floats(low, high)
        .map(lambda value: repr(float(f"{value:.3g}")))
        .filter(lambda text: low <= float(text) <= high),
        some("None", "10**400", *NOT_NUMBERS, *not_finite, *outside),
        some(
            *(f"{make}({middle})" for make in makers),
            f"np.array([{middle}])",
            "True; 1e308; 1e-308; 5e-324; 1",
        ),
    )


def name(*choices: str) -> Kind:
    """One of a few names."""
    wrong = (
        "None; ''; 'nope'; 1; 1.5; nan; True; object(); []; {}; set(); torch.zeros(2); np.array(['a', 'b'])",
        f"b{choices[0]!r}",
        f"[{choices[0]!r}]",
        f"({choices[0]!r},)",
        f"{choices[0] + ' '!r}",
        "lambda: 1",
        "str",
    )
    return Kind(some(*map(repr, choices)), some(*wrong), some(f"np.str_({choices[0]!r})", repr(choices[0].upper())))


def flag() -> Kind:
    """A boolean; Python's truth of other values is accepted, but must not crash."""
    return Kind(
        some("True", "False"),
        st.nothing(),
        some(
            "torch.zeros(2); np.array([1, 2]); None; 0; 1; 'no'; []; nan; object(); np.bool_(True); torch.tensor(True)",
        ),
    )


def path(*good: str) -> Kind:
    """A path of a file or folder that must exist."""
    return Kind(
        some(*good),
        some(
            "None; 3; 1.5; ''; 'nowhere/at/all'; 'nul\\0byte'; object(); []; {}; b'nowhere'; Path('nowhere'); True; "
            "'x' * 5000; np.array(['a']); nan; ('a', 'b'); 'https://example.invalid/a'",
        ),
    )


def instance(*good: str, extra: Sequence[str] = ()) -> Kind:
    """An object of a class of the package."""
    wrong = ("None", "'vp'", "3", "1.5", "object()", "[]", "{}", "lambda *a: None", "torch.zeros(2)", "int", "nan")
    return Kind(some(*good), some(*wrong, *extra))


def numbers(*good: str, hopeless: Sequence[str] = (), doubtful: Sequence[str] = ()) -> Kind:
    """A sequence of numbers."""
    wrong = (
        "None; 'a'; '123'; 3; b'12'; []; object(); ['a', 'b']; [None]; {}; [nan]; [inf, 1]; lambda: 1; [[1, 2], [3]]; "
        "[1j]; torch.tensor(1.0); {'a': 1}; np.array(['a']); [object()]; [1, '2']",
    )
    return Kind(some(*good), some(*wrong, *hopeless), some("{1, 2}", "range(2)", *doubtful))


def words(*good: str, numeric: bool = True, hopeless: Sequence[str] = (), doubtful: Sequence[str] = ()) -> Kind:
    """The text of a command-line option."""
    wrong = ("'abc'", "''", "'nan'", "'None'", "'1j'", "'1,5'", "'[]'", "'1 2'", "'1e999'") if numeric else ("''",)
    return Kind(
        some(*map(repr, good)),
        some(*wrong, *map(repr, hopeless)),
        some(repr("\N{FULLWIDTH DIGIT ONE}"), "' 1'", "'1_0'", *map(repr, doubtful)),
    )
