"""Calls of mathematics and networks with one bad argument: a right result, or an error that names it. See `fuzzing/`."""

import pytest
from fuzzing.suite import check_family


@pytest.mark.parametrize(
    "family",
    [
        "sde",
        "steps",
        "flow",
        "analytic",
        "schedulers",
        "stepping",
        "networks",
        "forward",
        "conversion",
        "operators",
        "conditions",
    ],
)
def test_no_outcome_outside_of_the_contract(family):
    check_family(family)
