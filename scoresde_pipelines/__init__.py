"""Score-based generative modelling through SDEs (Song et al., ICLR 2021), the diffusers way.

Everything public is importable from here; these are also the names that a saved pipeline's `model_index.json` holds.
"""

from pathlib import Path as _Path


if not (_Path(__file__).parent / "schedulers").is_dir():
    # A bare checkout: schedulers/, models/ and training/ are next to this folder, not inside it.
    __path__.append(str(_Path(__file__).parent.parent))

# diffusers looks the base classes of a saved component up in the namespace of the package that the index names.
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401

from .citation import cite
from .evaluation import evaluate
from .models import (
    DDPMpp,
    GaussianMixtureScoreModel,
    GaussianScoreModel,
    NCSNpp,
    NCSNv2,
    NoiseConditionalClassifier,
    from_unet2d,
    load_official_checkpoint,
    to_unet2d,
    with_classes,
)
from .pipeline_class_conditional import ScoreSdeClassConditionalPipeline
from .pipeline_colorization import ScoreSdeColorizationPipeline
from .pipeline_inpaint import ScoreSdeInpaintPipeline
from .pipeline_inverse_problem import ScoreSdeInverseProblemPipeline
from .pipeline_likelihood import ScoreSdeLikelihoodPipeline
from .pipeline_output import ScoreSdeLikelihoodOutput, ScoreSdePipelineOutput
from .pipeline_score_sde import ScoreSdePipeline
from .registration import imported_scheduler, register_with_diffusers
from .schedulers import (
    SDE,
    VESDE,
    VPSDE,
    AveragePoolOperator,
    BlurOperator,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Composition,
    DenoisedClassifierGuidance,
    DiscreteVPSDE,
    GrayOperator,
    LinearOperator,
    MaskOperator,
    MomentMatching,
    PerSample,
    Replacement,
    SDEScheduler,
    SubVPSDE,
    SubVPSDEScheduler,
    TwistedSMC,
    VESDEScheduler,
    VPSDEScheduler,
    log_likelihood,
    posterior_start,
    sampling_loop,
    solve_probability_flow,
    to_sde_scheduler,
)
from .shipped import shipped


__version__ = "0.1.0"

register_with_diffusers(__name__)


def __getattr__(name: str) -> object:
    # diffusers looks a saved scheduler of a user's own up here.
    return imported_scheduler(name)


__all__ = [
    "AveragePoolOperator",
    "BlurOperator",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Composition",
    "DDPMpp",
    "DenoisedClassifierGuidance",
    "DiscreteVPSDE",
    "GaussianMixtureScoreModel",
    "GaussianScoreModel",
    "GrayOperator",
    "LinearOperator",
    "MaskOperator",
    "MomentMatching",
    "NCSNpp",
    "NCSNv2",
    "NoiseConditionalClassifier",
    "PerSample",
    "Replacement",
    "SDE",
    "SDEScheduler",
    "ScoreSdeClassConditionalPipeline",
    "ScoreSdeColorizationPipeline",
    "ScoreSdeInpaintPipeline",
    "ScoreSdeInverseProblemPipeline",
    "ScoreSdeLikelihoodOutput",
    "ScoreSdeLikelihoodPipeline",
    "ScoreSdePipeline",
    "ScoreSdePipelineOutput",
    "SubVPSDE",
    "SubVPSDEScheduler",
    "TwistedSMC",
    "VESDE",
    "VESDEScheduler",
    "VPSDE",
    "VPSDEScheduler",
    "cite",
    "evaluate",
    "from_unet2d",
    "load_official_checkpoint",
    "log_likelihood",
    "posterior_start",
    "sampling_loop",
    "shipped",
    "solve_probability_flow",
    "to_sde_scheduler",
    "to_unet2d",
    "with_classes",
]
