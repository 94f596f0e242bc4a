"""`python -m pipelines_tests.fuzzing --calls 10000 --seed 0`: counts of outcomes and the failures in groups."""

import argparse
import sys
import time
from pathlib import Path

import torch

from .entries import FAMILIES
from .oracle import repeat
from .survey import Survey, run


def main() -> None:
    """Makes the calls and prints the report; the exit code is 1 if a call ended outside of the contract."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000, help="calls of one round")
    parser.add_argument("--seconds", type=float, default=0.0, help="repeat rounds with the next seeds for so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--limit", type=int, help="how many groups are printed")
    parser.add_argument("--report", type=Path, help="file for the full report")
    parser.add_argument("--times", action="store_true", help="print the CPU seconds of each family")
    parser.add_argument("--repeat", metavar="CALL", help="make one call, as a report prints it, and print its result")
    args = parser.parse_args()
    if args.repeat is not None:
        print(repeat(args.repeat))
        return
    torch.set_num_threads(1)  # tiny tensors: more threads cost more than they bring
    end, number, survey = time.monotonic() + args.seconds, args.seed, Survey()
    while True:
        run(args.calls, number, args.family, survey)
        number += 1
        if args.report is not None:
            args.report.write_text(survey.report() + "\n", "utf-8")
        if time.monotonic() >= end:
            break
    print(survey.report(args.limit))
    if args.times:
        print({family: round(seconds, 1) for family, seconds in survey.seconds.items()})
    sys.exit(survey.failures > 0)


if __name__ == "__main__":
    main()
