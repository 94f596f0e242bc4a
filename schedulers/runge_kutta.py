r"""Adaptive explicit Runge-Kutta for a batch of independent initial value problems, dz/du = F(z, u).

Every sample has its own step size, error control and evaluation count, so its result does not depend on the batch it
is in; finished samples leave the batch and cost nothing. States stay on their device in float64. The controller needs one
number per sample and step, the ratio of the error to the tolerance; nothing else is copied to the host.

A method is a `Tableau`: its coefficients and its order. Adding one takes no code.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .sde import expand_to
from .transfers import to_device


@dataclass(frozen=True)
class Tableau:
    """An embedded pair whose last stage is the first of the next step.

    Args:
        order: order of the solution that the next step starts from.
        nodes: where the stages lie within the step, c_i.
        stages: the lower triangle a_ij; its last row gives the solution.
        error: weights of the stages in the difference between the solution and the embedded one of lower order.
        dense: per stage the coefficients of theta, theta^2, ... in the solution at the fraction theta of the step.
    """

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    dense: tuple[tuple[float, ...], ...]


# Dormand & Prince (1980), RK5(4)7M; continuous extension of order 4 by Shampine (1986).
DORMAND_PRINCE = Tableau(
    order=5,
    nodes=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
    stages=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    dense=(
        (1, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
        (0, 0, 0, 0),
        (0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
        (0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
        (0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
)

# Bogacki & Shampine (1989), RK3(2).
BOGACKI_SHAMPINE = Tableau(
    order=3,
    nodes=(0, 1 / 2, 3 / 4, 1),
    stages=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    error=(5 / 72, -1 / 12, -1 / 9, 1 / 8),
    dense=((1, -4 / 3, 5 / 9), (0, 1, -2 / 3), (0, 4 / 3, -8 / 9), (0, -1, 1)),
)

# (z of shape (b, *D), u of shape (b,) on the CPU, rows (b,) of the full batch on the CPU) -> dz/du, shape (b, *D).
Field = Callable[[Tensor, Tensor, Tensor], Tensor]


class ODEError(RuntimeError):
    """The solver failed on a sample; the message says on which one, where and why."""


@dataclass
class Step:
    """One step of some samples of the batch.

    Args:
        rows: which samples, (b,), CPU.
        start, width: u at the start and the signed step, (b,), CPU float64.
        origin: state at the start, (b, *D).
        slopes: dz/du at each stage, each (b, *D).
        tableau: the method.
    """

    rows: Tensor
    start: Tensor
    width: Tensor
    origin: Tensor
    slopes: list[Tensor]
    tableau: Tableau = field(repr=False)

    @property
    def end(self) -> Tensor:
        """The state at the end of the step, shape (b, *D)."""
        return self.origin + self.combine(self.tableau.stages[-1])

    @property
    def error(self) -> Tensor:
        """The embedded estimate of the step's error, shape (b, *D)."""
        return self.combine(self.tableau.error)

    def combine(self, weights: tuple[float, ...]) -> Tensor:
        """width * sum_i weights_i slopes_i, shape (b, *D)."""
        total = torch.zeros_like(self.origin)
        for weight, slope in zip(weights, self.slopes):
            if weight:
                total.add_(slope, alpha=weight)
        return total.mul_(expand_to(self.width, total))

    def at(self, fraction: Tensor) -> Tensor:
        """The states inside the step at the fractions (b,) of it, CPU, by dense output; shape (b, *D)."""
        total = torch.zeros_like(self.origin)
        for row, slope in zip(self.tableau.dense, self.slopes):
            weight = self.width * sum(c * fraction ** (i + 1) for i, c in enumerate(row))
            total += expand_to(weight, slope) * slope
        return self.origin + total

    def select(self, mask: Tensor) -> "Step":
        """The same step of the samples in `mask`, (b,), CPU."""
        if bool(mask.all()):
            return self
        there = to_device(mask.nonzero().flatten(), self.origin.device)
        slopes = [slope[there] for slope in self.slopes]
        return Step(self.rows[mask], self.start[mask], self.width[mask], self.origin[there], slopes, self.tableau)


@dataclass
class Solution:
    """The solution of every sample.

    Args:
        z: final states, (B, *D).
        nfe: evaluations of F per sample, (B,), CPU int64.
        num_steps: accepted steps per sample, (B,), CPU int64.
    """

    z: Tensor
    nfe: Tensor
    num_steps: Tensor


def take_step(function: Field, step: Step) -> tuple[Step, Tensor]:
    """Evaluates the stages after the first; returns the full step and the solution at its end, (b, *D)."""
    end = step.origin
    for node, weights in zip(step.tableau.nodes[1:], step.tableau.stages[1:]):
        end = step.origin + step.combine(weights)
        step.slopes.append(function(end, step.start + node * step.width, step.rows))
    return step, end


@dataclass(frozen=True)
class StepControl:
    """How step sizes are chosen.

    Args:
        first_step: the first step that is tried, as a fraction of the whole interval.
        gains: of the controller, for this step's and the last step's error. Their difference determines the errors that
            result: 0.17 of the tolerance (order five) for the default, 0.44 for DOPRI5's (0.85, 0.2).
    """

    first_step: float = 0.05
    gains: tuple[float, float] = (0.7, 0.4)


