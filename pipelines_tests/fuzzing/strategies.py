"""Right and bad values for each kind of argument, as the source text of an expression.

Text, because a failure then prints as a call that can be pasted, and every call gets fresh objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


Texts = SearchStrategy[str]

NOT_NUMBERS = (
    "'a'",
    "'2'",
    "b'2'",
    "''",
    "[]",
    "[1, 2]",
    "{}",
    "{'a': 1}",
    "object()",
    "1j",
    "float",
    "lambda: 1",
    "np.array([1.0, 2.0])",
    "np.array(['a'])",
    "torch.zeros(2)",
    "torch.tensor(1j)",
    "Ellipsis",
    "np.datetime64('2020')",
)
NOT_FINITE = ("nan", "inf", "-inf", "np.float64('nan')", "np.float32('inf')", "torch.tensor(nan)")
HUGE_INTEGERS = ("2**63", "-(2**63)", "10**30", "10**12")
NOT_TENSORS = (
    "None",
    "'a'",
    "b'a'",
    "[]",
    "{}",
    "object()",
    "torch.Tensor",
    "[[1.0], [1.0, 2.0]]",
    "['a']",
    "np.array(['a'])",
    "np.array([None])",
    "lambda: 1",
)


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
    doubtful: Texts = st.nothing()

    def plus(self, *, good: Sequence[str] = (), hopeless: Sequence[str] = (), doubtful: Sequence[str] = ()) -> "Kind":
        """The same kind with more values."""
        return Kind(self.good | some(*good), self.hopeless | some(*hopeless), self.doubtful | some(*doubtful))

    def optional(self) -> "Kind":
        """The same kind where `None` is a right value."""
        return Kind(self.good | st.just("None"), self.hopeless.filter(lambda text: text != "None"), self.doubtful)

    def tolerant(self) -> "Kind":
        """The same kind where nothing is hopeless: whatever is accepted is held to the checks of the result alone."""
        return replace(self, hopeless=st.nothing(), doubtful=self.hopeless | self.doubtful)


def some(*texts: str) -> Texts:
    """One of the given texts."""
    return st.sampled_from(texts) if texts else st.nothing()


def only(*texts: str) -> Kind:
    """An argument that is never corrupted."""
    return Kind(some(*texts), st.nothing())


def count(low: int = 1, high: int = 4, huge: bool = True) -> Kind:
    """An integer of at least `low`; `high` bounds the cost of a right call."""
    below = (str(low - 1), str(low - 2), "-100")
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
            "True",
            "1e308",
            "1e-308",
            "5e-324",
            "1",
        ),
    )


def name(*choices: str) -> Kind:
    """One of a few names."""
    wrong = (
        "None",
        "''",
        "'nope'",
        "1",
        "1.5",
        "nan",
        "True",
        "object()",
        "[]",
        "{}",
        "set()",
        "torch.zeros(2)",
        "np.array(['a', 'b'])",
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
            "torch.zeros(2)",
            "np.array([1, 2])",
            "None",
            "0",
            "1",
            "'no'",
            "[]",
            "nan",
            "object()",
            "np.bool_(True)",
            "torch.tensor(True)",
        ),
    )


def tensor(*shape: int, dtype: str = "float32", strict: bool = True, fixed: bool = True) -> Kind:
    """A tensor.

    Args:
        strict: whether numbers, NaN, infinity and complex numbers must be refused; elementwise functions may compute with them.
        fixed: whether another shape must be refused.
    """
    size = f"({', '.join(map(str, shape))},)" if shape else "()"
    plain = f"torch.randn({size}, dtype=torch.{dtype})"
    other = "float64" if dtype == "float32" else "float32"
    good = [plain, f"torch.randn({size}, dtype=torch.{other})"]
    if len(shape) > 1 and shape[-1] == shape[-2]:
        good.append(f"{plain}.mT")
    longer, wrong = ", ".join(map(str, (*shape[:-1], shape[-1] + 1 if shape else 3))), ", ".join(map(str, (3, *shape)))
    shapes = [f"torch.rand({longer})", f"torch.rand({wrong})", "torch.rand(3, 5, 7)", f"torch.rand(0, {wrong})"]
    if len(shape) > 1:
        shapes += [f"{plain}[0]", f"{plain}[:0]", f"{plain}[..., None]", "torch.rand(())", f"{plain}.flatten()"]
    bad_numbers = [f"torch.full({size}, nan)", f"one_nan({plain})", f"torch.full({size}, inf)"]
    odd = (
        f"{plain}.half()",
        f"{plain}.bfloat16()",
        f"{plain}.requires_grad_()",
        f"{plain}.numpy()",
        f"{plain}.tolist()",
        f"torch.ones({size}, dtype=torch.int64)",
        f"torch.ones({size}, dtype=torch.bool)",
        f"{plain}.to_sparse()",
        f"{plain}.to('meta')",
        f"1e4 * {plain}",
        f"torch.nn.Parameter({plain})",
    )
    bad_numbers += [f"torch.zeros({size}, dtype=torch.complex64)", "3.0", "True", "1j"]
    hopeless = [*NOT_TENSORS, *(shapes if fixed else ()), *(bad_numbers if strict else ())]
    return Kind(some(*good), some(*hopeless), some(*odd, *(() if fixed else shapes), *(() if strict else bad_numbers)))


def time(batch: int | None = None) -> Kind:
    """A time of an SDE: a number, 0-dim, or of shape (batch,)."""
    good = ["0.5", "torch.tensor(0.3)", "torch.tensor(0.9, dtype=torch.float64)"]
    wrong = [
        "None",
        "'a'",
        "b'a'",
        "{}",
        "object()",
        "float",
        "np.array(['a'])",
        "['a']",
        "[[1], [1, 2]]",
        "lambda: 1",
        "set()",
    ]
    odd = [
        "1j",
        "torch.tensor(1j)",
        "[]",
        "nan",
        "inf",
        "-1.0",
        "0.0",
        "2.0",
        "1e9",
        "1",
        "True",
        "np.float64(0.5)",
        "np.float32(0.5)",
        "np.array(0.5)",
        "[0.5]",
        "torch.tensor(1)",
        "torch.tensor(0.5).half()",
        "torch.tensor(nan)",
        "torch.tensor(0.5).to('meta')",
    ]
    if batch is not None:
        good.append(f"torch.linspace(0.1, 0.9, {batch})")
        wrong += [f"torch.full(({batch + 1},), 0.5)", "torch.zeros(0)"]
        odd += [
            f"torch.full(({batch}, 1), 0.5)",
            f"torch.full(({batch},), nan)",
            f"torch.full(({batch},), 2.0)",
            "torch.tensor([0.5])",
        ]
    else:
        good += ["torch.linspace(0.1, 0.9, 3)", "torch.full((2, 2), 0.5)"]
    return Kind(some(*good), some(*wrong), some(*odd))


def instant(*good: str) -> Kind:
    """A time that is the same for all samples."""
    every = time(2)
    return Kind(
        some(*good or ("torch.tensor(0.5)", "torch.tensor(0.6)", "torch.tensor(0.9, dtype=torch.float64)")),
        every.hopeless,
        every.doubtful,
    )


def score_function(extra: str = "") -> Kind:
    """A function `(x, t) -> score`."""
    head = f"lambda x, t{extra}: "
    wrong = [
        f"{head}{body}"
        for body in (
            "None",
            "x[:1]",
            "x[:, :1]",
            "x.sum()",
            "1.0",
            "x.long()",
            "x.numpy()",
            "x[..., None]",
            "(x, x)",
            "x.to(torch.complex64)",
            "x * nan",
            "x.double() * inf",
            "'a'",
            "x != 0",
        )
    ]
    return Kind(some(f"{head}-x"), some("None", "'a'", "3", "object()", "torch.zeros(2)", "[]", *wrong))


def generator(batch: int = 2) -> Kind:
    """`None`, a generator, or a list of one for each sample."""
    one = "torch.Generator().manual_seed(1)"
    every = f"[torch.Generator().manual_seed(i) for i in range({batch})]"
    return Kind(
        some("None", one, every),
        some(
            "0",
            "3",
            "'a'",
            "np.random.default_rng(0)",
            "object()",
            "[]",
            "[None]",
            f"[{one}, 3]",
            "torch.Generator",
            f"[{one}] * {batch + 1}",
            "{}",
            "torch.manual_seed",
            "1.5",
            "random.Random(0)",
        ),
        some(f"tuple({every})", "True", "False"),
    )


def labels(batch: int = 2, classes: int = 3) -> Kind:
    """Class labels of `batch` images."""
    several = ", ".join(["1"] * batch)
    return Kind(
        some(
            f"torch.tensor([{several}])",
            f"torch.zeros({batch}, dtype=torch.int64)",
            f"torch.full(({batch},), {classes - 1})",
        ),
        some(
            "'a'",
            "'1'",
            "b'1'",
            "-1",
            str(classes),
            "10**30",
            "2**63",
            "1.5",
            "nan",
            "[]",
            "{}",
            "object()",
            f"[-1] * {batch}",
            f"torch.full(({batch},), {classes})",
            f"torch.full(({batch},), -1)",
            f"torch.full(({batch},), 0.5)",
            "[[0], [1, 2]]",
            f"['a'] * {batch}",
            f"torch.full(({batch},), nan)",
            f"torch.zeros({batch}, 2, dtype=torch.int64)",
            "torch.zeros(0)",
            f"torch.zeros({batch}, dtype=torch.complex64)",
            "[None]",
            "lambda: 1",
            f"np.array(['a'] * {batch})",
            f"np.full({batch}, {classes})",
            "inf",
        ),
        some(
            f"[{several}]",
            f"({several},)",
            f"np.array([{several}])",
            f"torch.tensor([{several}], dtype=torch.int32)",
            f"torch.tensor([{several}], dtype=torch.uint8)",
            f"[np.int64(1)] * {batch}",
            "True",
            f"range({batch})",
            f"torch.ones({batch})",
            f"torch.ones({batch}, dtype=torch.bool)",
        ),
    )


def image(channels: int, size: int, batch: int = 1) -> Kind:
    """Images of every kind that a user may hold."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    pil = f"Image.new({mode!r}, ({size}, {size}), 7)" if channels == 1 else f"Image.new({mode!r}, ({size}, {size}))"
    array = f"np.full(({batch}, {size}, {size}, {channels}), 7, np.uint8)"
    values = f"torch.full(({batch}, {channels}, {size}, {size}), 0.25)"
    good = [
        f"[{pil}] * {batch}",
        array,
        values,
        f"torch.full(({batch}, {channels}, {size}, {size}), 9, dtype=torch.uint8)",
        f"{array} / 255",
    ]
    good += [pil] if batch == 1 else []
    modes = ("1", "P", "LA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB", "RGBA", "La", "PA", "RGBa", "L", "RGB")
    odd = [f"[Image.new({m!r}, ({size}, {size}))] * {batch}" for m in modes]
    odd += [
        f"{array}.astype(np.uint16)",
        f"{array} > 3",
        f"{array}.astype(np.int32)",
        f"{values}.half()",
        f"{values}.bfloat16()",
        f"{values}.requires_grad_()",
        f"list({values})",
        f"list({array})",
        f"{values}.mT",
        f"tuple({array})",
        f"{array}.astype('>f4') / 255",
    ]
    wrong = [
        f"Image.new({mode!r}, ({size + 1}, {size}))",
        f"[{pil}, None]",
        f"[{pil}, Image.new({mode!r}, (3, 3))]",
        f"Image.new({mode!r}, (0, 0))",
        f"{values} * 8",
        f"{values} - 1",
        f"{values} * nan",
        f"one_nan({values})",
        f"{values} * inf",
        f"{values}.to(torch.complex64)",
        f"{array}.astype(complex)",
        f"{array}.astype(object)",
        f"{array}.astype(str)",
        f"{array}.astype(np.int64) * 100",
        f"{array}.astype(np.int64) - 90",
        f"{values}[None, None]",
        f"{values}[..., 1:]",
        f"{values}[:0]",
        "torch.zeros(())",
        "torch.zeros(3)",
        "np.zeros(0)",
        f"{values}.to('meta')",
        f"{values}.to_sparse()",
    ]
    return Kind(
        some(*good),
        some(
            "None",
            "'a.png'",
            "b'a'",
            "Path('a.png')",
            "3",
            "1.5",
            "[]",
            "()",
            "{}",
            "object()",
            "Image",
            "[[]]",
            "set()",
            "[None]",
            "['a']",
            "lambda: 1",
            *wrong,
        ),
        some(*odd),
    )


