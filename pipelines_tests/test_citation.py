"""`cite`: the entries of exactly what is in use."""

import re

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, EDMEulerScheduler, UNet2DModel

from scoresde_pipelines import (
    DDPMpp,
    NCSNpp,
    NoiseConditionalClassifier,
    ScoreSdeClassConditionalPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    ScoreSdeSuperResolutionPipeline,
    SubVPSDEScheduler,
    VESDEScheduler,
    VPSDEScheduler,
    __version__,
    cite,
)
from scoresde_pipelines.citation_entries import CITED, METHODS, PAPERS
from scoresde_pipelines.schedulers import CORRECTORS, PREDICTORS, TIME_GRIDS
from scoresde_pipelines.schedulers.parameterization import PREDICTION_TYPES


TINY = {"block_out_channels": (16,), "layers_per_block": 1}
HEAD = f"""@software{{scoresde_pipelines,
  author = {{{{The scoresde_pipelines developers}}}},
  title = {{scoresde\\_pipelines}},
  version = {{{__version__}}}
}}

@inproceedings{{song2021scoresde,
  author = {{Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and Ermon, Stefano and Poole, Ben}},
  title = {{Score-Based Generative Modeling through Stochastic Differential Equations}},
  booktitle = {{International Conference on Learning Representations}},
  year = {{2021}}
}}"""  # noqa: E501


def keys(*arguments) -> list[str]:
    found = re.findall(r"^@\w+\{(\w+),$", cite(*arguments), re.MULTILINE)
    assert found[:2] == ["scoresde_pipelines", "song2021scoresde"]
    return found[2:]


def test_the_text_of_the_entries():
    assert cite(SubVPSDEScheduler()) == HEAD
    ddim = """@inproceedings{song2021ddim,
  author = {Song, Jiaming and Meng, Chenlin and Ermon, Stefano},
  title = {Denoising Diffusion Implicit Models},
  booktitle = {International Conference on Learning Representations},
  year = {2021}
}"""
    assert cite(SubVPSDEScheduler(predictor="exponential")) == f"{HEAD}\n\n{ddim}"
    guidance = """@misc{ho2022cfg,
  author = {Ho, Jonathan and Salimans, Tim},
  title = {Classifier-Free Diffusion Guidance},
  eprint = {2207.12598},
  archivePrefix = {arXiv},
  year = {2022}
}"""
    assert cite(SubVPSDEScheduler(), "classifier_free_guidance") == f"{HEAD}\n\n{guidance}"
    trace = """@article{hutchinson1990trace,
  author = {Hutchinson, Michael F.},
  title = {A Stochastic Estimator of the Trace of the Influence Matrix for {Laplacian} Smoothing Splines},
  journal = {Communications in Statistics - Simulation and Computation},
  volume = {19},
  number = {2},
  year = {1990}
}"""
    assert cite(SubVPSDEScheduler(), "likelihood") == f"{HEAD}\n\n{trace}"


@pytest.mark.parametrize(
    ("scheduler", "methods", "expected"),
    [
        (VESDEScheduler(), [], ["song2019ncsn"]),
        (VPSDEScheduler(predictor="euler_maruyama"), [], ["ho2020ddpm"]),
        (VPSDEScheduler(predictor="heun", timestep_spacing="karras"), [], ["ho2020ddpm", "karras2022edm"]),
        (
            SubVPSDEScheduler(predictor="exponential_multistep", timestep_spacing="log_snr"),
            [],
            ["zhang2023deis", "lu2022dpmsolver"],
        ),
        (SubVPSDEScheduler(predictor="exponential_multistep", timestep_spacing="log_snr"), ["ode"], []),
        (SubVPSDEScheduler(predictor="heun"), ["adaptive_restart"], ["xu2023restart"]),
        (VESDEScheduler(predictor=None, corrector="annealed_langevin", prediction_type="edm"), [],
         ["song2019ncsn", "karras2022edm"]),
        (DDIMScheduler(), [], ["ho2020ddpm", "song2021ddim"]),
        (SubVPSDEScheduler(), ["autoguidance"], ["karras2024autoguidance"]),
        (SubVPSDEScheduler(), ["twisted_smc", "guidance_interval"], ["wu2023tds", "kynkaanniemi2024interval"]),
    ],
)  # fmt: skip
def test_entries_of_schedulers(scheduler, methods, expected):
    assert keys(scheduler, *methods) == expected


def test_entries_of_pipelines():
    ours, unet = DDPMpp(**TINY), UNet2DModel(sample_size=16, block_out_channels=(32,), layers_per_block=1,
                                             down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))  # fmt: skip
    sub = SubVPSDEScheduler()
    assert keys(ScoreSdePipeline(ours, sub)) == []
    assert keys(ScoreSdePipeline(unet, sub)) == keys(DDPMPipeline(unet, DDPMScheduler())) == ["ho2020ddpm"]
    assert keys(ScoreSdeInpaintPipeline(ours, sub)) == ["boys2023tmpd", "rozet2024mmps"]
    assert keys(ScoreSdeSuperResolutionPipeline(ours, sub)) == ["boys2023tmpd", "rozet2024mmps"]
    assert keys(ScoreSdeInpaintPipeline(ours, sub), "replacement") == []
    assert keys(ScoreSdeInpaintPipeline(ours, sub), "pseudo_inverse") == ["song2023pgdm"]
    assert keys(ScoreSdeLikelihoodPipeline(ours, sub)) == ["hutchinson1990trace"]
    labelled = ScoreSdeClassConditionalPipeline(NCSNpp(**TINY, num_class_embeds=3), VESDEScheduler())
    assert keys(labelled) == ["song2019ncsn", "ho2022cfg"]
    classifier = NoiseConditionalClassifier(depth=10, width=1)
    guided = ScoreSdeClassConditionalPipeline(ours, sub, classifier=classifier)
    assert keys(guided) == ["dhariwal2021guidance"]


def test_functions_of_one_s_own_are_left_out():
    scheduler = SubVPSDEScheduler()
    scheduler.predictor = lambda sde, x, score, t, s: (x, torch.zeros_like(t))
    assert keys(scheduler) == []


def test_every_name_has_a_row_and_every_row_a_paper():
    assert {*PREDICTORS, *CORRECTORS, *TIME_GRIDS, *PREDICTION_TYPES, *METHODS} <= set(CITED)
    assert {key for papers in CITED.values() for key in papers} == set(PAPERS) - {"song2021scoresde"}


def test_misuse_is_named():
    with pytest.raises(ValueError, match="methods must be one of"):
        cite(VPSDEScheduler(), "magic")
    with pytest.raises(TypeError, match="pipeline_or_scheduler must be a pipeline or a scheduler, got str"):
        cite("emoji-32-ve")
    with pytest.raises(ValueError, match="scheduler must describe an SDE of this package, got EDMEulerScheduler"):
        cite(EDMEulerScheduler())
