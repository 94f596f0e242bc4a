"""A benchmark's figures on disk, with what is needed to measure them again: command, date, machine, versions."""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The processor, the threads used, and the versions that matter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def save(name: str, figures: Mapping[str, Any] | Sequence[Any]) -> Path:
    """Writes `benchmarks/results/<name>.json` and returns its path; the command is the one that is running."""
    RESULTS.mkdir(exist_ok=True)
    # Of paths the last part: a result is no place for those of one machine.
    words = [Path(word).name if Path(word).is_absolute() else word for word in (Path(sys.argv[0]).name, *sys.argv[1:])]
    record = {
        "command": " ".join(["python", f"benchmarks/{words[0]}", *words[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "figures": figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return path
