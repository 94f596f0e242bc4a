"""Seeded runs of the fuzzer, a family of entries at a time: which share of the calls may end outside of the contract.

The contract is a right result, or a TypeError or ValueError that names the bad argument; see `fuzzing/oracle.py`.
`make fuzz` searches for an hour and reports what it finds in groups.
"""

import pytest
from fuzzing.entries import FAMILIES
from fuzzing.survey import run


#: By family, how many calls are made and the share of them that may be outside of the contract.
ALLOWED = {
    "sde": (1000, 0.0),
    "steps": (1500, 0.0),
    "flow": (600, 0.0),
    "analytic": (600, 0.0),
    "schedulers": (1000, 0.0),
    "stepping": (1200, 0.0),
    "operators": (500, 0.0),
    "conditions": (1000, 0.0),
    "networks": (100, 0.3),
    "forward": (40, 0.6),
    "conversion": (40, 0.6),
    "pipelines": (40, 0.3),
    "sampling": (60, 0.4),
    "restoration": (60, 0.2),
    "likelihoods": (40, 0.2),
    "losses": (40, 0.8),
    "data": (40, 0.8),
    "arguments": (100, 0.4),
    "commands": (40, 0.4),
    "evaluation": (20, 0.75),
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_calls_end_within_the_contract(family):
    calls, share = ALLOWED[family]
    survey = run(calls, 6, [family])
    assert survey.calls >= 0.9 * calls
    assert survey.failures <= share * survey.calls, survey.report(20)
