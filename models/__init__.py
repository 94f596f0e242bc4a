"""The networks of the paper, and the reading of official checkpoints."""

if __name__ == "models":
    raise ImportError(
        "import scoresde_pipelines.models instead of models: the bare name would create every class a second time"
    )

from .analytic import AnalyticNetwork, GaussianMixtureScoreModel, GaussianScoreModel
from .ddpmpp import DDPMpp
from .ncsnpp import NCSNpp
from .ncsnv2 import NCSNv2


__all__ = ["AnalyticNetwork", "DDPMpp", "GaussianMixtureScoreModel", "GaussianScoreModel", "NCSNpp", "NCSNv2"]
