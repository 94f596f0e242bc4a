"""Kinds of arguments that hold numbers: tensors, times, score functions, generators, labels, images, operators."""

from .strategies import Kind, functions, some


NOT_TENSORS = (
    "None; 'a'; b'a'; []; {}; object(); torch.Tensor; [[1.0], [1.0, 2.0]]; ['a']; np.array(['a']); np.array([None]); "
    "lambda: 1",
)


def tensor(*shape: int, dtype: str = "float32", strict: bool = True, fixed: bool = True) -> Kind:
    """A tensor.

    Args:
        strict: whether plain numbers, NaN, infinity and complex numbers must be refused; elementwise functions may
            compute with them.
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
        shapes += [f"{plain}[0]", f"{plain}[..., None]", "torch.rand(())", f"{plain}.flatten()"]
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
        f"{plain}[:0]",  # an empty batch may have an empty result
    )
    bad_numbers += [f"torch.zeros({size}, dtype=torch.complex64)", "3.0", "True", "1j"]
    hopeless = [*NOT_TENSORS, *(shapes if fixed else ()), *(bad_numbers if strict else ())]
    return Kind(some(*good), some(*hopeless), some(*odd, *(() if fixed else shapes), *(() if strict else bad_numbers)))


def time(batch: int | None = None) -> Kind:
    """A time of an SDE: a number, 0-dim, or of shape (batch,)."""
    good = ["0.5", "torch.tensor(0.3)", "torch.tensor(0.9, dtype=torch.float64)"]
    wrong = [
        "None; 'a'; b'a'; {}; object(); float; np.array(['a']); ['a']; [[1], [1, 2]]; lambda: 1; set()",
    ]
    odd = [
        "1j; torch.tensor(1j); []; nan; inf; -1.0; 0.0; 2.0; 1; True; np.float64(0.5); np.float32(0.5); "
        "np.array(0.5); [0.5]; torch.tensor(1); torch.tensor(0.5).half(); torch.tensor(nan); "
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


def score_function(finite: bool = True) -> Kind:
    """A function `(x, t) -> score`.

    Args:
        finite: whether NaN and infinity must be refused. A function of single states does not look: that would wait for
            the device in every step, and NaN shows in its result.
    """
    results = (
        "None; x[:1]; x[:, :, :1]; x.sum(); 1.0; x.long(); x.detach().numpy(); x[..., None]; (x, x); x.to(torch.complex64); "
        "'a'; x != 0"
    )
    wrong, not_finite = functions("x, t", results), functions("x, t", "x * nan; x.double() * inf")
    return Kind(
        some("lambda x, t: -x"),
        some("None; 'a'; 3; object(); torch.zeros(2); []", *wrong, *(not_finite if finite else ())),
        some(*(() if finite else not_finite)),
    )


def generator(batch: int = 2) -> Kind:
    """`None`, a generator, or a list of one for each sample."""
    one = "torch.Generator().manual_seed(1)"
    every = f"[torch.Generator().manual_seed(i) for i in range({batch})]"
    return Kind(
        some("None", one, every),
        some(
            "0; 3; 'a'; np.random.default_rng(0); object(); []; [None]",
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
            "10**30; 2**63; 1.5; nan; []; {}; object()",
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
            "None; 'a.png'; b'a'; Path('a.png'); 3; 1.5; []; (); {}; object(); Image; [[]]; set(); [None]; ['a']; "
            "lambda: 1",
            *wrong,
        ),
        some(*odd),
    )


def operator(channels: int, size: int) -> Kind:
    """A linear operator on images of this shape that keeps their shape."""
    mask = f"MaskOperator(torch.tensor([1.0, 0.0]).repeat({size // 2}))"
    return Kind(
        some(mask, f"MaskOperator(torch.ones({channels}, {size}, {size}))"),
        some(
            "None; 'mask'; 3; object(); MaskOperator; torch.nn.Linear(2, 2); lambda x: x; torch.eye(4); []; "
            "AveragePoolOperator(3)",
            f"MaskOperator(torch.ones({size + 1}))",
            "LinearOperator()",
            "wrong_adjoint()",
            "returning(None)",
            "returning('a')",
            f"GrayOperator([1.0] * {channels + 1})",
        ),
    )
