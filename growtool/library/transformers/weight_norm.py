"""Weights that a model of transformers keeps as a direction and a length (weight normalisation), as plain weights.

`W = g v / ||v||`, where the norm is taken over all dimensions but one (Salimans and Kingma, 2016). Wav2Vec2 and its
relatives keep their positional convolution so. Growth copies and splits W, so the two parts are combined when a file is
read and separated when one is written: v is then W itself, and g its norm, which gives W again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from growtool.library.layout import Conversion

if TYPE_CHECKING:
    from torch import Tensor, nn

_PARTS = ("parametrizations.weight.original0", "parametrizations.weight.original1")  # g and v, as torch names them
_NOTED = "growtool_weight_norms"  # attribute of a model: name of a weight -> the dimension that its norm leaves out


def make_plain(model: nn.Module) -> None:
    """Replace the weight norms of a model by the weights that they compute, in place, and note them on the model."""
    from torch.nn.utils import parametrize

    noted = {}
    for path, module in list(model.named_modules()):
        layer: Any = module
        # torch's weight norm is a private class; its `dim` tells it from other parametrisations.
        if parametrize.is_parametrized(module, "weight") and hasattr(layer.parametrizations.weight[0], "dim"):
            noted[f"{path}.weight"] = int(layer.parametrizations.weight[0].dim)
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    setattr(model, _NOTED, noted)


def part_names(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Return the names that the length and the direction of each noted weight have in transformers' own model."""
    return {name: _parts_of(name) for name in _noted(model)}


def _parts_of(name: str) -> tuple[str, str]:
    layer = name.removesuffix("weight")
    return f"{layer}{_PARTS[0]}", f"{layer}{_PARTS[1]}"


def combining(model: nn.Module, places: Mapping[str, str]) -> Iterator[tuple[str, Conversion]]:
    """Yield the name of each weight whose two parts a file holds, and the conversion that makes it of them.

    Args:
        model: the model after `make_plain`.
        places: name of a part in transformers' own model -> its name in the file.
    """
    for name, dim in _noted(model).items():
        parts = tuple(places[part] for part in _parts_of(name) if part in places)
        if len(parts) == len(_PARTS):
            yield name, Conversion(parts, (name,), partial(_combined, parts, name, dim))


def separating(model: nn.Module, written_as: Mapping[str, tuple[str, ...]]) -> Iterator[Conversion]:
    """Yield the conversion of each of these weights into its two parts.

    Args:
        model: the model after `make_plain`.
        written_as: name of a weight -> the names of its length and its direction in the file.
    """
    for name, parts in written_as.items():
        yield Conversion((name,), parts, partial(_separated, parts, name, _noted(model)[name]))


def _combined(parts: tuple[str, ...], name: str, dim: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    g, v = (tensors[part] for part in parts)
    return {name: torch._weight_norm(v.double(), g.double(), dim).to(v.dtype)}


def _separated(parts: tuple[str, ...], name: str, dim: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    W = tensors[name]
    length = torch.norm_except_dim(W.double(), 2, dim).to(W.dtype)
    return dict(zip(parts, (length, W), strict=True))


def _noted(model: nn.Module) -> Mapping[str, int]:
    dims: Mapping[str, int] = getattr(model, _NOTED, {})
    return dims
