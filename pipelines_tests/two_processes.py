"""Training scripts in two processes each, run from a test."""

import json
import os
import subprocess
import sys
from pathlib import Path


SCRIPT = Path(__file__).with_name("run_processes.py")


def run_in_two_processes(scripts):
    """Runs the scripts one after the other; see `run_processes.py`.

    Returns:
        the exit codes of both processes of each script, and all output and errors.
    """
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(scripts)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    codes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return codes, done.stdout + done.stderr
