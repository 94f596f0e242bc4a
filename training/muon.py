"""Muon for the convolutions and linear layers inside of a network, AdamW for the rest of it.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) moves a matrix by its momentum with all singular values
replaced by about one. A convolution is the matrix (out, in * kh * kw). `torch.optim.Muon` computes the step, with the factor
0.2 sqrt(max(rows, columns)) of Liu et al. 2025 ("Muon is Scalable for LLM Training", section 2.2): it is then as large as
a step of AdamW, so both have one learning rate.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


EMBEDDINGS = ("time_embedding", "class_embedding", "augment_embedding")  # of NCSNpp and UNet2DModel
MATRIX_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def hidden_and_others(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights that Muon trains, and all other parameters of a network.

    Muon trains the linear layers and convolutions whose inputs and outputs are both hidden: not those that read or make
    images (`in_channels` and `out_channels` of the configuration), nor the embeddings of times and classes.
    """
    config: Any = getattr(network, "config", {})
    first, last = config.get("in_channels"), config.get("out_channels")
    hidden = {
        id(layer.weight)
        for name, layer in network.named_modules()
        if isinstance(layer, MATRIX_LAYERS) and name.split(".")[0] not in EMBEDDINGS
        if layer.weight.shape[1] != first and layer.weight.shape[0] != last
    }
    parameters = list(network.parameters())
    return [p for p in parameters if id(p) in hidden], [p for p in parameters if id(p) not in hidden]


def muon_share(optimizer: Any) -> float:
    """The share of the numbers in all parameters that Muon trains; 0 for AdamW alone."""
    sizes = [sum(parameter.numel() for parameter in group["params"]) for group in optimizer.param_groups]
    return sum(n for n, group in zip(sizes, optimizer.param_groups) if "momentum" in group) / sum(sizes)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for one group of parameters and AdamW for the other, with one learning rate and weight decay for both.

    The state of a matrix is its `momentum_buffer`, in the matrix's own shape; that of every other parameter is AdamW's.

    Args:
        matrices: floating-point, of two or more dimensions; the first one counts as rows.
        others: trained by AdamW.
        lr, betas, eps, weight_decay: of `torch.optim.AdamW`.
        momentum: of Muon, with Nesterov's step.

    Raises:
        ValueError: this torch has no Muon.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(
                f"optimizer must be adamw with torch {torch.__version__}, got muon, which needs torch 2.9"
            )
        self._adamw = torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        groups = [*self._adamw.param_groups, {"params": list(matrices), "momentum": momentum}]
        super().__init__(groups, self._adamw.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        adamw, muon = self.param_groups
        self._muon_step(muon)
        self._adamw.param_groups, self._adamw.state = [adamw], self.state
        self._adamw.step()
        return loss

    def _muon_step(self, group: dict[str, Any]) -> None:
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not trained:
            return
        matrices = [_matrix(parameter) for parameter in trained]
        muon = torch.optim.Muon(
            matrices,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            adjust_lr_fn="match_rms_adamw",
        )
        for parameter, matrix in zip(trained, matrices):
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            muon.state[matrix]["momentum_buffer"] = state["momentum_buffer"].flatten(1)  # shares its memory
        muon.step()
        for parameter, matrix in zip(trained, matrices):
            if matrix.data_ptr() != parameter.data_ptr():  # a copy: the parameter is channels last
                parameter.copy_(matrix.view_as(parameter))


def _matrix(parameter: Tensor) -> nn.Parameter:
    """(rows, columns) of a parameter with its gradient, in the same memory where that has this order."""
    assert parameter.grad is not None
    matrix = nn.Parameter(parameter.detach().flatten(1))
    matrix.grad = parameter.grad.flatten(1)
    return matrix
