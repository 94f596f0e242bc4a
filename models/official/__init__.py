"""Checkpoints and configurations of the official PyTorch code, and presets of all published ones but NCSNv1."""

from .checkpoint import load_official_checkpoint
from .presets import PRESETS, Preset, preset


__all__ = ["PRESETS", "Preset", "load_official_checkpoint", "preset"]
