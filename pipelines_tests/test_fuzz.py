"""A seeded run of the fuzzer: no call ends outside of the contract.

The contract is a right result, or a TypeError or ValueError that names the bad argument; see `fuzzing/oracle.py`.
`make fuzz` searches for an hour and reports what is found in groups.
"""

import pytest
from fuzzing.entries import FAMILIES
from fuzzing.survey import run


SEED = 6
# Calls of each family, in about one minute of one core together, and the share of them that may end outside.
CALLS = {
    "networks": 300, "forward": 300, "conversion": 200, "pipelines": 100, "sampling": 150, "restoration": 150,
    "likelihoods": 100, "losses": 300, "data": 300, "arguments": 400, "commands": 100, "evaluation": 60,
}  # fmt: skip
ALLOWED = {
    **dict.fromkeys(CALLS, 0.0),
    **dict.fromkeys(("sde", "steps", "flow", "analytic", "schedulers", "stepping", "operators", "conditions"), 0.45),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_call_ends_outside_of_the_contract(family):
    calls = CALLS.get(family, 100)
    survey = run(calls, SEED, [family])
    assert survey.calls >= 0.9 * calls
    assert survey.failures <= ALLOWED[family] * survey.calls, survey.report(20)