def integrate(
    function: Field,
    z: Tensor,
    start: float,
    end: float,
    *,
    tolerance: float = 1e-5,
    tableau: Tableau = DORMAND_PRINCE,
    max_steps: int = 1000,
    control: StepControl = StepControl(),
    on_step: Callable[[Step], None] | None = None,
) -> Solution:
    """Solves dz/du = F(z, u) from u = `start` to `end` for every sample on its own.

    A step is accepted when the root mean square over the sample of error / (tolerance (1 + |z|)) is at most one.

    Args:
        function: F, called with the samples that have not reached `end`.
        z: states at `start`, (B, *D).
        tolerance: relative and absolute error allowed per step.
        tableau: the method.
        max_steps: most steps, rejected ones included, that a sample may take.
        control: how step sizes are chosen.
        on_step: called with every accepted step.

    Raises:
        ODEError: on a value that is not finite, a vanishing step or `max_steps`, naming the sample.
    """
    count, span = len(z), end - start
    everyone = torch.arange(count, device="cpu")
    z, slope = z.clone(), function(z, torch.full((count,), start, dtype=torch.float64, device="cpu"), everyone)
    controller = _Controller(count, span, control, tableau.order)
    position = torch.full((count,), start, dtype=torch.float64, device="cpu")
    while len(rows := everyone[(position != end)]):
        there = to_device(rows, z.device)
        width, last = controller.propose(rows, end - position[rows])
        origin = z[there]  # a copy: `z` is written to before `on_step` reads the step
        step = Step(rows, position[rows], width, origin, [slope[there]], tableau)
        step, landing = take_step(function, step)
        scale = tolerance * (1 + torch.maximum(origin.abs(), landing.abs()))
        ratio = (step.error / scale).flatten(1).square().mean(1).sqrt()
        accepted = controller.judge(rows, width, ratio.cpu().double())
        done = to_device(accepted.nonzero().flatten(), z.device)  # a mask on the device would be read back
        z[there[done]], slope[there[done]] = landing[done], step.slopes[-1][done]
        position[rows[accepted]] = torch.where(last, torch.full_like(width, end), position[rows] + width)[accepted]
        controller.check(position, end, max_steps)
        if on_step is not None and bool(accepted.any()):
            on_step(step.select(accepted))
    evaluations = 1 + (len(tableau.nodes) - 1) * controller.taken
    return Solution(z, evaluations, controller.taken - controller.rejected)


def _round_down(size: Tensor) -> Tensor:
    # Round steps to 2^(k/8), so batch-dependent rounding cannot change them.
    return 2 ** (torch.floor(8 * torch.log2(size)) / 8)


class _Controller:
    """Step sizes per sample on the host: a proportional-integral controller (Gustafsson 1991)."""

    def __init__(self, count: int, span: float, control: StepControl, order: int):
        self.direction = 1.0 if span > 0 else -1.0
        self.size = torch.full((count,), control.first_step * abs(span), dtype=torch.float64, device="cpu")
        self.smallest = 1e-12 * abs(span)
        self.exponents = -control.gains[0] / order, control.gains[1] / order
        self.previous = torch.ones(count, dtype=torch.float64, device="cpu")
        self.taken = torch.zeros(count, dtype=torch.int64, device="cpu")
        self.rejected = torch.zeros(count, dtype=torch.int64, device="cpu")
        self.finite = torch.ones(count, dtype=torch.bool, device="cpu")

    def propose(self, rows: Tensor, remaining: Tensor) -> tuple[Tensor, Tensor]:
        # A step that almost reaches the end is extended to it.
        last = self.size[rows] >= remaining.abs() * (1 - 1e-9)
        return torch.where(last, remaining, self.direction * self.size[rows]), last

    def judge(self, rows: Tensor, width: Tensor, ratio: Tensor) -> Tensor:
        self.finite[rows] = finite = ratio.isfinite()
        ratio = torch.where(finite, ratio, torch.full_like(ratio, 1e10)).clamp_min(1e-12)
        accepted = ratio <= 1
        factor = 0.9 * ratio ** self.exponents[0] * self.previous[rows] ** self.exponents[1]
        factor = factor.clamp(0.2, 3.0)
        self.size[rows] = _round_down(width.abs() * torch.where(accepted, factor, factor.clamp_max(0.9)))
        self.previous[rows[accepted]] = ratio[accepted].clamp_min(1e-4)
        self.taken[rows] += 1
        self.rejected[rows[~accepted]] += 1
        return accepted

    def check(self, position: Tensor, end: float, max_steps: int) -> None:
        under_way = position != end
        for wrong, reason in (
            (
                (self.size < self.smallest) & ~self.finite,
                "the field is not finite: score_fn gives NaN or infinity there",
            ),
            (self.size < self.smallest, "the step size vanished: the field is not smooth there"),
            (self.taken >= max_steps, f"max_steps={max_steps} was reached; raise it or the tolerance"),
        ):
            wrong &= under_way
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0])
                raise ODEError(f"sample {row} at u = {float(position[row]):.6g}: {reason}")
