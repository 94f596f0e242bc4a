"""Checks of arguments: what counts as an integer and a number, and what the errors say."""

import math

import numpy as np
import pytest
import torch

from scoresde_pipelines.schedulers.checks import check_choice, check_finite, check_integer, check_number
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
