"""The inverse of `models.official.keys.from_official`: checkpoints for tests."""

import torch

from scoresde_pipelines.models import NCSNpp, NCSNv2
from scoresde_pipelines.models.official.keys import official_tensors
from scoresde_pipelines.models.official.tensor import OfficialTensor


def official_layout(tensor: OfficialTensor, parameter: torch.Tensor) -> torch.Tensor:
    """One tensor of an official checkpoint, from our (whole) parameter."""
    if tensor.part is not None:
        parameter = parameter.chunk(3)[tensor.part]
    return parameter[:, :, 0, 0].t() if tensor.transposed else parameter


def to_official(model: NCSNpp | NCSNv2) -> dict[str, torch.Tensor]:
    """The official state dict of `model` (without the `sigmas` table and the `module.` prefix)."""
    parameters = dict(model.named_parameters())
    return {
        tensor.key: official_layout(tensor, parameters[tensor.name].detach()).contiguous()
        for tensor in official_tensors(model)
    }
