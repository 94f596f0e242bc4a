"""Measurement operators: adjoints, linear systems and pseudo-inverses against their definitions as matrices."""

import pytest
import torch
from gaussian_posteriors import MatrixOperator

from scoresde_pipelines.schedulers import (
    VPSDE,
    AveragePoolOperator,
    BlurOperator,
    GrayOperator,
    LinearOperator,
    MaskOperator,
    MomentMatching,
    Replacement,
    TwistedSMC,
    check_operator,
    check_range,
)
from scoresde_pipelines.schedulers.operator_checks import gram_factor


SHAPE = (3, 8, 8)
MASK = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4


class EverySecondRow(LinearOperator):
    """A user's own operator."""

    def A(self, x):
        return x[:, :, ::2]

    def At(self, y):
        x = y.new_zeros(len(y), y.shape[1], 2 * y.shape[2], y.shape[3])
        x[:, :, ::2] = y
        return x


OPERATORS = {
    "mask": MaskOperator(MASK),
    "gray": GrayOperator(),
    "luma": GrayOperator((0.299, 0.587, 0.114)),
    "pool": AveragePoolOperator(4),
    "blur": BlurOperator.gaussian(0.7),
    "uneven_blur": BlurOperator(torch.arange(15.0, dtype=torch.float64).reshape(3, 5)),
    "user": EverySecondRow(),
    "gray_of_pool": GrayOperator() @ AveragePoolOperator(2),
    "pool_of_blur": AveragePoolOperator(2) @ BlurOperator.gaussian(1.0, size=5),
}


def as_matrix(operator):
    """(m, d), from the images of the basis."""
    basis = torch.eye(192, dtype=torch.float64).reshape(192, *SHAPE)
    return operator.A(basis).flatten(1).T


