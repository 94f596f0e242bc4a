"""Whether files of weights hold numbers that a network's parameters may have, and a fingerprint of weights."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open


NOT_FLOATING = ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "C64")


def check_weight_files(folder: Path, network: torch.nn.Module) -> None:
    """Raises ValueError where a safetensors file in `folder` has integers, booleans or complex numbers for a real tensor.

    diffusers converts them without a word: the weights of another model, or quantized ones without their scales.
    """
    own = {name for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                kinds = {name: file.get_slice(name).get_dtype() for name in file.keys() if name in own}  # noqa: SIM118
        except (SafetensorError, OSError):
            continue  # a damaged file that was not read, as what is read has been read by now
        wrong = sorted(name for name, kind in kinds.items() if kind in NOT_FLOATING)
        if wrong:
            raise ValueError(
                f"the weights in {path} must be floating-point numbers, got {kinds[wrong[0]]} for {wrong[0]} "
                f"({len(wrong)} in all)"
            )


def fingerprint(network: torch.nn.Module, settings: str = "") -> str:
    """Sixteen hexadecimal digits that change with the weights and with `settings`."""
    digest = hashlib.sha256(settings.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
