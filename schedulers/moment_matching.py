r"""The score of an image given a linear measurement of it, y = A x_0 + sigma_y n, as a function that wraps a score function.

With the denoised image D = E[x_0 | x_t] and V = Cov[x_0 | x_t],

    p_t(y | x) = N(y; A D, A V At + sigma_y^2 I)       exactly, if the data are Gaussian,
    grad log p_t(y | x) = J^T At u,   (A V At + sigma_y^2 I) u = y - A D,   J = dD / dx.

**Moment matching** takes V = sigma^2 / alpha J, the exact covariance for any data (Tweedie's second moment), by products
with vectors (Boys et al. 2023; Rozet et al. 2024). **Pseudo-inverse guidance** (Song et al. 2023) takes V = v I, the
covariance of white data, for the direction of u; the length of u is fitted to the network's own V, which costs no further
evaluation and keeps the method stable where the network's Jacobian is not that of white data.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .checks import check_choice, check_function, check_instance, check_integer, check_number, check_state, check_time
from .inference_mode import differentiates
from .linear_operator import LinearOperator
from .operator_checks import check_condition, gram_factor, misfit
from .recycled_residuals import RecycledResiduals
from .score_function import ScoreFunction, check_score, part
from .sde import DATA_STD, LARGEST_SIGMA, SDE, SMALLEST_SIGMA, expand_to


COVARIANCES = ("moment_matching", "pseudo_inverse")
TIGHT = 1e-6  # relative residual of the linear systems that derivatives are taken through


class MomentMatching:
    """The score of p_t(x | y) for a measurement y = A x_0 + noise_std n.

    Make one for each sampling run: in a loop over decreasing noise levels it reuses earlier solutions of its linear
    system, and it counts network evaluations.

    Args:
        score_fn: the prior's score, `(x, t) -> (B, *D)`, differentiable in x.
        sde: the prior's SDE.
        operator: A.
        y: the measurement, shape (B, *M), in the units of the state.
        noise_std: standard deviation of the measurement's noise; 0 for an exact measurement.
        covariance: "moment_matching" (exact for Gaussian data; one vector-Jacobian product per iteration of the linear
            system) or "pseudo_inverse" (exact for white Gaussian data of any variance; one product in all).
        data_std: rough standard deviation of the data: sets the noise levels that are solved most accurately, and the first
            guess of V.
        tolerance: relative residual at which the linear system counts as solved, for each sample by itself.
        max_iterations: bound on its iterations.

    Attributes:
        evaluations: network evaluations so far: calls of the score and vector-Jacobian products, each counted as one.

    Raises:
        TypeError, ValueError: for an argument of another type or out of its range.

    Example:

    ```python
    posterior = MomentMatching(scheduler.score_fn(unet), scheduler.sde, AveragePoolOperator(4), y, noise_std=0.01)
    solution = solve_probability_flow(posterior, scheduler.sde, noise, 1.0, 1e-5)
    ```
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        sde: SDE,
        operator: LinearOperator,
        y: Tensor,
        noise_std: float = 0.0,
        covariance: str = "moment_matching",
        data_std: float = DATA_STD,
        tolerance: float = 0.003,
        max_iterations: int = 7,
    ) -> None:
        check_choice("covariance", covariance, COVARIANCES)
        check_condition(score_fn, sde, operator, y)
        self.score_fn, self.sde, self.operator, self.y, self.covariance = score_fn, sde, operator, y, covariance
        self.noise_variance = check_number("noise_std", noise_std, 0, LARGEST_SIGMA) ** 2
        self.data_std = check_number("data_std", data_std, SMALLEST_SIGMA, LARGEST_SIGMA)
        self.tolerance = check_number("tolerance", tolerance, 0, 1, ends="[)")
        self.max_iterations = check_integer("max_iterations", max_iterations, most=10**6)
        self.gram = operator.gram or gram_factor(operator, y)
        self._solver, self._solved_ratio = RecycledResiduals(), float("inf")
        self._last_state: tuple[Tensor, Tensor, Tensor] | None = None
        self._count = [0]  # shared with the parts that `rows` makes

    @property
    def evaluations(self) -> int:
        """Network evaluations so far."""
        return self._count[0]

    @differentiates
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The score of p_t(x | y), in the shape of `x` (B, *D), at `t` of shape () or (B,).

        Differentiable in `x` where that requires a gradient: the linear system is then solved to rounding, and its
        derivative taken implicitly, with the Jacobian J as symmetric as that of an exact score.
        """
        t = check_time("t", t, check_state("x", x, 2))
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            state = x if differentiable else x.detach().requires_grad_()
            score = check_score(self.score_fn(state, t), x)
            clean = self.sde.denoise(state, score, t)
        self._count[0] += 1

        def pull_back(v: Tensor, create_graph: bool = False) -> Tensor:
            """J^T v: a vector-Jacobian product through the network."""
            self._count[0] += 1
            return torch.autograd.grad(clean, state, v, retain_graph=True, create_graph=create_graph)[0]

        if differentiable:
            return score + self._differentiable_term(pull_back, misfit(self.operator, self.y.to(x), clean), t)
        if t.ndim == 0:
            self._last_state = (x.detach(), score.detach(), t)
        return score.detach() + self._term(pull_back, misfit(self.operator, self.y.to(x), clean.detach()), t)

    def rows(self, index: Tensor) -> "MomentMatching":
        """The same for the samples `index` (b,) alone; their evaluations are counted here."""
        chosen = part(self, index, "score_fn")
        chosen.y, chosen.operator = self.y[index.to(self.y.device)], self.operator.rows(index, self.y.ndim)
        chosen._solver, chosen._solved_ratio, chosen._last_state = RecycledResiduals(), float("inf"), None
        return chosen

    def correct_final(self, x: Tensor) -> Tensor:
        """The final image `x` (B, *D) of a sampling loop, its measured coordinates corrected in closed form.

        Below the last noise ratio r the prior's score b is nearly constant, and the posterior's is known: along the ODE the
        misfit e = y - A x / alpha obeys e + b sigma_y^2 / g ~ sqrt(g r^2 + sigma_y^2), with A At = g I. A predictor
        extrapolates from r to 0 and is inaccurate where sigma_y is about as large as r.
        """
        if self.gram is None or self._last_state is None:
            return x
        (state, score, t), noise = self._last_state, self.noise_variance
        alpha, y = self.sde.alpha(t), self.y.to(x)
        pull = self.operator.A(alpha * score) * (noise / self.gram)
        shrink = (noise / (self.gram * float(self.sde.noise_ratio(t)) ** 2 + noise)) ** 0.5
        misfit = shrink * (y - self.operator.A(state / alpha) + pull) - pull
        return x + self.operator.At(y - misfit - self.operator.A(x)) / self.gram

    # ------------------------------------------------------------------ the linear system

    def _term(self, pull_back: Callable[[Tensor], Tensor], residual: Tensor, t: Tensor) -> Tensor:
        """J^T At u with (sigma^2 / alpha A J^T At + noise_variance I) u = `residual`."""
        ratio = self.sde.noise_ratio(t)
        if t.ndim == 0 and not 0 < float(ratio) < float("inf"):
            raise ValueError(f"t must be a time in (0, T = {self.sde.T}], got {float(t)!r}")
        tolerance = self.tolerance * (1 + (ratio / self.data_std) ** 2) ** 0.25
        # Later steps damp errors made at high noise, so a looser tolerance suffices there.
        tolerance = tolerance.clamp_max(0.5) if t.ndim else min(0.5, float(tolerance))  # type: ignore[assignment]
        iterations = self.max_iterations if self.covariance == "moment_matching" else 1
        solver = RecycledResiduals()
        if iterations > 1 and t.ndim == 0:
            solver = self._solver
            if float(ratio) > self._solved_ratio:  # another run begins
                solver.memory, self._solved_ratio = [], float("inf")
            solver.age(1 / float(ratio) ** 2 - 1 / self._solved_ratio**2, self.operator.At, self.noise_variance)
            self._solved_ratio = float(ratio)
        return self._solve(solver, pull_back, residual, t, tolerance, iterations)

    def _solve(
        self,
        solver: RecycledResiduals,
        pull_back: Callable[[Tensor], Tensor],
        residual: Tensor,
        t: Tensor,
        tolerance: Any,
        iterations: int,
        result: str = "term",
    ) -> Tensor:
        # The term J^T At u, or the solution u itself.
        coefficient = expand_to(self.sde.sigma(t) ** 2 / self.sde.alpha(t), residual)
        ratio, variance = self.sde.noise_ratio(t) ** 2, self.data_std**2
        white = ratio * variance / (ratio + variance)  # Cov[x_0 | x_t] of white data

        def multiply(u: Tensor) -> tuple[Tensor, Tensor]:
            back = pull_back(self.operator.At(u))
            return coefficient * self.operator.A(back) + self.noise_variance * u, back if result == "term" else u

        def guess(v: Tensor) -> Tensor:
            # What would solve the system for white data; pseudo-inverse guidance is one step of this kind.
            return self.operator.solve(v, expand_to(white, v) if t.ndim else float(white), self.noise_variance)

        return solver.solve(multiply, residual, guess, tolerance, iterations)

    def _differentiable_term(self, pull_back: Callable[..., Tensor], residual: Tensor, t: Tensor) -> Tensor:
        coefficient = expand_to(self.sde.sigma(t) ** 2 / self.sde.alpha(t), residual)
        exact = self.covariance == "moment_matching"
        iterations = max(self.max_iterations, residual[0].numel()) if exact else 1

        def solve(v: Tensor) -> Tensor:
            return self._solve(RecycledResiduals(), pull_back, v, t, TIGHT, iterations, "solution").to(v)

        with torch.no_grad():
            u = solve(residual.detach())
        image = pull_back(self.operator.At(u), create_graph=True)
        error = residual - (coefficient * self.operator.A(image) + self.noise_variance * u)
        u = u + _ImplicitCorrection.apply(error, solve)
        return pull_back(self.operator.At(u), create_graph=True)


class _ImplicitCorrection(torch.autograd.Function):
    """M^-1 error, whose value is 0 within the tolerance of the solver; its derivative is another solution of M."""

    @staticmethod
    def forward(ctx: Any, error: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:  # type: ignore[override]
        ctx.solve = solve
        return torch.zeros_like(error)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.solve(grad), None


def posterior_start(posterior: ScoreFunction, sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """The prior's draw `x` = sigma_T z, shape (B, *D), moved to the posterior's mean there: x + alpha_T E[x_0 | x, y].

    At t = T the state still holds alpha_T x_0, so given y its mean is not zero: a start of mean zero has an error of
    alpha_T / sigma_T standard deviations.
    """
    check_instance("sde", sde, SDE)
    check_function("posterior", posterior, 2)
    t = check_time("t", t, check_state("x", x, 1), latest=sde.T)
    score = check_score(posterior(x, t), x, "posterior")
    return x + expand_to(sde.alpha(t), x) * sde.denoise(x, score, t)
