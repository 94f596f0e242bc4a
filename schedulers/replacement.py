"""Replacement of what is known: the paper's inpainting and colorization (appendix I.2), a constraint on the state.

A constraint is a function `(x, t) -> x` that is applied to the start and after every step. This one is biased for any
number of steps: the score of the unknown part is conditioned on the noisy known part, not on the measurement.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_function, check_state, check_time
from .linear_operator import LinearOperator, apply
from .operator_checks import check_constraint
from .score_function import check_score
from .sde import SDE, expand_to


class Replacement:
    """Replaces the known part of the state by the measurement, noised to the state's time.

    With the projection P = A+ A onto what is known, x becomes x - P x + alpha A+ y + sigma P z.

    Args:
        sde: the SDE.
        operator: A; its measurement is taken as exact.
        measurement: y, shape (B, *M), in the units of the state.
        draw: returns new standard normal noise in the shape of the state it is given.

    Raises:
        TypeError, ValueError: for an argument of another type, or an operator whose `At` is not the adjoint of its `A`.
    """

    def __init__(
        self,
        sde: SDE,
        operator: LinearOperator,
        measurement: Tensor,
        draw: Callable[[Tensor], Tensor] = torch.randn_like,
    ) -> None:
        check_constraint(sde, operator, measurement, "measurement")
        check_function("draw", draw, 1)
        self.sde, self.operator, self.measurement, self.draw = sde, operator, measurement, draw
        self._known: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The state (B, *D) with its known part drawn anew from p(x_t | y); exact and without noise at t = 0."""
        t = check_time("t", t, check_state("x", x, 2))
        if self._known is None:
            known = apply(self.operator, "pseudo_inverse", self.measurement.to(x))
            if known.shape[1:] != x.shape[1:]:
                raise ValueError(
                    f"measurement must be one of states like x of shape {tuple(x.shape)}, got one of {tuple(known.shape)}"
                )
            self._known = known
        if float(t) == 0:
            # In this order a known pixel becomes exactly the given one.
            return (x - self._project(x)) + self._known
        mean, std = self.sde.marginal(self._known, t)
        other = check_score(self.draw(x), x, "draw") * expand_to(std, x) - x
        return x + mean + self._project(other)

    def _project(self, x: Tensor) -> Tensor:
        """A+ A x, shape (B, *D): the measured part of `x`."""
        return apply(self.operator, "pseudo_inverse", apply(self.operator, "A", x))
