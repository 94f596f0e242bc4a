"""Weights that are spread over the processes of a run: FSDP2 of PyTorch, by the choice of `accelerate config`.

Every process then has a part of each weight, of its gradient, of the optimizer's state and of the averages; PyTorch
calls such a tensor a `DTensor`. Whatever leaves the run is whole: a checkpoint or a pipeline is the one that a run with
the whole weights in every process would write, and either kind of run resumes from it.

The functions here leave tensors alone that are not spread. Where they are, all processes have to call them, and the main
process alone gets whole tensors.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, is_torch_version
from torch import nn


# Every process has the whole network and the whole optimizer state.
REPLICATED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU, DistributedType.MULTI_XPU)
OLDEST_TORCH = "2.7"


def shards_weights(accelerator: Accelerator) -> bool:
    """Whether the run spreads its weights.

    Raises:
        ValueError: the weights are spread in another way than FSDP2's: FSDP1, DeepSpeed, Megatron-LM; or PyTorch is too old.
    """
    kind = DistributedType(accelerator.distributed_type)
    if kind in REPLICATED:
        return False
    version = getattr(getattr(accelerator.state, "fsdp_plugin", None), "fsdp_version", 1)
    if kind != DistributedType.FSDP or version != 2:
        got = f"{kind.value} version {version}" if kind == DistributedType.FSDP else kind.value
        expected = ", ".join(replicated.value for replicated in REPLICATED)
        raise ValueError(f"the distributed type must be one of {expected}, or FSDP version 2, got {got}")
    if not is_torch_version(">=", OLDEST_TORCH):
        raise ValueError(f"torch must be of version {OLDEST_TORCH} or newer for FSDP, got {torch.__version__}")
    return True


def configure_sharding(accelerator: Accelerator, network: nn.Module) -> None:
    """Prepares Accelerate for a network whose weights are to be spread.

    It computes as others do, with float32 weights and inputs and autocast within: Accelerate's choice for FSDP2 rounds
    noise levels and states to bfloat16. Accelerate's blocks are `_no_split_modules`, of which this network may lack some.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy  # of PyTorch 2.6, which FSDP2 needs

    plugin = accelerator.state.fsdp_plugin
    plugin.mixed_precision_policy = MixedPrecisionPolicy()
    if plugin.transformer_cls_names_to_wrap is None:
        present = {type(module).__name__ for module in network.modules()}
        names = getattr(network, "_no_split_modules", None) or ()
        plugin.transformer_cls_names_to_wrap = [name for name in names if name in present]


def is_spread(tensor: Any) -> bool:
    """Whether this is the part of a tensor that is spread over processes."""
    return hasattr(tensor, "full_tensor")


def local_part(tensor: Any) -> torch.Tensor:
    """The values that this process has, in the same memory."""
    return tensor.to_local() if is_spread(tensor) else tensor


def part_like(tensor: torch.Tensor, like: Any) -> torch.Tensor:
    """A whole tensor that all processes have, spread as `like` is; without communication."""
    if not is_spread(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole(state: Any) -> Any:
    """A nested state (dictionaries and lists of tensors and others) with whole tensors on the CPU for spread ones."""
    if is_spread(state):
        return _put_together(state, "cpu")
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value) for value in state)
    return state


def _put_together(tensor: Any, device: torch.device | str) -> torch.Tensor:
    """The whole tensor on the main process; an empty one on the others, whose memory could not hold all of them."""
    full = tensor.detach().full_tensor()
    # A copy: where the parts are unequal, PyTorch returns a view of something larger.
    return full.to(device, copy=True) if torch.distributed.get_rank() == 0 else full.new_empty(0)


def spread_like(network: nn.Module, like: nn.Module) -> None:
    """Gives this process its part alone of each weight of `network`, a whole copy of `like`."""
    for (name, weight), other in zip(list(network.named_parameters()), like.parameters()):
        parent, _, own = name.rpartition(".")
        part = nn.Parameter(part_like(weight.detach(), other.detach()), requires_grad=weight.requires_grad)
        setattr(network.get_submodule(parent), own, part)


def whole_network(network: nn.Module) -> Any:
    """The network itself, or where its weights are spread a copy with whole ones."""
    spread = [weight for weight in network.parameters() if is_spread(weight)]
    if not spread:
        return network
    replaced = {id(weight): nn.Parameter(_put_together(weight, weight.device), False) for weight in spread}
    return copy.deepcopy(network, replaced)