def path(*good: str) -> Kind:
    """A path of a file or folder that must exist."""
    return Kind(
        some(*good),
        some(
            "None",
            "3",
            "1.5",
            "''",
            "'nowhere/at/all'",
            "'nul\\0byte'",
            "object()",
            "[]",
            "{}",
            "b'nowhere'",
            "Path('nowhere')",
            "True",
            "'x' * 5000",
            "np.array(['a'])",
            "nan",
            "('a', 'b')",
            "'https://example.invalid/a'",
        ),
    )


def operator(channels: int, size: int) -> Kind:
    """A linear operator on images of this shape that keeps their shape."""
    mask = f"MaskOperator(torch.tensor([1.0, 0.0]).repeat({size // 2}))"
    return Kind(
        some(mask, f"MaskOperator(torch.ones({channels}, {size}, {size}))"),
        some(
            "None",
            "'mask'",
            "3",
            "object()",
            "MaskOperator",
            "torch.nn.Linear(2, 2)",
            "lambda x: x",
            "torch.eye(4)",
            "[]",
            "AveragePoolOperator(3)",
            f"MaskOperator(torch.ones({size + 1}))",
            "LinearOperator()",
            "wrong_adjoint()",
            "returning(None)",
            "returning('a')",
            f"GrayOperator([1.0] * {channels + 1})",
        ),
    )


