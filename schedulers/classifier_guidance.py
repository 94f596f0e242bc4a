r"""Class-conditional scores from a classifier of noisy images (paper section 5).

By Bayes' rule a class c adds one term to the score, and `scale` times it sharpens p(x | c):

    grad log p_t(x | c) = grad log p_t(x) + grad log p_t(c | x).
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_number
from .score_function import ScoreFunction, check_function, check_labels, differentiable_state, rows_of, take_rows


class ClassifierGuidance:
    """The score plus `scale` grad log p(class | x_t): a score function.

    Args:
        score_fn: `(x, t) -> score`, the unconditional score.
        log_prob: `(x, t) -> (B,)`, log p(class | x_t = x) of the wanted classes; differentiable in x.
        scale: 0 ignores the class, 1 samples p(x | class), more sharpens it.
        class_labels: the wanted classes, (B,), if `log_prob` takes them: it is then called as
            `log_prob(x, t, class_labels=...)`.

    Raises:
        TypeError, ValueError: for an argument of the wrong kind, naming it.
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        log_prob: Callable[..., Tensor],
        scale: float = 1.0,
        class_labels: Tensor | None = None,
    ):
        check_function("score_fn", score_fn)
        check_function("log_prob", log_prob)
        self.score_fn, self.log_prob, self.scale = score_fn, log_prob, check_number("scale", scale)
        self.class_labels = None if class_labels is None else check_labels("class_labels", class_labels)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, in the shape of `x` (B, *D); `t` of shape () or (B,)."""
        labels = {} if self.class_labels is None else {"class_labels": self.class_labels.to(x.device).expand(len(x))}
        state, again = differentiable_state(x)
        with torch.enable_grad():
            total = self.log_prob(state, t, **labels).sum()
            (gradient,) = torch.autograd.grad(total, state, create_graph=again)
        return self.score_fn(x, t) + self.scale * gradient

    def rows(self, index: Tensor) -> "ClassifierGuidance":
        """The same guidance for the samples `index` (b,) of the batch alone."""
        selected = copy.copy(self)
        selected.score_fn, selected.log_prob = rows_of(self.score_fn, index), rows_of(self.log_prob, index)
        if self.class_labels is not None:
            selected.class_labels = take_rows(self.class_labels, index)
        return selected
