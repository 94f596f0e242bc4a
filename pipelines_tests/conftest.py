"""Shared by all tests: where the reference figures lie, and one thread with fixed seeds."""

import importlib.util
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch


ROOT = Path(__file__).resolve().parents[1]

if importlib.util.find_spec("scoresde_pipelines") is None:
    # A bare checkout under plain `pytest`; an installed wheel or `python -m pytest` is found already.
    sys.path.insert(0, str(ROOT))

sys.path.append(str(ROOT / "benchmarks"))  # known_truths: benchmarks and tests measure the same

# Tiny tensors: more threads cost more than they bring, and sums keep one order.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with `golden/`, the figures recorded from the official code; skips the test where there is none."""
    folder = Path(os.environ.get("SCORESDE_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference figures in {folder}: set SCORESDE_SHARED to the folder that holds golden/")
    return folder


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same global random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
