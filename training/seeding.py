"""Seeds for draws that depend on where a run stands and not on what was drawn before."""

from __future__ import annotations

import numpy as np


def combined_seed(*parts: int) -> int:
    """One well-mixed 63-bit seed from several non-negative numbers, such as (seed, step, process)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
