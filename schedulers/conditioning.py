r"""Conditioning: from the score of a prior to the score of a posterior, or a constraint on the state.

By Bayes' rule a condition y adds one term to the score (paper eq. 14 and appendix I),

    grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x),

and predictor, corrector and ODE stay as they are. A *score transform* is a function ``(score_fn, x, t) -> score`` that
adds this term; ``score_fn(x, t)`` is the prior's score and differentiable.

- `ClassifierGuidance`: p_t(y | x) from a noise-conditional classifier (section 5).
- `LinearPosterior`: y = A x_0 + s n. With the denoised image D = E[x_0 | x_t] and V = Cov[x_0 | x_t],

      p_t(y | x) = N(y; A D, A V At + s^2 I)       exactly, if the data are Gaussian,
      grad log p_t(y | x) = J^T At u,   (A V At + s^2 I) u = y - A D,   J = dD / dx,

  where **moment matching** takes V = sigma^2 / alpha J, the true covariance for any data (Tweedie's second moment), in
  products with vectors (Boys et al. 2023; Rozet et al. 2024). **Pseudo-inverse guidance** (Song et al. 2023) takes
  V = r^2 I, the one of white data, for the direction of u; its length is fitted to the network's own V, which costs
  nothing more and keeps it stable where the network's Jacobian is not that of white data.

A *constraint* is a function ``(x, t) -> x`` applied after every step:

- `Replacement`: the known part of the state is replaced by the known image, noised to t (paper appendix I.2). Biased
  whatever the number of steps: the unknown part never sees what the known part will become.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .operator_checks import common_gain
from .operators import LinearOperator
from .recycled_residuals import RecycledResiduals
from .sde import SDE, ScoreFunction, expand_to


ScoreTransform = Callable[[ScoreFunction, Tensor, Tensor], Tensor]
COVARIANCES = ("moment_matching", "pseudo_inverse")


class ClassifierGuidance:
    """Adds `scale` grad log p(label | x_t) to the score.

    Args:
        log_prob: ``(x, t) -> (B,)``, log p(label | x_t = x) of the wanted labels; differentiable in x.
        scale: 1 samples the posterior; more sharpens it.
    """

    def __init__(self, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0):
        self.log_prob, self.scale = log_prob, scale

    def __call__(self, score_fn: ScoreFunction, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, in the shape of `x` (B, *D)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_prob(x, t).sum(), x)
        return score_fn(x.detach(), t) + self.scale * gradient


class LinearPosterior:
    """The score of p_t(x | y) for a measurement y = A x_0 + noise_std n.

    One object serves one walk: each linear system profits from those before it, and it counts.

    Args:
        sde: the prior's SDE.
        operator: A.
        measurement: y, shape (B, *M), in the units of the state.
        noise_std: standard deviation of the measurement's noise; 0 for an exact measurement.
        covariance: "moment_matching" (exact for Gaussian data; one vector-Jacobian product per iteration of the linear
            system) or "pseudo_inverse" (exact for white Gaussian data of any variance; one product in all).
        data_std: rough standard deviation of the data: where accuracy matters, and the first guess of V.
        tolerance: relative residual at which the linear system counts as solved, for each sample by itself.
        max_iterations: bound on its iterations.

    Attributes:
        evaluations: network evaluations so far: calls of the score and vector-Jacobian products, each counted as one.
    """

    def __init__(
        self,
        sde: SDE,
        operator: LinearOperator,
        measurement: Tensor,
        noise_std: float = 0.0,
        covariance: str = "moment_matching",
        data_std: float = 1.0,
        tolerance: float = 0.003,
        max_iterations: int = 7,
    ):
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance must be one of {COVARIANCES}, got {covariance!r}")
        for name, value in (("noise_std", noise_std), ("tolerance", tolerance)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
        self.sde, self.operator, self.measurement = sde, operator, measurement
        self.noise_variance, self.data_std, self.covariance = float(noise_std) ** 2, float(data_std), covariance
        self.tolerance, self.max_iterations = tolerance, max_iterations if covariance == "moment_matching" else 1
        self.evaluations = 0
        self.solver, self._solved_ratio = RecycledResiduals(), float("inf")
        self._last_state: tuple[Tensor, Tensor, Tensor] | None = None
        self.gram = operator.gram or common_gain(operator, measurement)

    def __call__(self, score_fn: ScoreFunction, x: Tensor, t: Tensor) -> Tensor:
        """The score of p_t(x | y), in the shape of `x` (B, *D); `t` 0-dim."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            score = score_fn(x, t)
            clean = self.sde.denoise(x, score, t)
        self.evaluations += 1
        self._last_state = (x.detach(), score.detach(), t)

        def pull_back(v: Tensor) -> Tensor:
            """J^T v: a vector-Jacobian product through the network."""
            self.evaluations += 1
            return torch.autograd.grad(clean, x, v, retain_graph=True)[0]

        residual = self.measurement.to(x) - self.operator.A(clean.detach())
        return score.detach() + self._solve(pull_back, residual, t)

    def settle(self, x: Tensor) -> Tensor:
        """The image `x` (B, *D) that a walk ended with, its measured part moved to where the ODE leads.

        Below the last noise level r the prior's score b is nearly constant, and the posterior's is known: along the ODE
        the misfit e = y - A x / alpha obeys e + b s^2 / g ~ sqrt(g r^2 + s^2), with A At = g I. A predictor, which must
        extrapolate from r to 0, does not see this where s is of the size of r.
        """
        if self.gram is None or self._last_state is None:
            return x
        (state, score, t), noise = self._last_state, self.noise_variance
        alpha, measurement = self.sde.alpha(t), self.measurement.to(x)
        pull = self.operator.A(alpha * score) * (noise / self.gram)
        shrink = (noise / (self.gram * self._ratio(t) ** 2 + noise)) ** 0.5
        misfit = shrink * (measurement - self.operator.A(state / alpha) + pull) - pull
        return x + self.operator.At(measurement - misfit - self.operator.A(x)) / self.gram

    def _white_variance(self, t: Tensor) -> float:
        # Cov[x_0 | x_t] of white data.
        ratio, variance = self._ratio(t) ** 2, self.data_std**2
        return ratio * variance / (ratio + variance)

    def _ratio(self, t: Tensor) -> float:
        return float(self.sde.noise_ratio(t))

    def _solve(self, pull_back: Callable[[Tensor], Tensor], residual: Tensor, t: Tensor) -> Tensor:
        """J^T At u with (sigma^2 / alpha A J^T At + noise_variance I) u = `residual`.

        The guess of the solution is what would solve the system for white data; pseudo-inverse guidance is one step.
        """
        operator, ratio = self.operator, self._ratio(t)
        coefficient, white = self.sde.sigma(t) ** 2 / self.sde.alpha(t), self._white_variance(t)

        def multiply(u: Tensor) -> tuple[Tensor, Tensor]:
            back = pull_back(operator.At(u))
            return coefficient * operator.A(back) + self.noise_variance * u, back

        if self.max_iterations > 1:
            self.solver.age(1 / ratio**2 - 1 / self._solved_ratio**2, operator.At, self.noise_variance)
            self._solved_ratio = ratio
        else:
            self.solver.memory = []
        # What is wrong at ratios far above the data's scale, the rest of the walk forgets in proportion.
        tolerance = min(0.5, self.tolerance * (1 + (ratio / self.data_std) ** 2) ** 0.25)
        guess = partial(operator.solve, variance=white, noise_variance=self.noise_variance)
        return self.solver.solve(multiply, residual, guess, tolerance, self.max_iterations)


