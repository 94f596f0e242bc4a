"""Linear systems that remember: solutions, cost, independence of the batch."""

from functools import partial

import torch

from scoresde_pipelines.schedulers.recycled_residuals import RecycledResiduals


def systems(levels):
    """M(r) = C (C + r^2)^-1 r^2 + s^2 of a Gaussian with covariance C, s = .1, from r = 3 down; float64."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64))[0]
    values = torch.logspace(-2, 1, 32, dtype=torch.float64)
    for k in range(levels):
        ratio = 3.0 * 0.6**k
        yield ratio, (basis * (values * ratio**2 / (values + ratio**2) + 0.01)) @ basis.T


def solve_levels(right, memory, tolerance=1e-4):
    """Solutions (levels, B, 32) and the number of products, with and without memory."""
    solver, products, solutions, last = RecycledResiduals(), 0, [], float("inf")
    for ratio, matrix in systems(10):

        def multiply(u, matrix=matrix):
            nonlocal products
            products += 1
            return u @ matrix, u

        if not memory:
            solver.memory = []
        solver.age(1 / ratio**2 - 1 / last**2, lambda v: v, 0.01)
        last = ratio
        solutions.append(
            solver.solve(
                multiply, right, partial(torch.mul, other=1 / (ratio**2 / (1 + ratio**2) + 0.01)), tolerance, 40
            )
        )
        error = (solutions[-1] @ matrix - right).norm(dim=1) / right.norm(dim=1)
        assert float(error.max()) <= tolerance
    return torch.stack(solutions), products


def test_every_system_is_solved_and_memory_saves_most_products():
    right = torch.randn(4, 32, dtype=torch.float64)
    plain, recycled = solve_levels(right, memory=False)[1], solve_levels(right, memory=True)[1]
    # With A = I the ageing is exact: only the first system costs what each of ten costs without memory.
    assert recycled < 0.45 * plain


def test_a_sample_does_not_depend_on_its_neighbours():
    right = torch.randn(3, 32, dtype=torch.float64)
    right[1] *= 1e3
    together = solve_levels(right, memory=True)[0]
    for k in range(3):
        alone = solve_levels(right[k : k + 1], memory=True)[0]
        torch.testing.assert_close(together[:, k : k + 1], alone, rtol=1e-9, atol=1e-9)
