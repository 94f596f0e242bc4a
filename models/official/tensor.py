"""How one tensor of an official checkpoint lies in our networks."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class OfficialTensor:
    """One tensor of an official checkpoint.

    Attributes:
        key: its official name, without the `module.` of DataParallel.
        shape: its shape there.
        name: our parameter that holds it.
        part: which third of our merged query-key-value projection it is, or None if it is all of `name`.
        transposed: it is a matrix (in, out) there and a 1x1 convolution (out, in, 1, 1) here.
        trained: whether it requires a gradient; an official EMA leaves out those that do not.
        reached: whether it receives one: the embedding's layers do not in a network without time_conditioning.
    """

    key: str
    shape: tuple[int, ...]
    name: str
    part: int | None = None
    transposed: bool = False
    trained: bool = True
    reached: bool = True

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """From the official layout to ours."""
        return tensor.t()[:, :, None, None] if self.transposed else tensor