class Replacement:
    """Replaces the known part of the state by the measurement, noised to the state's time (paper appendix I.2).

    With the projection P = A+ A onto what is known, x becomes x - P x + alpha A+ y + sigma P z.

    Args:
        sde: the SDE.
        operator: A; its measurement is taken as exact.
        measurement: y, shape (B, *M), in the units of the state.
        draw: returns fresh standard normal noise in the shape of the state it is given.
    """

    def __init__(
        self,
        sde: SDE,
        operator: LinearOperator,
        measurement: Tensor,
        draw: Callable[[Tensor], Tensor] = torch.randn_like,
    ):
        self.sde, self.operator, self.measurement, self.draw = sde, operator, measurement, draw
        self._known: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The state (B, *D) with its known part drawn anew from p(x_t | y); exact and without noise at t = 0."""
        if self._known is None:
            self._known = self.operator.pseudo_inverse(self.measurement.to(x))
        if float(t) == 0:
            # In this order a known pixel becomes exactly the given one.
            return (x - self.operator.pseudo_inverse(self.operator.A(x))) + self._known
        mean, std = self.sde.marginal(self._known, t)
        other = self.draw(x) * expand_to(std, x) - x
        return x + mean + self.operator.pseudo_inverse(self.operator.A(other))


def matched_prior(transform: ScoreTransform, score_fn: ScoreFunction, sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """The prior's draw `x` = sigma_T z, shape (B, *D), moved to where the posterior begins: x + alpha_T E[x_0 | x, y].

    At the end of time the state has forgotten all but alpha_T of the image, and that of the posterior differs from that
    of the prior: an error of alpha_T / sigma_T standard deviations for a walk that starts at zero mean.
    """
    return x + sde.alpha(t) * sde.denoise(x, transform(score_fn, x, t), t)
