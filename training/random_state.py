"""The random state of one process: Python's, NumPy's, PyTorch's and its accelerator's, as tensors and numbers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def get_random_state(device: torch.device) -> dict[str, Any]:
    """The states of all global generators of this process, for `safe_state.save_state_file`.

    Args:
        device: the accelerator whose generator is recorded too; a CPU has none of its own.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state[device.type] = getattr(torch, device.type).get_rng_state(*_argument(device))
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores what `get_random_state` returned; the state of another type of device is left out.

    Raises:
        ValueError: the state is not one of random generators.
    """
    try:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if device.type in state and device.type != "cpu":
            getattr(torch, device.type).set_rng_state(state[device.type], *_argument(device))
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"the random state of the checkpoint cannot be restored: {error}") from error


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the global generators go on afterwards as if nothing had been."""
    state = get_random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


def _argument(device: torch.device) -> tuple[torch.device, ...]:
    """Apple's GPU is one, and its functions take no device."""
    return () if device.type == "mps" else (device,)
