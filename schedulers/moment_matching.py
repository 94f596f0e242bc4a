r"""The score of p_t(x | y) for a linear measurement y = A x_0 + noise_std n.

By Bayes' rule grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x) (paper eq. 14 and appendix I). With the denoised
image D = E[x_0 | x_t] and V = Cov[x_0 | x_t],

    p_t(y | x) = N(y; A D, A V At + noise_std^2 I)       exactly, if the data are Gaussian,
    grad log p_t(y | x) = J^T At u,   (A V At + noise_std^2 I) u = y - A D,   J = dD / dx.

**Moment matching** takes V = sigma^2 / alpha J, the true covariance for any data (Tweedie's second moment), in products
with vectors (Boys et al. 2023; Rozet et al. 2024). **Pseudo-inverse guidance** (Song et al. 2023) takes V = v I, the
covariance of white data, for the direction of u. Its length is fitted to the network's own V, which costs nothing more and
keeps it stable where the network's Jacobian is not that of white data.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .checks import check_choice, check_finite, check_integer, check_number
from .operator_checks import common_gain
from .operators import LinearOperator
from .recycled_residuals import RecycledResiduals
from .score_function import ScoreFunction, check_function, differentiable_state, rows_of, take_rows
from .sde import DATA_STD, SDE, as_time, expand_to


COVARIANCES = ("moment_matching", "pseudo_inverse")


class MomentMatching:
    """The posterior's score: a score function made of the prior's.

    In a sampling loop use one object per run: it reuses the solves of earlier noise levels.

    Args:
        score_fn: `(x, t) -> score` of the prior; differentiable in x.
        sde: the SDE.
        operator: A.
        y: the measurement, (B, *M), or (1, *M) for all samples, in the units of the state.
        noise_std: standard deviation of the measurement's noise; 0 for an exact measurement.
        covariance: "moment_matching" (exact for Gaussian data; one vector-Jacobian product per iteration of the linear
            system) or "pseudo_inverse" (exact for white Gaussian data of any variance; one product in all).
        data_std: rough standard deviation of the data, for the first guess of V and where accuracy matters.
        tolerance: relative residual at which the linear system counts as solved, for each sample by itself.
        max_iterations: bound on its iterations.

    Raises:
        TypeError, ValueError: for an argument of the wrong kind or out of its range, naming it.
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
    ):
        check_function("score_fn", score_fn)
        if not isinstance(operator, LinearOperator):
            raise TypeError(f"operator must be a LinearOperator, got {type(operator).__name__}")
        check_choice("covariance", covariance, COVARIANCES)
        self.score_fn, self.sde, self.operator, self.measurement = score_fn, sde, operator, check_finite("y", y)
        self.noise_variance = check_number("noise_std", noise_std, 0) ** 2
        self.data_std = check_number("data_std", data_std, 0, ends="()")
        self.tolerance = check_number("tolerance", tolerance, 0, 1, ends="[)")
        self._iterations = check_integer("max_iterations", max_iterations) if covariance == "moment_matching" else 1
        self.gram = operator.gram or common_gain(operator, y)
        self._solver, self._solved_ratio = RecycledResiduals(), float("inf")
        self._count = [0]  # one list with all `rows` of this object
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def evaluations(self) -> int:
        """Network evaluations so far: calls of the score and vector-Jacobian products, each counted as one."""
        return self._count[0]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The score of p_t(x | y), in the shape of `x` (B, *D); `t` of shape () or (B,)."""
        state, again = differentiable_state(x)
        t = as_time(t)
        with torch.enable_grad():
            score = self.score_fn(state, t)
            clean = self.sde.denoise(state, score, t)
        self._count[0] += 1

        def pull_back(v: Tensor) -> Tensor:
            """J^T v: a vector-Jacobian product through the network."""
            self._count[0] += 1
            with torch.enable_grad():
                return torch.autograd.grad(clean, state, v, retain_graph=True, create_graph=again)[0]

        if again:
            return score + self._solve(RecycledResiduals(), pull_back, self._misfit(clean), t)
        # One time per sample comes from an ODE solver, which does not go from level to level: nothing to reuse.
        reuse = t.ndim == 0 and self._iterations > 1
        solver = self._solver if reuse else RecycledResiduals()
        self._last = (x.detach(), score.detach(), t)
        return score.detach() + self._solve(solver, pull_back, self._misfit(clean.detach()), t)

    def rows(self, index: Tensor) -> "MomentMatching":
        """The same posterior for the samples `index` (b,) of the batch alone."""
        selected = copy.copy(self)
        selected.score_fn, selected.measurement = rows_of(self.score_fn, index), take_rows(self.measurement, index)
        selected.operator = self.operator.rows(index, self.measurement.ndim)
        return selected

    def correct_start(self, x: Tensor, t: Tensor | float | None = None) -> Tensor:
        """The prior's draw `x` = sigma_T z, (B, *D), moved to where the posterior begins: x + alpha_T E[x_0 | x, y].

        At the largest time the state still holds alpha_T of the image, and the posterior's image has another mean than the
        prior's. A start at mean zero is wrong by alpha_T / sigma_T standard deviations.

        Args:
            x: states, (B, *D).
            t: the time of the states; T by default.
        """
        t = as_time(self.sde.T if t is None else t)
        return x + self.sde.alpha(t) * self.sde.denoise(x, self(x, t), t)

    def correct_final(self, x: Tensor) -> Tensor:
        """The final image `x` (B, *D) with its measured coordinates corrected in closed form below the last noise level.

        Below the last ratio r the prior's score b is nearly constant, and the posterior's is known: along the ODE the misfit
        e = y - A x / alpha obeys e + b noise_std^2 / g ~ sqrt(g r^2 + noise_std^2), with A At = g I. A predictor, which
        extrapolates from r to 0, misses this where noise_std is of the size of r.
        """
        if self.gram is None or self._last is None:
            return x
        (state, score, t), noise = self._last, self.noise_variance
        alpha, y, ratio = self.sde.alpha(t), self.measurement.to(x), float(self.sde.noise_ratio(t))
        pull = self.operator.A(alpha * score) * (noise / self.gram)
        shrink = (noise / (self.gram * ratio**2 + noise)) ** 0.5
        misfit = shrink * (y - self.operator.A(state / alpha) + pull) - pull
        return x + self.operator.At(y - misfit - self.operator.A(x)) / self.gram

    def _misfit(self, clean: Tensor) -> Tensor:
        return self.measurement.to(clean) - self.operator.A(clean)

    def _solve(
        self, solver: RecycledResiduals, pull_back: Callable[[Tensor], Tensor], residual: Tensor, t: Tensor
    ) -> Tensor:
        """J^T At u with (sigma^2 / alpha A J^T At + noise_variance I) u = `residual`.

        The first guess is what would solve the system for white data; pseudo-inverse guidance takes one step from it.
        """
        sde, operator, noise = self.sde, self.operator, self.noise_variance
        ratio = expand_to(sde.noise_ratio(t), residual)
        coefficient = expand_to(sde.sigma(t) ** 2 / sde.alpha(t), residual)
        white = ratio**2 * self.data_std**2 / (ratio**2 + self.data_std**2)

        def multiply(u: Tensor) -> tuple[Tensor, Tensor]:
            back = pull_back(operator.At(u))
            return coefficient * operator.A(back) + noise * u, back

        if solver is self._solver:
            solver.age(float(ratio) ** -2 - self._solved_ratio**-2, operator.At, noise)
            self._solved_ratio = float(ratio)
        # Later steps damp errors made at high noise: there a looser tolerance is enough.
        looser = (1 + (ratio / self.data_std) ** 2) ** 0.25
        tolerance = (self.tolerance * looser).clamp_max(0.5).reshape(-1).to(residual.device, residual.dtype)
        guess = partial(operator.solve, variance=white, noise_variance=noise)
        return solver.solve(multiply, residual, guess, tolerance, self._iterations)
