"""Class-conditional scores from networks alone (Ho & Salimans 2022): without + scale (with - without)."""

import copy

import torch
from torch import Tensor

from .checks import check_integer, check_number
from .score_function import ScoreFunction, check_function, check_labels, rows_of, take_rows


class ClassifierFreeGuidance:
    """without + scale (with - without), for the scores with and without the class: a score function.

    Args:
        score_fn: `(x, t, class_labels=...) -> score`: `scheduler.score_fn(network)` of a class-conditional network.
        class_labels: the wanted classes, integers, (B,).
        scale: 0 ignores the class, 1 samples p(x | class), more sharpens it.
        no_class: the label that stands for no class: both scores then come from one call with a batch of twice the size.
        without: instead of `no_class`, the unconditional score `(x, t) -> score`.

    Attributes:
        evaluations_per_call: network evaluations of each sample per score, 1 or 2.

    Raises:
        TypeError, ValueError: for an argument of the wrong kind, naming it.
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        class_labels: Tensor,
        scale: float = 1.0,
        *,
        no_class: int | None = None,
        without: ScoreFunction | None = None,
    ):
        check_function("score_fn", score_fn)
        self.score_fn, self.class_labels = score_fn, check_labels("class_labels", class_labels)
        self.scale = check_number("scale", scale)
        if self.scale != 1 and (no_class is None) == (without is None):
            raise ValueError(f"no_class or without must be given at scale {self.scale}, and not both")
        self.no_class = None if no_class is None else check_integer("no_class", no_class, 0)
        self.without = without
        self.evaluations_per_call = 1 if self.scale in (0, 1) else 2

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score, in the shape of `x` (B, *D); `t` of shape () or (B,)."""
        labels = self.class_labels.to(x.device).expand(len(x))
        if self.scale == 1:
            return self.score_fn(x, t, class_labels=labels)
        if self.scale == 0:
            return self._without(x, t, labels)
        if self.without is None:
            both = torch.cat([torch.full_like(labels, self.no_class), labels])
            times = t.repeat(2) if isinstance(t, Tensor) and t.ndim else t
            without, given = self.score_fn(torch.cat([x, x]), times, class_labels=both).chunk(2)
        else:
            without, given = self._without(x, t, labels), self.score_fn(x, t, class_labels=labels)
        return without + self.scale * (given - without)

    def _without(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        if self.without is not None:
            return self.without(x, t)
        return self.score_fn(x, t, class_labels=torch.full_like(labels, self.no_class))

    def rows(self, index: Tensor) -> "ClassifierFreeGuidance":
        """The same guidance for the samples `index` (b,) of the batch alone."""
        selected = copy.copy(self)
        selected.score_fn, selected.without = rows_of(self.score_fn, index), rows_of(self.without, index)
        selected.class_labels = take_rows(self.class_labels, index)
        return selected
