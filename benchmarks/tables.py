"""The tables of samplers in README and docs, as Markdown, from the figures in `benchmarks/results`.

    python -m benchmarks.tables            # all of them
    python -m benchmarks.tables league     # that of the README

The figures come from `samplers.py`, `network_samplers.py`, `learned_steps.py` and `last_level.py`, whose commands and dates
are in the files. What was not measured is left out.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any


RESULTS = Path(__file__).parent / "results"
BLANK = ""
EXACT_CALLS = 80  # of the exact flow, in `networks.py`


def figures(pattern: str) -> dict[str, Any]:
    """The figures of all files `<pattern><name>.json`, by name."""
    files = sorted(RESULTS.glob(f"{pattern}*.json"))
    return {file.stem.removeprefix(pattern): json.loads(file.read_text("utf-8"))["figures"] for file in files}


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("| --- ", "|---").replace("--- |", "---|")
    )


def network_table(networks: dict[str, Any], figure: str) -> str:
    """Samplers against calls on each network: "kid" with its standard error, or "distance" to the exact flow.

    A sampler with several settings has the best of them in every cell, as a user would choose; ours have one. Those come
    first whose figures are, on average, the smallest multiple of the best in their columns.
    """
    columns = [(network, n) for network, found in networks.items() for n in _calls(found)]
    names = {name for found in networks.values() for name in found} - {"exact flow"}
    cells = {name: [_cell(networks[net].get(name, {}), n, figure) for net, n in columns] for name in names}
    best = [min(row[i][0] for row in cells.values()) for i in range(len(columns))]

    def multiple(name: str) -> float:
        known = [value / least for (value, _), least in zip(cells[name], best) if math.isfinite(value)]
        return sum(known) / len(known) if known else math.inf

    order = sorted((name for name in names if math.isfinite(multiple(name))), key=multiple)
    return markdown(
        ["KID" if figure == "kid" else figure, *(f"{net}, {n} calls" for net, n in columns)],
        [[name, *(text for _, text in cells[name])] for name in order],
    )


def _calls(found: dict[str, Any]) -> list[int]:
    numbers = {int(n) for settings in found.values() for row in settings.values() for n in row}
    return sorted(numbers - {EXACT_CALLS})


def league(networks: dict[str, Any]) -> str:
    """The README's table: KID of our best sampler and of the best of others, for each network and number of calls."""
    calls = sorted({n for found in networks.values() for n in _calls(found)})
    rows = []
    for network, found in networks.items():
        for label, mine in (("ours", True), ("best of the others", False)):
            cells = []
            for n in calls:
                some = [(*_cell(found[name], n, "kid"), name) for name in found if name.startswith("ours") == mine]
                value, text, name = min(cell for cell in some if not cell[2].startswith("exact"))
                cells.append(f"{text} ({name.removeprefix('ours: ')})" if math.isfinite(value) else BLANK)
            rows.append([network, label, *cells])
    return markdown(["KID", "", *(f"{n} calls" for n in calls)], rows)


def exact_tables(found: dict[str, Any]) -> list[str]:
    """Those of exact scores, a table for each truth; and sampling to a tolerance."""
    tables = []
    for title, table in found.items():
        first = next(iter(table.values()))
        if title == "to a tolerance":
            head = [title, *next(iter(first.values()))]
            rows = [
                [f"{truth}, restarts: {n}", *(f"{calls:.0f}, {far:.2g}" for calls, far in row.values())]
                for truth, each in table.items()
                for n, row in each.items()
            ]
        else:
            head = [title, *(f"{n} calls" for n in first)]
            order = sorted(table.items(), key=lambda item: math.prod(item[1].values()))
            rows = [[name, *(f"{value:.2g}" for value in row.values())] for name, row in order]
        tables.append(markdown(head, rows))
    return tables


def fitted_table(found: dict[str, Any]) -> str:
    """Fitted steps beside the same solver without: distance to the exact flow and KID."""
    rows = [
        [network, name, n, f"{row[0]:.3f}", f"{row[-2]:.3f} +- {row[-1]:.3f}" if len(row) > 2 else BLANK]
        for network, table in found.items()
        for name in ("learned_steps", "exponential_multistep", "exact flow")
        for n, row in table[name].items()
    ]
    return markdown(["network", "steps", "calls", "distance", "KID"], rows)


def last_level_table(found: dict[str, Any]) -> str:
    """KID by `last_noise_level`: of all seeds together, and in brackets of each."""
    rows, levels = [], []
    for network, solvers in found.items():
        for solver, by_calls in solvers.items():
            for n, row in by_calls.items():
                levels = list(row)
                cells = [
                    f"{value:.4f} +- {se:.4f} ({', '.join(f'{kid:.4f}' for kid, _ in each)})"
                    for (value, se), *each in row.values()
                ]
                rows.append([network, f"`{solver}`", n, *cells])
    return markdown(["KID", "solver", "calls", *levels], rows)


def _cell(settings: dict[str, Any], calls: int, figure: str) -> tuple[float, str]:
    rows = [row[str(calls)] for row in settings.values() if str(calls) in row]
    if figure == "kid":
        best = min(((kid, se) for _, kid, se in rows), default=None)
        return (math.inf, BLANK) if best is None else (best[0], f"{best[0]:.4f} +- {best[1]:.4f}")
    far = min((row[0] for row in rows if row[0] is not None), default=math.inf)
    return far, f"{far:.3f}" if math.isfinite(far) else BLANK


def main() -> None:
    """Print the tables that are asked for."""
    made = {
        "league": lambda: [league(figures("network_samplers_"))],
        "networks": lambda: [network_table(figures("network_samplers_"), figure) for figure in ("kid", "distance")],
        "learned_steps": lambda: [fitted_table(figures("learned_steps_"))],
        "last_level": lambda: [last_level_table(figures("last_level_"))],
        "exact": lambda: exact_tables(figures("samplers")[""]),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="table", help=f"of {', '.join(made)}; all by default")
    chosen = parser.parse_args().tables or [*made]
    if not set(chosen) <= set(made):
        parser.error(f"table must be one of {', '.join(made)}, got {chosen}")
    for name in chosen:
        print(f"\n## {name}\n\n" + "\n\n".join(made[name]()))


if __name__ == "__main__":
    main()
