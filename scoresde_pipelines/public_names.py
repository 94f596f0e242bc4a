"""All public names; `scoresde_pipelines` offers them as its own, and imports this file when one is asked for."""

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
    with_augment_labels,
    with_classes,
)
from .pipeline_class_conditional import ScoreSdeClassConditionalPipeline
from .pipeline_colorization import ScoreSdeColorizationPipeline
from .pipeline_inpaint import ScoreSdeInpaintPipeline
from .pipeline_inverse_problem import ScoreSdeInverseProblemPipeline
from .pipeline_likelihood import ScoreSdeLikelihoodPipeline
from .pipeline_output import ScoreSdeLikelihoodOutput, ScoreSdePipelineOutput
from .pipeline_score_sde import ScoreSdePipeline
from .pipeline_super_resolution import ScoreSdeSuperResolutionPipeline
from .schedulers import (
    SDE,
    VESDE,
    VPSDE,
    AutoGuidance,
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
    TiledScore,
    TwistedSMC,
    VESDEScheduler,
    VPSDEScheduler,
    fit_steps,
    log_likelihood,
    posterior_start,
    sampling_loop,
    solve_probability_flow,
    solve_with_restarts,
    to_sde_scheduler,
)
from .standalone import export_standalone
from .training.model_names import shipped


__all__ = [
    "AutoGuidance",
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
    "ScoreSdeSuperResolutionPipeline",
    "SubVPSDE",
    "SubVPSDEScheduler",
    "TiledScore",
    "TwistedSMC",
    "VESDE",
    "VESDEScheduler",
    "VPSDE",
    "VPSDEScheduler",
    "cite",
    "evaluate",
    "fit_steps",
    "from_unet2d",
    "load_official_checkpoint",
    "log_likelihood",
    "posterior_start",
    "sampling_loop",
    "export_standalone",
    "shipped",
    "solve_probability_flow",
    "solve_with_restarts",
    "to_sde_scheduler",
    "to_unet2d",
    "with_augment_labels",
    "with_classes",
]
