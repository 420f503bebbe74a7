"""Weights that a model keeps as a direction and a length (weight normalisation), as the plain weights that they make.

`W = g v / ||v||`, the length over all dimensions but one. Growth copies and splits W; v is W itself and g its length
where they are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from growtool.library.layout import Conversion

if TYPE_CHECKING:
    from torch import Tensor, nn

_PARTS = ("parametrizations.weight.original0", "parametrizations.weight.original1")  # g and v, as torch names them
_NOTED = "growtool_weight_norms"


def make_plain(model: nn.Module) -> None:
    """Give layers with a weight norm plain weights, and note which they are."""
    from torch.nn.utils import parametrize

    noted = {}
    for path, module in list(model.named_modules()):
        held: Any = module
        if parametrize.is_parametrized(module, "weight") and hasattr(held.parametrizations.weight[0], "dim"):
            noted[f"{path}.weight"] = int(held.parametrizations.weight[0].dim)
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    setattr(model, _NOTED, noted)


def part_names(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Weight -> the names of its length and its direction in transformers' own model."""
    return {name: _parts_of(name) for name in _noted(model)}


def _parts_of(name: str) -> tuple[str, str]:
    """The names of the length and the direction of a weight."""
    layer = name.removesuffix("weight")
    return f"{layer}{_PARTS[0]}", f"{layer}{_PARTS[1]}"


def combining(model: nn.Module, places: Mapping[str, str]) -> Iterator[tuple[str, Conversion]]:
    """Each weight whose parts a file holds, with what makes it of them.

    Args:
        model: with plain weights.
        places: names of parts -> their names in the file.
    """
    for name, dim in _noted(model).items():
        parts = tuple(places[part] for part in _parts_of(name) if part in places)
        if len(parts) == len(_PARTS):
            yield name, Conversion(parts, (name,), partial(_combined, parts, name, dim))


def separating(model: nn.Module, written_as: Mapping[str, tuple[str, ...]]) -> Iterator[Conversion]:
    """What makes the parts of each of these weights.

    Args:
        model: with plain weights.
        written_as: weight -> the names of its length and its direction in the file.
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
    found: Mapping[str, int] = getattr(model, _NOTED, {})
    return found
