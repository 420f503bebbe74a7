"""Nested state as JSON, with its tensors put aside: `{"$tensor": KEY}` stands for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from growtool.finetune.parallel.distributed import whole

Keep = Callable[[str, Tensor], Tensor]
_TENSOR, _TUPLE = "$tensor", "$tuple"  # a reference to a tensor, and the mark of a tuple


def packed(value: Any, key: str, tensors: dict[str, Tensor], keep: Keep) -> Any:
    """JSON for `value`, its tensors put aside under keys that begin with `key`."""
    if isinstance(value, Tensor):
        tensors[key] = keep(key, whole(value).detach())
        return {_TENSOR: key}
    if isinstance(value, tuple):
        return {_TUPLE: [packed(item, f"{key}/{i}", tensors, keep) for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [packed(item, f"{key}/{i}", tensors, keep) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(name): packed(item, f"{key}/{name}", tensors, keep) for name, item in value.items()}
    return value


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What was packed."""
    if isinstance(value, Mapping):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        if _TUPLE in value:
            return tuple(unpacked(item, tensors) for item in value[_TUPLE])
        return {name: unpacked(item, tensors) for name, item in value.items()}
    return [unpacked(item, tensors) for item in value] if isinstance(value, list) else value


def references(value: Any) -> set[str]:
    """Keys of the tensors that lie inside lists and mappings."""
    if isinstance(value, Mapping):
        if _TENSOR in value:
            return {value[_TENSOR]}
        return {key for item in value.values() for key in references(item)}
    return {key for item in value for key in references(item)} if isinstance(value, list) else set()