def instance(*good: str, extra: Sequence[str] = ()) -> Kind:
    """An object of a class of the package."""
    wrong = ("None", "'vp'", "3", "1.5", "object()", "[]", "{}", "lambda *a: None", "torch.zeros(2)", "int", "nan")
    return Kind(some(*good), some(*wrong, *extra))


def numbers(*good: str, hopeless: Sequence[str] = (), doubtful: Sequence[str] = ()) -> Kind:
    """A sequence of numbers."""
    wrong = (
        "None",
        "'a'",
        "'123'",
        "3",
        "b'12'",
        "[]",
        "object()",
        "['a', 'b']",
        "[None]",
        "{}",
        "[nan]",
        "[inf, 1]",
        "lambda: 1",
        "[[1, 2], [3]]",
        "[1j]",
        "torch.tensor(1.0)",
        "{'a': 1}",
        "np.array(['a'])",
        "[object()]",
        "[1, '2']",
    )
    return Kind(some(*good), some(*wrong, *hopeless), some("{1, 2}", "range(2)", *doubtful))


def words(*good: str, numeric: bool = True, hopeless: Sequence[str] = (), doubtful: Sequence[str] = ()) -> Kind:
    """The text of a command-line option."""
    wrong = ("'abc'", "''", "'nan'", "'None'", "'1j'", "'1,5'", "'[]'", "'1 2'", "'1e999'") if numeric else ("''",)
    return Kind(
        some(*map(repr, good)), some(*wrong, *map(repr, hopeless)), some("'１'", "' 1'", "'1_0'", *map(repr, doubtful))
    )
