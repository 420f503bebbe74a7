"""The tensors of a model that trains: by the names of the plain model, and as they train.

Both are the same unless the model has adapters. torch's parametrize then stores `conv.weight` as
`conv.parametrizations.weight.original`, and B and A as `conv.parametrizations.weight.0.up` and `.down`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from growtool.finetune.parallel.distributed import whole
from growtool.finetune.update.adapters import LowRank

_MARK = ".parametrizations.weight."


def adapted(model: nn.Module) -> set[str]:
    """Return the names of the layers with adapters; other parametrizations are a model's own, and stay as they are."""
    return {name.partition(_MARK)[0] for name, module in model.named_modules() if isinstance(module, LowRank)}


def exported(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the state dict of the plain model, tensor by tensor, with adapted weights in place of their parts.

    A sharded tensor is gathered when it is its turn, so that every process must iterate to the end.
    """
    layers = adapted(model)
    for name, tensor in model.state_dict().items():
        layer, mark, part = name.partition(_MARK)
        if not mark or layer not in layers:
            yield name, whole(tensor)
        elif part == "original":
            with torch.no_grad():
                weight = whole(model.get_submodule(layer).weight)  # type: ignore[arg-type]
            yield f"{layer}.weight", weight


def origins(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that adapted weights are made of, by their names in `model`; gathered as in `exported`."""
    layers = adapted(model)
    for name, tensor in model.state_dict().items():
        layer, mark, _ = name.partition(_MARK)
        if mark and layer in layers:
            yield name, whole(tensor)
