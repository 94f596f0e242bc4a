"""The networks of the paper, and the reading of official checkpoints."""

if __name__ == "models":
    raise ImportError(
        "import scoresde_pipelines.models instead of models: the bare name would create every class a second time"
    )

from .analytic import AnalyticNetwork, GaussianMixtureScoreModel, GaussianScoreModel
from .class_conditioning import with_augment_labels, with_classes
from .convolution import packed_filters
from .ddpmpp import DDPMpp
from .feature_classifier import FeatureClassifier
from .ncsnpp import NCSNpp
from .ncsnv2 import NCSNv2
from .noise_conditional_classifier import NoiseConditionalClassifier, NoiseConditionalClassifierOutput
from .official import PRESETS, Preset, load_official_checkpoint, preset
from .unet2d_conversion import from_unet2d, to_unet2d


__all__ = [
    "AnalyticNetwork",
    "DDPMpp",
    "FeatureClassifier",
    "GaussianMixtureScoreModel",
    "GaussianScoreModel",
    "NCSNpp",
    "NCSNv2",
    "NoiseConditionalClassifier",
    "NoiseConditionalClassifierOutput",
    "PRESETS",
    "Preset",
    "from_unet2d",
    "load_official_checkpoint",
    "packed_filters",
    "preset",
    "to_unet2d",
    "with_augment_labels",
    "with_classes",
]
