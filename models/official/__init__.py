"""Checkpoints and configurations of the official PyTorch code, and presets of the published configurations (NCSNv1 excepted)."""

from .checkpoint import load_official_checkpoint
from .presets import PRESETS, Preset, preset


__all__ = ["PRESETS", "Preset", "load_official_checkpoint", "preset"]
