"""A model's tensors under the names timm knows, and as they train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from growtool.finetune.parallel.distributed import as_sharded, whole

_MARK = ".parametrizations."


def is_reparametrised(model: nn.Module) -> bool:
    """Whether some weights are computed from others (adapters, templates) by torch's parametrize."""
    return any(_MARK in f".{name}" for name in model.state_dict())


def exported(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state dict of the plain timm model, one tensor after the other: computed weights, not what they are made of.

    With sharded weights every process must go through it, as each is gathered when its turn comes.
    """
    seen: set[str] = set()
    for name, tensor in model.state_dict().items():
        before, mark, after = f".{name}".partition(_MARK)
        if not mark:
            yield name, whole(tensor)
            continue
        path, attribute = before.removeprefix("."), after.split(".")[0]
        plain = f"{path}.{attribute}".removeprefix(".")
        if plain not in seen:
            seen.add(plain)
            with torch.no_grad():
                weight = whole(getattr(model.get_submodule(path), attribute))
            yield plain, weight


def origins(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What computed weights are made of, by its name in the model's own state dict; gathered as in `exported`."""
    for name, tensor in model.state_dict().items():
        if _MARK in f".{name}":
            yield name, whole(tensor)


@torch.no_grad()
def put_in(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of a whole state dict into `model`, sharded as the model is."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(as_sharded(state[name].to(tensor.device), tensor))
