"""Which tensors share memory: a write through one of them changes all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor


class Aliases:
    """The tensors of a forward pass by the memory they lie in."""

    def __init__(self) -> None:
        self._sharing: dict[int, list[Tensor]] = defaultdict(list)

    def add(self, tensor: Tensor) -> None:
        """Remember a tensor; it is kept alive, so that its memory is not given to another."""
        self._sharing[_memory(tensor)].append(tensor)

    def others(self, tensor: Tensor) -> Iterator[Tensor]:
        """Every other tensor in the memory of this one, whether or not they overlap."""
        return (other for other in self._sharing[_memory(tensor)] if other is not tensor)


def written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments an operation writes to, by its schema."""
    given = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    named = (given.get(a.name) for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    return [value for value in named if isinstance(value, Tensor)]


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
