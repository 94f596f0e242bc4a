r"""Class-conditional scores (paper section 5 and eq. 14), as functions that wrap a score function.

By Bayes' rule the label y adds one term to the score,

    grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x).

- `ClassifierGuidance` takes it from a noise-conditional classifier (Song et al. 2021; Dhariwal & Nichol 2021).
- `DenoisedClassifierGuidance` takes it from a classifier of clean images, evaluated on the denoised image E[x_0 | x_t]
  (Bansal et al. 2023; Yu et al. 2023): p_t(y | x_t) is then approximate, and any pretrained classifier can be used.
- `ClassifierFreeGuidance` takes it as the difference of a network's scores with and without the label (Ho & Salimans
  2022): `without + scale * (with_label - without)`.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from .checks import check_function, check_instance, check_state, check_time
from .guidance_scale import Extrapolation, GuidanceScale, NoiseRatio
from .inference_mode import differentiates
from .score_function import ScoreFunction, check_log_prob, check_score, evaluations_of, part
from .sde import SDE


class _GradientGuidance:
    """The score plus `scale` times the gradient of a log-probability, in the terms that a subclass gives."""

    log_prob_takes = 2

    def __init__(
        self,
        score_fn: ScoreFunction,
        log_prob: Callable[..., Tensor],
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
        noise_ratio: NoiseRatio | None = None,
    ) -> None:
        check_function("score_fn", score_fn, 2)
        check_function("log_prob", log_prob, self.log_prob_takes)
        self.score_fn, self.log_prob = score_fn, log_prob
        self.scale = GuidanceScale(scale, 0.0, interval, noise_ratio)

    @differentiates
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, in the shape of `x` (B, *D); differentiable in `x` where that requires a gradient."""
        t = check_time("t", t, check_state("x", x, 1))
        scale = self.scale.at(x, t)
        if isinstance(scale, float) and scale == 0:
            return check_score(self.score_fn(x, t), x)
        differentiable = torch.is_grad_enabled() and x.requires_grad
        state = x if differentiable else x.detach().requires_grad_()
        score, gradient = self._terms(x, state, t, differentiable)
        return score + scale * gradient

    def _terms(self, x: Tensor, state: Tensor, t: Tensor, differentiable: bool) -> tuple[Tensor, Tensor]:
        """The score at `x` and the gradient at `state`, which is `x` and requires a gradient."""
        raise NotImplementedError

    def evaluations(self, t: Tensor | None = None) -> int:
        """Network evaluations at the time `t` (0-dim), or without it at the time with most."""
        return evaluations_of(self.score_fn, t)

    def rows(self, index: Tensor) -> Self:
        """The same for the samples `index` (b,) alone."""
        return part(self, index, "score_fn", "log_prob")


class ClassifierGuidance(_GradientGuidance):
    """The score plus `scale` grad log p(label | x_t).

    Args:
        score_fn: the unconditional score, `(x, t) -> (B, *D)`.
        log_prob: `(x, t) -> (B,)`, log p(label | x_t = x) of the wanted labels; differentiable in x. Labels that differ
            from sample to sample are bound with `PerSample`.
        scale: 1 samples p(x | label); more sharpens it, 0 does not change the score.
        interval, noise_ratio: see `GuidanceScale`; outside of the interval the score is not changed.

    Raises:
        TypeError, ValueError: for an argument that is no function, or a scale that is no finite number.

    Example:

    ```python
    guided = ClassifierGuidance(scheduler.score_fn(unet), classifier.log_prob_of(labels, scheduler.sde), scale=2.0)
    solution = solve_probability_flow(guided, scheduler.sde, noise, 1.0, 1e-5)
    ```
    """

    def _terms(self, x: Tensor, state: Tensor, t: Tensor, differentiable: bool) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            gradient = _gradient(self.log_prob(state, t), state, differentiable)
        return check_score(self.score_fn(x, t), x), gradient


class DenoisedClassifierGuidance(_GradientGuidance):
    """The score plus `scale` grad log p(label | E[x_0 | x_t]).

    Args:
        score_fn: the unconditional score, `(x, t) -> (B, *D)`, differentiable in x.
        sde: the SDE, for the denoised image.
        log_prob: `x0 -> (B,)`, log p(label | x_0) of clean images (B, *D); labels that differ from sample to sample are
            bound to it by an object with a method `rows(index)`.
        scale: 0 does not change the score; more sharpens the class.
        interval: see `GuidanceScale`; outside of it the score is not changed.

    Each call costs one evaluation of the network and one vector-Jacobian product through it and the classifier.

    Raises:
        TypeError, ValueError: for an argument that is no function, or a scale that is no finite number.
    """

    log_prob_takes = 1

    def __init__(
        self,
        score_fn: ScoreFunction,
        sde: SDE,
        log_prob: Callable[[Tensor], Tensor],
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
    ) -> None:
        check_instance("sde", sde, SDE)
        super().__init__(score_fn, log_prob, scale, interval, sde.noise_ratio)
        self.sde = sde

    def _terms(self, x: Tensor, state: Tensor, t: Tensor, differentiable: bool) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            score = check_score(self.score_fn(state, t), x)
            gradient = _gradient(self.log_prob(self.sde.denoise(state, score, t)), state, differentiable)
        return score if differentiable else score.detach(), gradient


class ClassifierFreeGuidance(Extrapolation):
    """The score `without + scale * (with_label - without)`.

    Args:
        with_label: the score given the label, `(x, t) -> (B, *D)`.
        without: the score without a label.
        scale: 0 is the score without, 1 the score with the label; more sharpens it.
        interval, noise_ratio: see `GuidanceScale`; outside of the interval the scale is 1.

    A network is evaluated once where the scale is 0 or 1, and twice elsewhere.

    Raises:
        TypeError, ValueError: for an argument that is no function or out of its range.
    """

    functions = ("with_label", "without")

    def __init__(
        self,
        with_label: ScoreFunction,
        without: ScoreFunction,
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
        noise_ratio: NoiseRatio | None = None,
    ) -> None:
        check_function("with_label", with_label, 2)
        check_function("without", without, 2)
        self.with_label, self.without = with_label, without
        self.scale = GuidanceScale(scale, 1.0, interval, noise_ratio)


def _gradient(log_prob: Tensor, state: Tensor, create_graph: bool) -> Tensor:
    """The gradient (B, *D) of log-probabilities (B,) to the states that they were computed from."""
    if not check_log_prob(log_prob, state).requires_grad:
        raise ValueError("log_prob must return a value that depends on x, got one without a gradient")
    return torch.autograd.grad(log_prob.sum(), state, create_graph=create_graph)[0]
