"""The mathematics of the package: SDEs, time grids, predictors, correctors, and the diffusers schedulers made of them."""

if __name__ == "schedulers":
    raise ImportError(
        "import scoresde_pipelines.schedulers instead of schedulers: the bare name would create every class a second time"
    )

from . import conditioning, multistep
from .adams_bashforth import ExponentialAdamsBashforth
from .adaptive_restart import solve_with_restarts
from .autoguidance import AutoGuidance
from .classifier_guidance import ClassifierFreeGuidance, ClassifierGuidance, DenoisedClassifierGuidance
from .correctors import CORRECTORS, annealed_langevin, langevin
from .dequantization import DEQUANTIZATIONS, PixelCells
from .discrete_sdes import DiscreteSubVPSDE, DiscreteVESDE, DiscreteVPSDE
from .divergence import DIVERGENCES, Divergence, ExactDivergence, HutchinsonDivergence
from .heun import Heun
from .learned_steps import LearnedSteps
from .likelihood import LogLikelihood, log_likelihood
from .linear_operator import Composition, LinearOperator
from .metropolis_langevin import MetropolisLangevin
from .moment_matching import MomentMatching, posterior_start
from .multistep import ExponentialMultistep
from .operator_checks import check_operator, check_range
from .operators import AveragePoolOperator, BlurOperator, GrayOperator, MaskOperator
from .parameterization import Parameterization
from .predictors import (
    PREDICTORS,
    Predictor,
    ancestral,
    ancestral_large,
    euler_maruyama,
    exponential,
    probability_flow_euler,
    reverse_diffusion,
)
from .probability_flow import FlowSolution, ODEError, solve_probability_flow
from .replacement import Replacement
from .restart import Restart
from .sampling_loop import sampling_loop
from .scheduling_conversion import to_sde_scheduler
from .scheduling_registration import register_with_diffusers
from .scheduling_sde import SDEScheduler, SDESchedulerOutput
from .scheduling_subvp_sde import SubVPSDEScheduler
from .scheduling_ve_sde import VESDEScheduler
from .scheduling_vp_sde import VPSDEScheduler
from .score_function import PerSample, ScoreFunction
from .sde import SDE, VESDE, VPSDE, SubVPSDE
from .step_fitting import fit_steps
from .tiled_score import TiledScore
from .time_grids import TIME_GRIDS, TimeGrid
from .twisted_smc import TwistedSMC


register_with_diffusers(__name__.partition(".")[0])

__all__ = [
    "AveragePoolOperator",
    "BlurOperator",
    "CORRECTORS",
    "DEQUANTIZATIONS",
    "DIVERGENCES",
    "AutoGuidance",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Composition",
    "DiscreteSubVPSDE",
    "DiscreteVESDE",
    "DenoisedClassifierGuidance",
    "DiscreteVPSDE",
    "Divergence",
    "ExactDivergence",
    "ExponentialAdamsBashforth",
    "ExponentialMultistep",
    "GrayOperator",
    "LearnedSteps",
    "LinearOperator",
    "FlowSolution",
    "Heun",
    "HutchinsonDivergence",
    "LogLikelihood",
    "MaskOperator",
    "MetropolisLangevin",
    "MomentMatching",
    "ODEError",
    "PREDICTORS",
    "PerSample",
    "Parameterization",
    "Predictor",
    "PixelCells",
    "Replacement",
    "Restart",
    "SDE",
    "ScoreFunction",
    "SDEScheduler",
    "SDESchedulerOutput",
    "SubVPSDE",
    "SubVPSDEScheduler",
    "TIME_GRIDS",
    "TiledScore",
    "TimeGrid",
    "TwistedSMC",
    "VESDE",
    "VESDEScheduler",
    "VPSDE",
    "VPSDEScheduler",
    "ancestral",
    "ancestral_large",
    "annealed_langevin",
    "check_operator",
    "check_range",
    "euler_maruyama",
    "exponential",
    "fit_steps",
    "langevin",
    "log_likelihood",
    "matched_prior",
    "posterior_start",
    "probability_flow_euler",
    "reverse_diffusion",
    "sampling_loop",
    "solve_probability_flow",
    "solve_with_restarts",
    "to_sde_scheduler",
]


def __getattr__(name: str) -> object:
    if name == "MULTISTEP_PREDICTORS":
        return getattr(multistep, name)  # warns: PREDICTORS holds all predictors
    if name in ("LinearPosterior", "matched_prior"):
        return getattr(conditioning, name)  # warn when they are used
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
