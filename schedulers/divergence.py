r"""The divergence of a field: exact, or unbiased from random probes.

    div F = tr J = E[v' J v],     J = dF/dz,     E[v v'] = I

(Skilling 1989, Hutchinson 1990; paper eq. 40). One evaluation of F and one vector-Jacobian product a probe give v' J v.

What a likelihood needs is the integral of tr J along a path, a sum over quadrature nodes. With one set of probes for the
whole path, as in the official code, the errors of the nodes add up; with new probes at every node they average out, at
the same number of products. `benchmarks/ode.py` measures 30 times less variance on image data.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import check_choice, check_flag, check_integer


MOST_PROBES = 10**6
PROBE_DISTRIBUTIONS = ("rademacher", "gaussian")

# (z (b, *D)) -> F, same shape.
Function = Callable[[Tensor], Tensor]


class Divergence:
    """How div F is estimated at the nodes of a path.

    `begin` is called once a batch, then the object itself at every node with the samples that are there. A subclass of
    your own may be passed to `log_likelihood`.
    """

    #: Whether the nodes share their probes, so that their errors add up coherently.
    shared_probes = False

    def begin(self, x: Tensor, generators: Sequence[torch.Generator]) -> None:
        """Prepares for a batch like `x` (B, *D) with one generator per sample."""

    def __call__(self, function: Function, z: Tensor, rows: Tensor) -> Tensor:
        """K independent unbiased estimates of div F at `z` (b, *D), shape (K, b), for the samples `rows` (b,), CPU."""
        raise NotImplementedError(f"{type(self).__name__} must implement __call__(function, z, rows)")


class ExactDivergence(Divergence):
    """The exact trace, by one vector-Jacobian product per dimension: for small states."""

    def __call__(self, function: Function, z: Tensor, rows: Tensor) -> Tensor:
        shape = z.shape[1:]
        basis = torch.eye(shape.numel(), dtype=z.dtype, device=z.device).reshape(-1, 1, *shape)
        return quadratic_forms(function, z, basis.expand(-1, len(z), *shape)).sum(0, keepdim=True)


class HutchinsonDivergence(Divergence):
    """v' J v for `num_probes` random v.

    Args:
        num_probes: probes per sample and node.
        distribution: "rademacher" (entries +-1; the smaller variance) or "gaussian".
        shared_probes: keep the probes of a sample along its whole path, as the official code does.
    """

    def __init__(self, num_probes: int = 1, distribution: str = "rademacher", shared_probes: bool = False):
        self.num_probes = check_integer("num_probes", num_probes, most=MOST_PROBES)
        check_choice("distribution", distribution, PROBE_DISTRIBUTIONS)
        self.distribution, self.shared_probes = distribution, check_flag("shared_probes", shared_probes)

    def begin(self, x: Tensor, generators: Sequence[torch.Generator]) -> None:
        self.generators, self.shape = list(generators), x.shape[1:]
        if self.shared_probes:
            self.probes = torch.stack([self._draw(row) for row in range(len(x))], 1)

    def __call__(self, function: Function, z: Tensor, rows: Tensor) -> Tensor:
        if self.shared_probes:
            probes = self.probes[:, rows]
        else:
            probes = torch.stack([self._draw(row) for row in rows.tolist()], 1)
        return quadratic_forms(function, z, probes)

    def _draw(self, row: int) -> Tensor:
        generator = self.generators[row]
        kwargs: dict[str, Any] = {"generator": generator, "device": generator.device}
        if self.distribution == "gaussian":
            return torch.randn(self.num_probes, *self.shape, **kwargs).cpu()
        return torch.randint(2, (self.num_probes, *self.shape), **kwargs).cpu() * 2.0 - 1.0


DIVERGENCES: dict[str, Callable[[int, str], Divergence]] = {
    "exact": lambda num_probes, distribution: ExactDivergence(),
    "hutchinson": lambda num_probes, distribution: HutchinsonDivergence(num_probes, distribution),
    "hutchinson_shared": lambda num_probes, distribution: HutchinsonDivergence(num_probes, distribution, True),
}


def quadratic_forms(function: Function, z: Tensor, probes: Tensor) -> Tensor:
    """v' J v for the K `probes` v, (K, b, *D), at `z` (b, *D): one evaluation and K vector-Jacobian products; (K, b)."""
    probes = probes.to(z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = function(z)
        forms = []
        for i, probe in enumerate(probes):
            (product,) = torch.autograd.grad(value, z, probe, retain_graph=i < len(probes) - 1)
            forms.append((product * probe).flatten(1).sum(1))
    return torch.stack(forms)
