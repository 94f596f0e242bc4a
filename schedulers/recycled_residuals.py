r"""A solver by generalised conjugate residuals (GCR) that reuses directions from earlier noise levels.

A sampling run solves one linear system per noise level, and the systems change slowly. The matrix is
M = A V At + sigma_y^2 I, where a product with V = Cov[x_0 | x_t] costs a vector-Jacobian product through the network. The
pairs (v, M v) of earlier levels precondition the next one's system (as Parks et al. 2006 recycle Krylov spaces): 32 unknowns
take two or three products instead of eight.
"""

from collections.abc import Callable
from itertools import chain, islice

import torch
from torch import Tensor

from .linear_systems import inner
from .sde import expand_to


REMEMBERED = 4  # systems
INDEPENDENT = 1e-6

Vectors = tuple[Tensor, ...]


class RecycledResiduals:
    """Solves systems of (B, *M) unknowns, each sample separately.

    Attributes:
        memory: the pairs (v, M v) of the last systems, newest first; all products are orthonormal in each sample.
    """

    def __init__(self) -> None:
        self.memory: list[list[Vectors]] = []

    def solve(
        self,
        multiply: Callable[[Tensor], tuple[Tensor, Tensor]],
        residual: Tensor,
        guess: Callable[[Tensor], Tensor],
        tolerance: float | Tensor,
        max_iterations: int,
    ) -> Tensor:
        """P u with M u = `residual`.

        The residual never grows, even where a network's Jacobian is not quite symmetric and positive.

        Args:
            multiply: u -> (M u, P u), where P is any linear map.
            residual: the right-hand side, (B, *M).
            guess: an approximate inverse of M.
            tolerance: relative residual at which a sample is done; a number or one per sample, (B,).
            max_iterations: bound on the calls of `multiply`; there is at least one.
        """
        goal = tolerance**2 * inner(residual, residual)
        result, done = torch.zeros((), device=residual.device), list[Vectors]()
        stuck = torch.zeros(len(residual), device=residual.device)
        for _ in range(max_iterations):
            direction = torch.where(expand_to(stuck, residual) > 0, guess(residual), self._inverse(residual, guess))
            square = inner(residual, residual)
            # A sample that is done keeps its solution and adds no pair: it must not depend on the others in the batch.
            active = square > goal
            direction, image, other = orthonormalize((direction, *multiply(direction)), done, active)
            done.append((direction, image, other))
            step = inner(image, residual)
            # If the recycled preconditioner stalls, use the plain one next.
            stuck = (1 - stuck) * (step**2 < 0.1 * square)
            residual = residual - expand_to(step, image) * image
            result = result + expand_to(step, other) * other
            if not bool((inner(residual, residual) > goal).any()):
                break
        self.memory = [[vectors[:2] for vectors in done], *self.memory][:REMEMBERED]
        return result

    def _inverse(self, residual: Tensor, guess: Callable[[Tensor], Tensor]) -> Tensor:
        """The solution on the span of the stored products, and the guess for what is orthogonal to it."""
        solution = torch.zeros_like(residual)
        for direction, image in chain(*self.memory):
            share = expand_to(inner(image, residual), residual)
            solution, residual = solution + share * direction, residual - share * image
        return solution + guess(residual)

    def age(self, growth: float, adjoint: Callable[[Tensor], Tensor], noise_variance: float) -> None:
        """Updates the stored pairs from one noise level to the next, where 1 / V is larger by `growth`.

        For Gaussian data 1 / V = 1 / C + alpha^2 / sigma^2. If A is a multiple of a rotation, (A V At)^-1 grows by
        growth / g, with g = |At w|^2 / |w|^2; for a mask or a mean this is accurate enough for a preconditioner.
        """
        aged: list[Vectors] = []
        for direction, image in chain(*self.memory):
            signal = image - noise_variance * direction
            back = adjoint(signal)
            share = inner(signal, signal) / inner(back, back).clamp_min(torch.finfo(back.dtype).tiny)
            direction = direction + growth * expand_to(share, signal) * signal
            aged.append(orthonormalize((direction, signal + noise_variance * direction), aged))
        rest = iter(aged)
        self.memory = [list(islice(rest, len(system))) for system in self.memory]


def orthonormalize(vectors: Vectors, earlier: list[Vectors], active: Tensor | None = None) -> Vectors:
    """`vectors` less those combinations of `earlier` that overlap in the second one, which gets length 1.

    All zero where nothing is left but rounding, and in samples that are not `active` (B,).
    """
    size = inner(vectors[1], vectors[1])
    for others in earlier:
        overlap = inner(vectors[1], others[1])
        vectors = tuple(v - expand_to(overlap, v) * w for v, w in zip(vectors, others))
    square = inner(vectors[1], vectors[1])
    tiny = torch.finfo(square.dtype).tiny
    useful = square > INDEPENDENT * size if active is None else active & (square > INDEPENDENT * size)
    factor = square.clamp_min(tiny).rsqrt().masked_fill(~useful, 0.0)
    return tuple(expand_to(factor, v) * v for v in vectors)
