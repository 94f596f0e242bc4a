"""Evaluation: features, metrics with standard errors, the table of models x samplers x steps, and its reports."""

from .class_scores import inception_score
from .estimate import Estimate
from .feature_cache import ImageSelection, real_features
from .features import FeatureExtractor, load_features
from .frechet import frechet_between, frechet_distance, frechet_estimates
from .grid import Processes, evaluate_grid
from .kid import kernel_distance
from .measures import METRICS
from .neighbours import CopyThreshold, precision_recall
from .plan import Plan, RealData
from .real_images import open_data, open_real
from .result import EvaluationResult, Row, RowResult


__all__ = [
    "CopyThreshold",
    "Estimate",
    "EvaluationResult",
    "FeatureExtractor",
    "ImageSelection",
    "METRICS",
    "Plan",
    "Processes",
    "RealData",
    "Row",
    "RowResult",
    "evaluate_grid",
    "frechet_between",
    "frechet_distance",
    "frechet_estimates",
    "inception_score",
    "kernel_distance",
    "load_features",
    "open_data",
    "open_real",
    "precision_recall",
    "real_features",
]
