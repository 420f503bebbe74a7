"""The tensors of a model that trains: by the names of the plain timm model, and as they train.

Both are the same unless torch's parametrize computes some weights from others (adapters, templates). It then stores
`conv.weight` as `conv.parametrizations.weight.original` (or `original0`, `original1`, ...), and the parameters of the
modules that compute it as `conv.parametrizations.weight.0.NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from growtool.finetune.parallel.distributed import as_sharded, whole

_MARK = ".parametrizations."


def is_reparametrised(model: nn.Module) -> bool:
    """Return whether torch's parametrize computes some of the weights from others (adapters, templates)."""
    return any(_MARK in f".{name}" for name in model.state_dict())


def exported(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the state dict of the plain timm model, tensor by tensor, with computed weights in place of their parts.

    A sharded tensor is gathered when it is its turn, so that every process must iterate to the end.
    """
    seen: set[str] = set()
    for name, tensor in model.state_dict().items():
        before, mark, after = f".{name}".partition(_MARK)  # the dot is for parametrizations of the model itself
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
    """Yield the tensors that computed weights are made of, by their names in `model`; gathered as in `exported`."""
    for name, tensor in model.state_dict().items():
        if _MARK in f".{name}":
            yield name, whole(tensor)


@torch.no_grad()
def put_in(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of an unsharded state dict into `model`, each sharded as the model's own tensor is."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(as_sharded(state[name].to(tensor.device), tensor))
