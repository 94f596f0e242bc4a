"""Calls of training, commands and evaluation with one bad argument: a right result, or an error that names it."""

import pytest
from fuzzing.suite import check_family


@pytest.mark.parametrize("family", ["losses", "data", "arguments", "commands", "evaluation"])
def test_no_outcome_outside_of_the_contract(family):
    check_family(family)
