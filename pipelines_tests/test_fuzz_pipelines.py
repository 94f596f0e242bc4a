"""Calls of pipelines with one bad argument: a right result, or an error that names it. See `fuzzing/`."""

import pytest
from fuzzing.suite import check_family


@pytest.mark.parametrize("family", ["pipelines", "sampling", "restoration", "likelihoods"])
def test_no_outcome_outside_of_the_contract(family):
    check_family(family)
