"""Everything that takes a score function refuses what is no score, by the name of the function that returned it."""

import pytest
import torch

from scoresde_pipelines import VPSDE, VPSDEScheduler
from scoresde_pipelines.schedulers import (
    AutoGuidance,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    DenoisedClassifierGuidance,
    MaskOperator,
    MetropolisLangevin,
    MomentMatching,
    Replacement,
    TiledScore,
    TwistedSMC,
    fit_steps,
    log_likelihood,
    posterior_start,
    sampling_loop,
    solve_probability_flow,
    solve_with_restarts,
)


SDE, X, T = VPSDE(), torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)
MASK = MaskOperator(torch.ones(4, 5))


def right(x, t):
    return -x


def log_prob(x, t=None):
    return -x.flatten(1).square().sum(1)


def scheduler(**settings):
    made = VPSDEScheduler(continuous=True, predictor="exponential")
    for name, value in settings.items():
        setattr(made, name, value)
    made.set_timesteps(4)
    return made


# What calls the function, and by which name it knows it.
USERS = {
    "sampling_loop": ("score_fn", lambda f: sampling_loop(scheduler(), f, X)),
    "solve_probability_flow": ("score_fn", lambda f: solve_probability_flow(f, SDE, X, 1.0, 1e-3)),
    "solve_with_restarts": ("score_fn", lambda f: solve_with_restarts(f, SDE, X, 1.0, 1e-3, num_restarts=1)),
    "likelihood": ("score_fn", lambda f: log_likelihood(f, SDE, X)),
    "exact likelihood": ("score_fn", lambda f: log_likelihood(f, SDE, X, divergence="exact")),
    "MomentMatching": ("score_fn", lambda f: MomentMatching(f, SDE, MASK, X, 0.1)(X, T)),
    "TwistedSMC": ("score_fn", lambda f: TwistedSMC(f, SDE, MASK, X, 0.1, 2)(X, T)),
    "TiledScore": ("score_fn", lambda f: TiledScore(f, (2, 3))(X, T)),
    "AutoGuidance": ("score_fn", lambda f: AutoGuidance(f, right, 2.0)(X, T)),
    "weak AutoGuidance": ("weak_score_fn", lambda f: AutoGuidance(right, f, 2.0)(X, T)),
    "ClassifierFreeGuidance": ("with_label", lambda f: ClassifierFreeGuidance(f, right, 2.0)(X, T)),
    "ClassifierFreeGuidance without": ("without", lambda f: ClassifierFreeGuidance(right, f, 2.0)(X, T)),
    "ClassifierGuidance": ("score_fn", lambda f: ClassifierGuidance(f, log_prob)(X, T)),
    "DenoisedClassifierGuidance": ("score_fn", lambda f: DenoisedClassifierGuidance(f, SDE, log_prob)(X, T)),
    "fit_steps": ("score_fn", lambda f: fit_steps(f, scheduler(), X, 3, trials=0)),
    "posterior_start": ("posterior", lambda f: posterior_start(f, SDE, X, torch.tensor(1.0))),
    "network": ("model", lambda f: scheduler().score_fn(f)(X, T)),
    "draw": ("draw", lambda f: Replacement(SDE, MASK, X, lambda x: f(x, T))(X, T)),
    "constrain": ("constrain", lambda f: sampling_loop(scheduler(), right, X, constrain=f)),
    "on_step": ("on_step", lambda f: sampling_loop(scheduler(), right, X, on_step=lambda i, t, x: f(x, t))),
    "predictor": (
        "predictor",
        lambda f: sampling_loop(scheduler(predictor=lambda sde, x, *_: (f(x, T), T)), right, X),
    ),
    "corrector": (
        "corrector",
        lambda f: sampling_loop(scheduler(corrector=lambda sde, x, *_: (x, f(x, T))), right, X),
    ),
}
WRONG = {
    "a sample": lambda x: x[:1],
    "a channel": lambda x: x[:, :1],
    "a number": torch.sum,
    "transposed": lambda x: x.mT,
    "integers": torch.Tensor.long,
    "complex": lambda x: x * 1j,
    "nothing": lambda x: 3,
    "array": lambda x: x.detach().numpy(),
    "another device": lambda x: x.to("meta"),
    "sparse": torch.Tensor.to_sparse,
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("user", USERS)
def test_what_is_no_score_is_refused(user, wrong):
    name, call = USERS[user]
    with pytest.raises((TypeError, ValueError), match=f"{name} must return "):
        call(lambda x, t: WRONG[wrong](x))


@pytest.mark.parametrize("wrong", [*WRONG, "right"])
def test_what_is_no_log_probability_is_refused(wrong):
    def function(x, t):
        return log_prob(x) if wrong == "right" else WRONG[wrong](x)

    def corrected():
        return sampling_loop(scheduler(corrector=MetropolisLangevin(function)), right, X)

    for call in (lambda: ClassifierGuidance(right, function)(X, T), corrected):
        if wrong == "right":
            assert call().shape == X.shape
            continue
        with pytest.raises((TypeError, ValueError), match="log_prob must return "):
            call()
