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

import torch
from torch import Tensor

from .operators import LinearOperator, inner
from .sde import SDE, as_time, expand_to


ScoreFunction = Callable[[Tensor, Tensor], Tensor]
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

    One object serves one walk: it starts every linear system from the last one's solution, and counts.

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
        max_iterations: int = 16,
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
        self._last_solution: Tensor | None = None

    def __call__(self, score_fn: ScoreFunction, x: Tensor, t: Tensor) -> Tensor:
        """The score of p_t(x | y), in the shape of `x` (B, *D); `t` 0-dim."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            score = score_fn(x, t)
            clean = self.sde.denoise(x, score, t)
        self.evaluations += 1

        def pull_back(v: Tensor) -> Tensor:
            """J^T v: a vector-Jacobian product through the network."""
            self.evaluations += 1
            return torch.autograd.grad(clean, x, v, retain_graph=True)[0]

        residual = self.measurement.to(x) - self.operator.A(clean.detach())
        return score.detach() + self._solve(pull_back, residual, t)

    def _white_variance(self, t: Tensor) -> float:
        # Cov[x_0 | x_t] of white data.
        ratio, variance = self._ratio(t) ** 2, self.data_std**2
        return ratio * variance / (ratio + variance)

    def _ratio(self, t: Tensor) -> float:
        t = as_time(t)
        return float(self.sde.sigma(t) / self.sde.alpha(t))

    def _solve(self, pull_back: Callable[[Tensor], Tensor], residual: Tensor, t: Tensor) -> Tensor:
        """J^T At u with (sigma^2 / alpha A J^T At + noise_variance I) u = `residual`.

        Generalised conjugate residuals: the residual never grows, even where a network's Jacobian is not quite
        symmetric and positive. The first direction is the last level's solution, the others are what would solve the
        system for white data; pseudo-inverse guidance is one such step.
        """
        operator, coefficient = self.operator, self.sde.sigma(t) ** 2 / self.sde.alpha(t)
        # What is wrong at ratios far above the data's scale, the rest of the walk forgets in proportion.
        tolerance = min(0.5, self.tolerance * (1 + (self._ratio(t) / self.data_std) ** 2) ** 0.25)
        goal = tolerance**2 * inner(residual, residual)
        solution, pulled = torch.zeros_like(residual), torch.zeros((), device=residual.device)
        white = self._white_variance(t)
        direction = self._last_solution
        if direction is None:
            direction = operator.solve(residual, white, self.noise_variance)
        done: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for _ in range(self.max_iterations):
            back = pull_back(operator.At(direction))
            image = coefficient * operator.A(back) + self.noise_variance * direction
            size = inner(image, image)
            for earlier, earlier_back, earlier_image, square in done:
                overlap = _quotient(inner(image, earlier_image), square)
                direction, image = (
                    v - expand_to(overlap, v) * w for v, w in ((direction, earlier), (image, earlier_image))
                )
                back = back - expand_to(overlap, back) * earlier_back
            square = inner(image, image)
            # A direction that is a combination of earlier ones up to rounding says nothing new.
            active = (inner(residual, residual) > goal) & (square > 1e-9 * size)
            step = torch.where(active, _quotient(inner(image, residual), square), 0.0)
            solution = solution + expand_to(step, direction) * direction
            residual = residual - expand_to(step, image) * image
            pulled = pulled + expand_to(step, back) * back
            done.append((direction, back, image, square))
            direction = operator.solve(residual, white, self.noise_variance)
            if not bool((inner(residual, residual) > goal).any()):
                break
        self._last_solution = solution if self.max_iterations > 1 else None
        return pulled


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


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return a / b.clamp_min(torch.finfo(b.dtype).tiny)
