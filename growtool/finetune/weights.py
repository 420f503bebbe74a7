"""A model's tensors under the names timm knows, and as they train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from growtool.finetune.sharding import as_sharded, whole

if TYPE_CHECKING:
    from torch import nn

_MARK = ".parametrizations."


def is_reparametrised(model: nn.Module) -> bool:
    """Whether some weights are computed from others (adapters, templates) by torch's parametrize."""
    return any(_MARK in f".{name}" for name in model.state_dict())


@torch.no_grad()
def exported(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the plain timm model: every computed weight in the place of what it is computed from.

    With sharded weights every process must call this, as they are gathered.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        before, mark, after = f".{name}".partition(_MARK)
        if not mark:
            state[name] = whole(tensor)
            continue
        plain = f"{before}.{after.split('.')[0]}".removeprefix(".")
        if plain not in state:
            state[plain] = whole(getattr(model.get_submodule(before.removeprefix(".")), after.split(".")[0]))
    return state


def as_trained(model: nn.Module) -> dict[str, Tensor]:
    """The model's own state dict, whole."""
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


@torch.no_grad()
def put_in(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy what `as_trained` returned into `model`, sharded as the model is."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(as_sharded(state[name].to(tensor.device), tensor))
