"""Under `torch.inference_mode()` everything that takes derivatives gives the numbers that it gives without."""

import pytest
import torch

from scoresde_pipelines import (
    GaussianScoreModel,
    ScoreSdeInpaintPipeline,
    ScoreSdeLikelihoodPipeline,
    VPSDEScheduler,
    log_likelihood,
)
from scoresde_pipelines.schedulers import (
    BlurOperator,
    ClassifierGuidance,
    DenoisedClassifierGuidance,
    MaskOperator,
    MomentMatching,
    PerSample,
    TwistedSMC,
)


SHAPE = (1, 4, 4)
DATA = GaussianScoreModel(mean=torch.full(SHAPE, 0.4), variance=0.05)
SDE = VPSDEScheduler(continuous=True).sde


def score(x, t):
    return DATA.score(SDE, x, t)


def likelihood():
    x = torch.full((2, *SHAPE), 0.3, dtype=torch.float64)
    return log_likelihood(score, SDE, x, divergence="exact", tolerance=1e-3).log_prob


def classifier():
    x, t = torch.full((2, *SHAPE), 0.3), torch.tensor(0.3)
    return ClassifierGuidance(score, lambda x, t: -(x**2).flatten(1).sum(1), 2.0)(x, t)


def denoised_classifier():
    x, t = torch.full((2, *SHAPE), 0.3), torch.tensor(0.3)
    return DenoisedClassifierGuidance(score, SDE, lambda x0: -(x0**2).flatten(1).sum(1), 2.0)(x, t)


def posterior(operator):
    x, t = torch.full((2, *SHAPE), 0.3), torch.tensor(0.3)
    return MomentMatching(score, SDE, operator, operator.A(torch.full((2, *SHAPE), 0.5)), 0.1)(x, t)


def labelled_classifier():
    def log_prob(x, t, labels):
        return torch.log_softmax(x.flatten(1), dim=1).gather(1, labels[:, None])[:, 0]

    labels = torch.tensor([3, 7])  # autograd keeps it for the gradient
    x, t = torch.full((2, *SHAPE), 0.3), torch.tensor(0.3)
    return ClassifierGuidance(score, PerSample(log_prob, labels=labels), 2.0)(x, t)


def masked():
    known = torch.zeros(SHAPE)
    known[:, :2] = 1
    return posterior(MaskOperator(known))


def blurred():
    return posterior(BlurOperator(torch.full((3, 3), 1 / 9)))


def particles():
    x, t = torch.full((2, *SHAPE), 0.3), torch.tensor(0.3)
    return TwistedSMC(score, SDE, MaskOperator(torch.ones(SHAPE)), x + 0.1, 0.1, particles=2)(x, t)


def inpainting():
    scheduler = VPSDEScheduler(continuous=True)
    pipe = ScoreSdeInpaintPipeline(DATA.network(scheduler), scheduler, data_min=0.0, data_max=1.0)
    pipe.set_progress_bar_config(disable=True)
    mask = torch.zeros(1, 4, 4)
    mask[:, 2:] = 1
    generator = torch.Generator().manual_seed(0)
    return pipe(torch.full(SHAPE, 0.5), mask, num_inference_steps=5, generator=generator, output_type="pt").images


def bits_per_dim():
    scheduler = VPSDEScheduler(continuous=True)
    pipe = ScoreSdeLikelihoodPipeline(DATA.network(scheduler), scheduler, data_min=0.0, data_max=1.0)
    generator = torch.Generator().manual_seed(0)
    return pipe(torch.full((1, *SHAPE), 0.5), tolerance=1e-2, generator=generator).bits_per_dim


@pytest.mark.parametrize(
    "function",
    [
        likelihood,
        classifier,
        labelled_classifier,
        denoised_classifier,
        masked,
        blurred,
        particles,
        inpainting,
        bits_per_dim,
    ],
    ids=lambda function: function.__name__,
)
def test_numbers_are_the_same(function):
    expected = function()
    with torch.inference_mode():
        found = function()
    assert torch.equal(found, expected) and bool(found.isfinite().all())