@pytest.mark.parametrize("name", OPERATORS)
def test_the_adjoint_is_the_transposed_matrix(name):
    operator = OPERATORS[name]
    shape = operator.A(torch.zeros(1, *SHAPE)).shape[1:]
    basis = torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, *shape)
    torch.testing.assert_close(operator.At(basis).flatten(1), as_matrix(operator), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_systems_and_pseudo_inverses_are_those_of_the_matrix(name):
    operator, matrix = OPERATORS[name], as_matrix(OPERATORS[name])
    y = operator.A(torch.randn(5, *SHAPE, dtype=torch.float64))
    flat = y.flatten(1)
    system = 0.3 * matrix @ matrix.T + 0.01 * torch.eye(len(matrix), dtype=torch.float64)
    expected = torch.linalg.solve(system, flat.T).T
    torch.testing.assert_close(operator.solve(y, 0.3, 0.01).flatten(1), expected, rtol=1e-4, atol=1e-4)
    again = operator.A(operator.pseudo_inverse(y))
    torch.testing.assert_close(again, y, rtol=1e-4, atol=1e-4)
    if name not in ("blur", "uneven_blur", "pool_of_blur"):  # these are close to singular
        torch.testing.assert_close(
            operator.pseudo_inverse(y).flatten(1), flat @ torch.linalg.pinv(matrix).T, rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("name", ["mask", "gray", "luma", "pool"])
def test_the_declared_gram_is_the_one_on_the_range(name):
    operator, matrix = OPERATORS[name], as_matrix(OPERATORS[name])
    torch.testing.assert_close(matrix @ matrix.T @ matrix, operator.gram * matrix, rtol=1e-12, atol=1e-12)


def test_what_the_operators_measure():
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(OPERATORS["mask"].A(x), torch.where(MASK, x, 0.0))
    torch.testing.assert_close(OPERATORS["gray"].A(x), x.mean(1, keepdim=True))
    torch.testing.assert_close(OPERATORS["pool"].A(x)[1, 2, 0, 1], x[1, 2, :4, 4:].mean())
    blur = BlurOperator(torch.tensor([[0.0, 0.0, 1.0]]))  # correlation: each pixel takes its right neighbour's value
    torch.testing.assert_close(blur.A(x), x.roll(-1, dims=-1))
    torch.testing.assert_close(OPERATORS["blur"].A(torch.ones(1, *SHAPE)), torch.ones(1, *SHAPE))
    torch.testing.assert_close(OPERATORS["gray_of_pool"].A(x)[0, 0, 0, 0], x[0, :, :2, :2].mean())


@pytest.mark.parametrize("name", ["mask", "gray", "pool", "user"])
def test_measure_adds_noise_of_the_given_size_in_the_range(name):
    operator, x = OPERATORS[name], torch.zeros(4000, *SHAPE)
    y = operator.measure(x, 0.2, torch.Generator().manual_seed(0))
    known = operator.A(torch.ones(1, *SHAPE)) != 0
    assert float(y[known.expand_as(y)].std()) == pytest.approx(0.2, rel=0.01)
    assert not bool(y[~known.expand_as(y)].any())


@pytest.mark.parametrize("name", OPERATORS)
def test_good_operators_pass_the_check(name):
    x = torch.randn(2, *SHAPE)
    check_operator(OPERATORS[name], SHAPE, OPERATORS[name].A(x))


class Changed(LinearOperator):
    """A right operator whose adjoint is changed by a function."""

    def __init__(self, operator, change):
        self.operator, self.change = operator, change

    def A(self, x):
        return self.operator.A(x)

    def At(self, y):
        return self.change(self.operator.At(y))


def score(x, t):
    return -x


USERS = {
    "check_operator": lambda operator, y: check_operator(operator, (3, 256, 256), y),
    "replacement": lambda operator, y: Replacement(VPSDE(), operator, y),
    "moment_matching": lambda operator, y: MomentMatching(score, VPSDE(), operator, y, 0.1),
    "twisted_smc": lambda operator, y: TwistedSMC(score, VPSDE(), operator, y, 0.1, particles=1),
}


def negated_block(x):
    x = x.clone()
    x[-1, 0, 64:72, 64:72] *= -1
    return x


WRONG = {
    "scale": lambda x: 1.05 * x,
    "inverse": lambda x: 4 * x,  # the pseudo-inverse of averages of 2 x 2, instead of the adjoint
    "sign": torch.neg,
    "transposition": lambda x: x.mT,
    "shift": lambda x: x.roll(1, -1),
    "channels": lambda x: x.flip(1),
    "block": negated_block,
    "zero": torch.zeros_like,
    "samples": lambda x: x.flip(0),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_adjoint_is_refused_by_everything_that_takes_an_operator(change, user):
    # Many pixels: the products of random images are small beside those of their norms.
    operator = Changed(AveragePoolOperator(2), WRONG[change])
    y = AveragePoolOperator(2).A(torch.rand(2, 3, 256, 256))
    with pytest.raises(ValueError, match=r"operator Changed.At is not the adjoint of A"):
        USERS[user](operator, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPERATORS)
def test_right_operators_of_every_dtype_are_accepted(name, dtype):
    operator = OPERATORS[name]
    y = operator.A(torch.rand(2, *SHAPE)).to(dtype)
    check_operator(operator, SHAPE, y)
    Replacement(VPSDE(), operator, y)
    MomentMatching(score, VPSDE(), operator, y, 0.1)


@pytest.mark.parametrize("user", USERS)
def test_operators_that_are_not_linear_or_of_another_gram_are_refused(user):
    class Clipped(MaskOperator):
        def A(self, x):
            return super().A(x).clamp(0, 1)

    class Twice(MaskOperator):  # inherits the gram of the mask
        def A(self, x):
            return 2 * super().A(x)

        def At(self, y):
            return 2 * super().At(y)

    y = torch.rand(2, 3, 256, 256)
    with pytest.raises(ValueError, match=r"operator Clipped.At is not the adjoint of A"):
        USERS[user](Clipped(torch.ones(256, 256)), y)
    with pytest.raises(ValueError, match=r"operator Twice.gram must be the number g with A At = g I .*got 1.0"):
        USERS[user](Twice(torch.ones(256, 256)), y)


def test_an_operator_of_each_sample_has_a_gram_factor():
    class Scaled(LinearOperator):
        def __init__(self, scale):
            self.scale = torch.tensor(scale).reshape(-1, 1)

        def A(self, x):
            return self.scale * x

        At = A

    assert gram_factor(Scaled([2.0, 2.0]), torch.zeros(2, 4)) == pytest.approx(4.0, rel=1e-6)
    assert gram_factor(Scaled([2.0, 3.0]), torch.zeros(2, 4)) is None


def test_bad_operators_and_measurements_are_refused():
    class Wrong(EverySecondRow):
        def At(self, y):
            return y.repeat_interleave(2, dim=2)

    y = torch.zeros(2, 3, 4, 8)
    with pytest.raises(ValueError, match=r"Wrong.At is not the adjoint of A"):
        check_operator(Wrong(), SHAPE, y)
    with pytest.raises(ValueError, match=r"measurement must have the shape .* \(2, 3, 4, 8\), got \(2, 3, 8, 8\)"):
        check_operator(EverySecondRow(), SHAPE, torch.zeros(2, *SHAPE))
    with pytest.raises(ValueError, match="factor must be an integer of at least 1, got 0"):
        AveragePoolOperator(0)
    with pytest.raises(ValueError, match=r"factor 3 must divide the sides of x of shape \(1, 3, 8, 8\)"):
        AveragePoolOperator(3).A(torch.zeros(1, *SHAPE))
    with pytest.raises(ValueError, match="weights of 3 channels must fit x of shape"):
        GrayOperator().A(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="mask without a known pixel"):
        MaskOperator(torch.zeros(8, 8))
    with pytest.raises(ValueError, match=r"odd sides, got shape \(2, 3\)"):
        BlurOperator(torch.ones(2, 3))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: MaskOperator(torch.full((4, 4), 0.5)), ValueError, "known must hold zeros and ones"),
        (
            lambda: MaskOperator(torch.ones(8, 8)).A(torch.ones(1, 1, 4, 4)),
            ValueError,
            "known of shape .*must broadcast",
        ),
        (lambda: AveragePoolOperator(True), ValueError, "factor must be an integer of at least 1, got True"),
        (lambda: AveragePoolOperator(2) @ 3, TypeError, "inner must be a LinearOperator, got int"),
        (lambda: GrayOperator((float("inf"), 1.0)), ValueError, r"weights\[0\] must be a finite number, got inf"),
        (lambda: BlurOperator([[1.0]]), TypeError, "kernel must be a tensor, got list"),
        (
            lambda: BlurOperator(torch.zeros(3, 3)),
            ValueError,
            "kernel must hold finite numbers, not all zero",
        ),
        (
            lambda: BlurOperator(torch.ones(9, 9)).A(torch.ones(1, 1, 4, 4)),
            ValueError,
            r"kernel of shape \(9, 9\) must",
        ),
        (lambda: BlurOperator.gaussian(0.0), ValueError, r"std must be a finite number in \(0, 1e\+06\], got 0.0"),
        (lambda: BlurOperator.gaussian(1.0, 4), ValueError, "size must be odd, got 4"),
    ],
)
def test_impossible_operators_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("gain", [0.25, 1.0, 9.0])
def test_a_gram_factor_is_found_where_there_is_one(gain):
    basis = torch.linalg.qr(torch.randn(6, 6))[0][:3]
    operator = MatrixOperator(basis * gain**0.5, (1, 2, 3))
    assert gram_factor(operator, torch.zeros(1, 3)) == pytest.approx(gain, rel=1e-5)
    assert (
        gram_factor(MatrixOperator(basis * torch.tensor([[1.0], [2.0], [3.0]]), (1, 2, 3)), torch.zeros(1, 3)) is None
    )


def test_eight_bit_measurements_are_recognised():
    operator, small = AveragePoolOperator(2), torch.rand(1, 3, 4, 4)
    check_range(operator, (3, 8, 8), small, 0.0)
    with pytest.raises(ValueError, match=r"measurement must be one of images with values in \[0, 1\]"):
        check_range(operator, (3, 8, 8), 255 * small, 0.01)
    check_range(operator, (3, 8, 8), 255 * small, 100.0)  # noise of that size explains them
