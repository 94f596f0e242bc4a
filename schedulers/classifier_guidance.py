r"""Class-conditional scores (paper section 5 and eq. 14), as functions that wrap a score function.

By Bayes' rule the label y adds one term to the score,

    grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x).

- `ClassifierGuidance` takes it from a noise-conditional classifier (Song et al. 2021; Dhariwal & Nichol 2021).
- `DenoisedClassifierGuidance` takes it from a classifier of clean images, evaluated on the denoised image E[x_0 | x_t]
  (Bansal et al. 2023; Yu et al. 2023): p_t(y | x_t) is then approximate, and any pretrained classifier will do.
- `ClassifierFreeGuidance` takes it as the difference of a network's scores with and without the label (Ho & Salimans
  2022): score + (scale - 1) (score with label - score without).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_number
from .score_function import select_rows
from .sde import SDE, ScoreFunction


class ClassifierGuidance:
    """The score plus `scale` grad log p(label | x_t).

    Args:
        score_fn: the unconditional score, `(x, t) -> (B, *D)`.
        log_prob: `(x, t) -> (B,)`, log p(label | x_t = x) of the wanted labels; differentiable in x. Labels that differ
            from sample to sample are bound with `PerSample`.
        scale: 1 samples p(x | label); more sharpens it, 0 leaves the score as it is.

    Raises:
        TypeError, ValueError: for an argument that is no function, or a scale that is no finite number.

    Example:

    ```python
    guided = ClassifierGuidance(scheduler.score_fn(unet), classifier.log_prob_of(labels, scheduler.sde), scale=2.0)
    solution = solve_probability_flow(guided, scheduler.sde, noise, 1.0, 1e-5)
    ```
    """

    def __init__(
        self, score_fn: ScoreFunction, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0
    ) -> None:
        for name, function in (("score_fn", score_fn), ("log_prob", log_prob)):
            if not callable(function):
                raise TypeError(f"{name} must be a function (x, t), got {type(function).__name__}")
        self.score_fn, self.log_prob, self.scale = score_fn, log_prob, check_number("scale", scale)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, in the shape of `x` (B, *D); differentiable in `x` where that requires a gradient."""
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            state = x if differentiable else x.detach().requires_grad_()
            log_prob = self.log_prob(state, t)
            if log_prob.shape != x.shape[:1]:
                raise ValueError(f"log_prob must return shape ({len(x)},), got {tuple(log_prob.shape)}")
            (gradient,) = torch.autograd.grad(log_prob.sum(), state, create_graph=differentiable)
        return self.score_fn(x, t) + self.scale * gradient

    def rows(self, index: Tensor) -> "ClassifierGuidance":
        """The same for the samples `index` (b,) alone."""
        return ClassifierGuidance(select_rows(self.score_fn, index), select_rows(self.log_prob, index), self.scale)


class DenoisedClassifierGuidance:
    """The score plus `scale` grad log p(label | E[x_0 | x_t]).

    Args:
        score_fn: the unconditional score, `(x, t) -> (B, *D)`, differentiable in x.
        sde: the SDE, for the denoised image.
        log_prob: `x0 -> (B,)`, log p(label | x_0) of clean images (B, *D); labels that differ from sample to sample are
            bound to it by an object with a method `rows(index)`.
        scale: 0 leaves the score as it is; more sharpens the class.

    Each call costs one evaluation of the network and one vector-Jacobian product through it and the classifier.

    Raises:
        TypeError, ValueError: for an argument that is no function, or a scale that is no finite number.
    """

    def __init__(
        self, score_fn: ScoreFunction, sde: SDE, log_prob: Callable[[Tensor], Tensor], scale: float = 1.0
    ) -> None:
        for name, function in (("score_fn", score_fn), ("log_prob", log_prob)):
            if not callable(function):
                raise TypeError(f"{name} must be a function, got {type(function).__name__}")
        self.score_fn, self.sde, self.log_prob, self.scale = score_fn, sde, log_prob, check_number("scale", scale)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, in the shape of `x` (B, *D); differentiable in `x` where that requires a gradient."""
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            state = x if differentiable else x.detach().requires_grad_()
            score = self.score_fn(state, t)
            log_prob = self.log_prob(self.sde.denoise(state, score, t))
            (gradient,) = torch.autograd.grad(log_prob.sum(), state, create_graph=differentiable)
        return (score if differentiable else score.detach()) + self.scale * gradient

    def rows(self, index: Tensor) -> "DenoisedClassifierGuidance":
        """The same for the samples `index` (b,) alone."""
        parts = select_rows(self.score_fn, index), self.sde, select_rows(self.log_prob, index)
        return DenoisedClassifierGuidance(*parts, self.scale)


class ClassifierFreeGuidance:
    """The score `without` the label, moved towards the one `with_label` by `scale`.

    Args:
        with_label: the score given the label, `(x, t) -> (B, *D)`.
        without: the score without a label.
        scale: 0 is the score without, 1 the score with the label; more sharpens it.
        interval: noise ratios sigma / alpha, (low, high), between which the scale acts; elsewhere it is 1
            (Kynkaanniemi et al. 2024). Needs `noise_ratio`.
        noise_ratio: `t -> sigma / alpha`, for example `scheduler.sde.noise_ratio`.

    A network is evaluated once where the scale is 0 or 1, and twice elsewhere.

    Raises:
        TypeError, ValueError: for an argument that is no function or out of its range.
    """

    def __init__(
        self,
        with_label: ScoreFunction,
        without: ScoreFunction,
        scale: float = 1.0,
        interval: tuple[float, float] = (0.0, math.inf),
        noise_ratio: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        for name, function in (("with_label", with_label), ("without", without)):
            if not callable(function):
                raise TypeError(f"{name} must be a function (x, t), got {type(function).__name__}")
        if not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
            raise ValueError(f"interval must be two increasing noise ratios (low, high), got {interval!r}")
        if tuple(interval) != (0.0, math.inf) and noise_ratio is None:
            raise ValueError("noise_ratio must be given with an interval, got None")
        self.with_label, self.without, self.scale = with_label, without, check_number("scale", scale)
        self.interval, self.noise_ratio = tuple(interval), noise_ratio

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, in the shape of `x` (B, *D)."""
        scale = self._scale_at(torch.as_tensor(t))
        if scale.ndim == 0 and float(scale) in (0.0, 1.0):
            return self.with_label(x, t) if float(scale) else self.without(x, t)
        without, given = self.without(x, t), self.with_label(x, t)
        if scale.ndim:
            scale = scale.to(x).reshape(-1, *(1,) * (x.ndim - 1))
        return without + scale * (given - without)

    def evaluations(self, t: Tensor) -> int:
        """Network evaluations at the time `t` (0-dim)."""
        return 1 if float(self._scale_at(torch.as_tensor(t))) in (0.0, 1.0) else 2

    def rows(self, index: Tensor) -> "ClassifierFreeGuidance":
        """The same for the samples `index` (b,) alone."""
        parts = (select_rows(part, index) for part in (self.with_label, self.without))
        return ClassifierFreeGuidance(*parts, self.scale, self.interval, self.noise_ratio)

    def _scale_at(self, t: Tensor) -> Tensor:
        scale = torch.tensor(self.scale, dtype=torch.float64)
        if self.noise_ratio is None or self.interval == (0.0, math.inf):
            return scale
        ratio = self.noise_ratio(t)
        return torch.where((ratio >= self.interval[0]) & (ratio <= self.interval[1]), scale.to(ratio), 1.0)
