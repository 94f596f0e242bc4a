"""Checks of arguments: what counts as an integer and a number, and what the errors say."""

import math

import numpy as np
import pytest
import torch

from scoresde_pipelines import VPSDEScheduler
from scoresde_pipelines.schedulers.checks import (
    as_real,
    as_time,
    check_choice,
    check_finite,
    check_function,
    check_integer,
    check_number,
    check_numbers,
    check_state,
    check_values,
)
from scoresde_pipelines.training.argument_ranges import check_integer_range, check_number_range


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_numpy_integers_are_integers(value):
    assert check_integer("n", value) == 3 and type(check_integer("n", value)) is int


@pytest.mark.parametrize("value", [True, np.True_, 3.0, "3", None, 0, -1, torch.tensor(3)])
def test_nothing_else_is_an_integer_of_at_least_1(value):
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got"):
        check_integer("n", value)


def test_integers_have_an_upper_bound_where_one_is_given():
    assert check_integer("n", 6, 1, 6) == 6
    with pytest.raises(ValueError, match="n must be an integer from 1 to 6, got 7"):
        check_integer("n", 7, 1, 6)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)])
def test_numbers_are_python_s_numpy_s_and_0_dim_tensors(value):
    assert check_number("x", value, 0, 1) == 0.5 and type(check_number("x", value)) is float


@pytest.mark.parametrize("value", [True, np.True_, "1", None, [1.0], 1j, torch.ones(1)])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="x must be a number, got"):
        check_number("x", value)


@pytest.mark.parametrize(
    "value, low, high, ends, message",
    [
        (math.nan, -math.inf, math.inf, "[]", "x must be a finite number, got nan"),
        (math.inf, 0, math.inf, "[]", "x must be a finite number of at least 0, got inf"),
        (0, 0, math.inf, "()", "x must be a finite number greater than 0, got 0.0"),
        (1, 0, 1, "[)", r"x must be a finite number in \[0, 1\), got 1.0"),
        (0, 0, 1, "(]", r"x must be a finite number in \(0, 1\], got 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(value, low, high, ends, message):
    with pytest.raises(ValueError, match=message):
        check_number("x", value, low, high, ends=ends)


def test_choices_and_finite_tensors():
    check_choice("kind", None, {"a": 1, "b": 2}, optional=True)
    check_choice("kind", "a", {"a": 1, "b": 2})
    for value in ("c", None, ["a"]):
        with pytest.raises(ValueError, match=r"kind must be one of \['a', 'b'\], got"):
            check_choice("kind", value, {"b": 1, "a": 2})
    x = torch.ones(2)
    assert check_finite("y", x) is x
    with pytest.raises(TypeError, match=r"y must be a floating-point tensor, got torch.int64"):
        check_finite("y", torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="y must be finite, got NaN or infinity"):
        check_finite("y", torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match=r"y must be finite, got NaN or infinity in torch.float32"):
        check_finite("y", torch.full((2,), 1e300, dtype=torch.float64), torch.float32)


NOT_DENSE = {
    "sparse": lambda: torch.ones(2).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NOT_DENSE)
def test_tensors_that_hold_no_plain_numbers_are_named(kind):
    for check in (check_state, check_numbers):
        with pytest.raises(TypeError, match=f"y must be a .*, got .*{'' if kind == 'quantized' else kind}"):
            check("y", NOT_DENSE[kind]())


def test_tensors_without_values_or_of_8_bit_numbers_are_named():
    for check in (check_values, check_numbers):
        with pytest.raises(TypeError, match=r"y must be a .*, got"):
            check("y", torch.ones(2, device="meta"))
    assert check_state("y", torch.ones(2, device="meta")).is_meta
    small = torch.ones(2).to(torch.float8_e5m2)
    with pytest.raises(TypeError, match=r"y must be a floating-point tensor, got torch\.float8_e5m2"):
        check_state("y", small)
    with pytest.raises(
        TypeError, match=r"y must be a number or a dense tensor of real numbers, got torch\.float8_e5m2"
    ):
        as_real("y", small)
    with pytest.raises(TypeError, match="y must be a number, got Tensor"):
        check_number("y", small[0])


@pytest.mark.parametrize("bad", [-1.0, [0.5, math.nan], [0.5, -0.5], np.array([math.inf])])
def test_times_that_are_no_tensors_are_read(bad):
    assert as_time([0.5, 0.0]).tolist() == [0.5, 0.0]
    with pytest.raises(ValueError, match="t must be a finite time of at least 0, got"):
        as_time(bad)
    with pytest.raises(TypeError, match=r"t must be a number or a tensor of numbers, got torch\.bool"):
        as_time(torch.tensor([True]))


def test_a_score_at_time_0_is_refused_wherever_it_stands():
    score = VPSDEScheduler(continuous=True).score_fn(lambda x, t: x)
    for t in (0, 0.0, [0.5, 0.0], np.array([0.5, 0.0])):
        with pytest.raises(ValueError, match=r"t must be a finite number in \[1e-30, 1\], got 0.0"):
            score(torch.ones(2, 3), t)


def test_numbers_come_as_a_sequence_and_not_one_by_one():
    assert check_numbers("y", range(1, 3)) == check_numbers("y", torch.tensor([1, 2])) == [1.0, 2.0]
    with pytest.raises(TypeError, match="y must be a sequence of numbers, got generator"):
        check_numbers("y", (number for number in (1, 2)))


def test_functions_take_what_they_are_called_with():
    def own(x, t, *, labels=None):
        return x

    for good in (own, lambda *all: 0, torch.nn.CosineSimilarity(), max):
        check_function("f", good, 2)
    check_function("f", own, 2, named=["labels"])
    check_function("f", None, 2, optional=True)
    for bad in (lambda x: 0, lambda x, t, y: 0):
        with pytest.raises(TypeError, match=r"f must be a function of 2 arguments, got one of \(x"):
            check_function("f", bad, 2)
    with pytest.raises(TypeError, match="f must be a function of 2 arguments, got one of"):
        check_function("f", torch.nn.Identity(), 2)
    with pytest.raises(TypeError, match="f must be a function of 2 arguments and label, got one of"):
        check_function("f", own, 2, named=["label"])


def _outcome(check, *args, **options):
    try:
        check(*args, **options)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.5, 1.0, 2.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bounds", [(0, 1), (0, math.inf), (-math.inf, math.inf)])
@pytest.mark.parametrize("ends", ["[]", "[)", "(]", "()"])
def test_command_lines_check_numbers_with_the_same_words(value, bounds, ends):
    expected = _outcome(check_number, "x", value, *bounds, ends=ends)
    assert _outcome(check_number_range, "x", value, *bounds, ends) == expected


@pytest.mark.parametrize("value", [-1, 0, 1, 255, 256, 2**31 - 1, 2**31])
@pytest.mark.parametrize("bounds", [(), (0,), (0, 255), (1, 2**63 - 1)])
def test_command_lines_check_integers_with_the_same_words(value, bounds):
    assert _outcome(check_integer_range, "n", value, *bounds) == _outcome(check_integer, "n", value, *bounds)
