"""Runs many calls, counts their outcomes and groups the failures."""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings

from .case import Case, Entry, cases
from .entries import FAMILIES
from .oracle import Outcome, judge


Key = tuple[str, str, str, str]


@dataclass
class Survey:
    """Counts of outcomes and the failures, each group with its shortest call.

    Args:
        outcomes: how many calls ended in each kind of outcome.
        groups: how many failures there are of each entry, argument, kind and message.
        examples: the shortest call of each group.
        seconds: CPU seconds of each family.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    groups: Counter[Key] = field(default_factory=Counter)
    examples: dict[Key, tuple[str, str]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Records one call."""
        self.outcomes["right: " + outcome.kind if outcome.right else "WRONG: " + outcome.kind] += 1
        if outcome.right:
            return
        pattern = re.sub(r"[\d.]+|'[^']*'|0x\w+", "#", outcome.detail)[:60]
        key = (
            case.entry.source,
            "+".join(case.corrupted),
            outcome.kind,
            pattern if outcome.kind in ("type", "unnamed") else "",
        )
        self.groups[key] += 1
        if key not in self.examples or len(case.text) < len(self.examples[key][0]):
            self.examples[key] = (case.text, outcome.detail)

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return sum(self.outcomes.values())

    @property
    def failures(self) -> int:
        """How many of them ended outside of the contract."""
        return sum(self.groups.values())

    def report(self, limit: int | None = None) -> str:
        """Counts, and the groups with their shortest calls, most frequent first."""
        lines = [f"{self.calls} calls, {self.failures} outside of the contract in {len(self.groups)} groups"]
        lines += [f"  {number:6d} {kind}" for kind, number in self.outcomes.most_common()]
        for key, number in self.groups.most_common(limit):
            source, argument, kind, _ = key
            text, detail = self.examples[key]
            lines.append(f"\n{number} x {source}, {argument or 'no bad argument'}: {kind}\n    {text}\n    {detail}")
        return "\n".join(lines)


def run(
    calls: int, number: int = 0, families: Sequence[str] = tuple(FAMILIES), survey: Survey | None = None
) -> Survey:
    """Makes `calls` calls of the given families.

    Args:
        number: the seed.
        survey: is continued; a new one by default.
    """
    survey = survey or Survey()
    for family, share in shares(calls, families).items():
        start = time.process_time()
        explore(FAMILIES[family], share, number, lambda case: survey.add(case, judge(case)), [Phase.generate])
        survey.seconds[family] += time.process_time() - start
    return survey


def shares(calls: int, families: Sequence[str] = tuple(FAMILIES)) -> dict[str, int]:
    """How many of `calls` calls each family gets: in proportion to its number of arguments."""
    weights = {family: sum(len(entry.fuzzed) for entry in FAMILIES[family]) for family in families}
    return {family: max(1, round(calls * weight / sum(weights.values()))) for family, weight in weights.items()}


def explore(
    entries: Sequence[Entry], calls: int, number: int, body: Callable[[Case], None], phases: Sequence[Phase]
) -> None:
    """Hands `calls` cases of the entries to `body`; the seed `number` decides which."""

    @seed(number)
    @settings(max_examples=calls, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck))
    @given(cases(entries))
    def check(case: Case) -> None:
        body(case)

    check()
