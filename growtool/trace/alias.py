"""Tensors that share memory: a write through one of them changes all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor


class Aliases:
    """The tensors of a forward pass, by the storage that they lie in."""

    def __init__(self) -> None:
        self._sharing: dict[int, list[Tensor]] = defaultdict(list)

    def add(self, tensor: Tensor) -> None:
        """Remember a tensor and keep it alive, so that torch does not give its memory to another one."""
        self._sharing[_memory(tensor)].append(tensor)

    def others(self, tensor: Tensor) -> Iterator[Tensor]:
        """Yield every other tensor in the same storage, whether or not they overlap."""
        return (other for other in self._sharing[_memory(tensor)] if other is not tensor)


def written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation writes to, according to its schema."""
    arguments = func._schema.arguments
    given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    written_names = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    return [given[name] for name in written_names if isinstance(given.get(name), Tensor)]


def _memory(tensor: Tensor) -> int:
    # the storage itself: meta tensors have no data, and a data pointer of 0 in common
    return int(tensor.untyped_storage()._cdata)
