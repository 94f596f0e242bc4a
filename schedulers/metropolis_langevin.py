r"""The Metropolis-adjusted Langevin corrector, which leaves p_t unchanged at any step size.

A step proposes x' = x + h score(x) + sqrt(2 h) noise with h = 2 (snr sigma_t)^2, as annealed Langevin does, and accepts it
with the probability min(1, a) (Roberts & Tweedie 1996),

    log a = log p_t(x') - log p_t(x) - (x' - x) (score(x) + score(x')) / 2 - h / 4 (|score(x')|^2 - |score(x)|^2),

where the last two terms are the difference of the two proposals' log-densities; else x stays. A score network has no
density. The difference of log p_t is the integral of the score from x to x': by Simpson's rule, with one more call half-way,

    log p_t(x') - log p_t(x) = (x' - x) (score(x) + 4 score((x + x') / 2) + score(x')) / 6.

It is exact on Gaussians, whose score is linear, and of fourth order elsewhere. The trapezoidal rule, without the call
half-way, is exact on Gaussians as well, but on a mixture its error is larger than the bias that the adjustment removes
(`docs/samplers.md`). With a density of one's own, `log_prob`, the corrector is exact for every p_t.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_function
from .linear_systems import inner
from .score_function import check_log_prob
from .sde import SDE, expand_to
from .step_checks import check_noisy_step


class MetropolisLangevin:
    """A corrector with three network calls per step: at the state, at the proposal and half-way; two with `log_prob`.

    The decision takes its uniform number from the noise of the last call, and so from the generator of its sample. On
    N(0, p I) in d dimensions about 2 Phi(-(h / p)^(3/2) sqrt(d / 8)) of the steps are accepted, for small steps.

    Args:
        log_prob: `(x, t) -> log p_t(x)`, (B, *D) to (B,), up to a constant; by default from the score.

    Raises:
        TypeError, ValueError: for a `log_prob` that is no function, and where it returns something else.
    """

    def __init__(self, log_prob: Callable[[Tensor, Tensor], Tensor] | None = None):
        check_function("log_prob", log_prob, 2, optional=True)
        self.log_prob = log_prob
        self.start()

    @property
    def evaluations(self) -> int:
        """Network calls per step."""
        return 3 if self.log_prob is None else 2

    def start(self) -> None:
        """Begins a sampling run: no proposal has been made."""
        self._ends: list[tuple[Tensor, Tensor]] = []  # the state and the proposal, each with its score
        self.acceptance = torch.zeros(0)  #: acceptance probabilities (B,) of the last step

    def __call__(
        self, sde: SDE, x: Tensor, score: Tensor, t: Tensor, noise: Tensor, snr: float, evaluation: int = 0
    ) -> tuple[Tensor, Tensor]:
        """From the state: the proposal, without and with its noise; from it: the state half-way; from there: the next state.

        Args:
            x: what the last evaluation returned, (B, *D), first the state.
            score: at `x`.
        """
        snr, t = check_noisy_step(sde, x, score, t, noise, snr)
        size = 2 * (snr * sde.sigma(t)) ** 2
        if evaluation == 0:
            self._ends = [(x, score)]
            mean = x + expand_to(size, x) * score
            return mean, mean + expand_to(torch.sqrt(2 * size), x) * noise
        if len(self._ends) < evaluation:  # A loop that begins within a step has its state already.
            return x, x
        if evaluation == 1:
            self._ends.append((x, score))
            if self.log_prob is None:
                return ((self._ends[0][0] + x) / 2,) * 2
        state = self._decide(score, t, size, torch.special.ndtr(noise.flatten(1)[:, 0]))
        return state, state

    def _decide(self, middle: Tensor, t: Tensor, size: Tensor, uniform: Tensor) -> Tensor:
        """The state after the step; `middle` is the score half-way."""
        (x, first), (proposal, last) = self._ends
        self._ends, both = [], first + last
        if self.log_prob is None:
            log_ratio = inner(proposal - x, 2 * middle - both) / 3
        else:
            after, before = (check_log_prob(self.log_prob(state, t), state) for state in (proposal, x))
            log_ratio = after - before - inner(proposal - x, both) / 2
        log_ratio = log_ratio - expand_to(size, log_ratio) / 4 * inner(last - first, both)
        self.acceptance = log_ratio.clamp_max(0).exp()
        accepted = (uniform < self.acceptance).reshape(-1, *(1,) * (x.ndim - 1))
        return torch.where(accepted, proposal, x)
