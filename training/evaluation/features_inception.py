"""The Inception network of published FIDs (Heusel et al. 2017), from torch-fidelity: 2048 features.

It resizes as TensorFlow 1 did, so that its figures are comparable with published ones.

pip install torch-fidelity        # brings torchvision; the network itself needs neither it nor the internet
scoresde evaluate --features inception --features-weights weights-inception-2015-12-05-6726825d.pth ...
"""

import importlib
import importlib.util
import io
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .features import INCEPTION, FeatureExtractor


MODULE = "torch_fidelity.feature_extractor_inceptionv3"


class InceptionFeatures(FeatureExtractor):
    """Features "2048" of torch-fidelity's `FeatureExtractorInceptionV3`, bit for bit.

    Args:
        weights: the file with its weights; None lets torch-fidelity download them.

    Raises:
        ImportError: torch-fidelity is not installed.
        ValueError: there is no such file.
    """

    name = INCEPTION
    has_logits = True

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        if weights is not None and not Path(weights).is_file():
            raise ValueError(f"features_weights must be an existing file, got {str(weights)!r}")
        self.network = _inception_class()("inception", ["2048"], _read_safely(weights))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> (B, 2048)."""
        return self.network(images)[0]

    def logits(self, features: Tensor) -> Tensor:
        """Scores of the 1008 classes without the bias, as Inception scores are computed."""
        return features @ self.network.fc.weight.T


def _read_safely(weights: str | Path | None) -> io.BytesIO | None:
    """The weights as a file that holds nothing but tensors: torch-fidelity itself unpickles whatever it is given."""
    if weights is None:
        return None
    buffer = io.BytesIO()
    torch.save(torch.load(weights, map_location="cpu", weights_only=True), buffer)
    buffer.seek(0)
    return buffer


def _inception_class() -> Any:
    """The class, also where torchvision cannot be imported: torch-fidelity's other networks need it, this one does not."""
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        raise ImportError(f"features {INCEPTION!r} need pip install torch-fidelity")
    try:
        return importlib.import_module(MODULE).FeatureExtractorInceptionV3
    except ImportError:
        package = types.ModuleType("torch_fidelity")  # the package without its own __init__, which imports everything
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules["torch_fidelity"] = package
        try:
            return importlib.import_module(MODULE).FeatureExtractorInceptionV3
        finally:
            del sys.modules["torch_fidelity"]
