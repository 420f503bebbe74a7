"""Tensors that FSDP2 keeps in shards, as whole tensors and back; every other tensor passes through."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """The full tensor; gathered from all processes where it is sharded, so all of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 keeps its parameters in shards."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def as_sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor`, whole in every process, sharded as `like` is where both have the same shape."""
    if isinstance(like, DTensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor
