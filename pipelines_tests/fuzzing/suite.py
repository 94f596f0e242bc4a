"""The seeded run of the test suite: about two minutes of CPU time for all families together."""

import os

from hypothesis import Phase

from .case import Case
from .entries import FAMILIES
from .oracle import judge
from .survey import explore, shares


CALLS = int(os.environ.get("FUZZ_CALLS", 10_000))


def check_family(family: str) -> None:
    """Fails with the shortest call that Hypothesis finds whose outcome is wrong."""

    def body(case: Case) -> None:
        outcome = judge(case)
        assert outcome.right, f"{outcome.kind}: {outcome.detail}\n    {case.text}"

    explore(FAMILIES[family], shares(CALLS)[family], 0, body, [Phase.generate, Phase.shrink])
