"""The table of a walk's coefficients changes no value and saves the work."""

import math
from itertools import pairwise

import pytest
import torch

from scoresde_pipelines import SDE, VESDE, VPSDE, DiscreteVPSDE, SubVPSDE, VPSDEScheduler
from scoresde_pipelines.schedulers.coefficient_table import COEFFICIENTS, tabulate


class CosineSDE(SDE):
    def alpha(self, t):
        return torch.cos(0.5 * math.pi * 0.999 * t)

    def sigma(self, t):
        return torch.sin(0.5 * math.pi * 0.999 * t)


TIMES = list(torch.linspace(1, 1e-3, 7, dtype=torch.float64).unbind())
SDES = [VESDE(), VPSDE(), SubVPSDE(), DiscreteVPSDE(torch.linspace(1e-4, 0.02, 1000)), CosineSDE()]


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_table_holds_what_the_sde_computes(sde):
    table = tabulate(sde, TIMES)
    for name in COEFFICIENTS:
        for t in TIMES:
            torch.testing.assert_close(getattr(table, name)(t), getattr(sde, name)(t), rtol=1e-12, atol=1e-12)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)
    for t, s in pairwise(TIMES):
        for ours, theirs in zip(table.transition(t, s), sde.transition(t, s)):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(table.denoise(x, -x, t), sde.denoise(x, -x, t), rtol=1e-12, atol=1e-12)
    other = torch.tensor(0.123, dtype=torch.float64)
    assert torch.equal(table.sigma(other), sde.sigma(other)), "a time outside the table is computed"


def test_a_walk_evaluates_the_schedule_at_its_first_step_alone(monkeypatch):
    calls = []
    original = VPSDE.log_alpha
    monkeypatch.setattr(VPSDE, "log_alpha", lambda self, t: (calls.append(t.shape), original(self, t))[1])
    scheduler = VPSDEScheduler(continuous=True, corrector="annealed_langevin")
    scheduler.set_timesteps(50)
    x = torch.ones(1, 4)
    for i, t in enumerate(scheduler.timesteps):
        if i == 1:
            calls.clear()
        x = scheduler.step(0.1 * x, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
    assert calls == []
