"""Nested state as plain data for JSON, with its tensors in a flat mapping of their own.

`{"$tensor": KEY}` stands for a tensor, `{"$tuple": [...]}` for a tuple, which JSON would turn into a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from growtool.finetune.parallel.distributed import whole

Keep = Callable[[str, Tensor], Tensor]
"""Called with the key of a tensor and the tensor; returns the tensor to keep under this key."""
_TENSOR, _TUPLE = "$tensor", "$tuple"


def packed(value: Any, key: str, tensors: dict[str, Tensor], keep: Keep) -> Any:
    """Return `value` as plain data for JSON, and move its tensors to `tensors`.

    Sharded tensors are gathered, so that every process must call this. Keys of mappings become strings.

    Args:
        value: nested dicts, lists, tuples, tensors, and plain data.
        key: the key of the tensor if `value` is one; with the path to it appended, the key of a tensor inside `value`.
        tensors: receives the tensors by key.
        keep: makes the tensor to put there.
    """
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
    """Return the value that `packed` made this of, with its tensors from `tensors`."""
    if isinstance(value, Mapping):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        if _TUPLE in value:
            return tuple(unpacked(item, tensors) for item in value[_TUPLE])
        return {name: unpacked(item, tensors) for name, item in value.items()}
    return [unpacked(item, tensors) for item in value] if isinstance(value, list) else value


def references(value: Any) -> set[str]:
    """Return the keys of all tensors that packed data refers to."""
    if isinstance(value, Mapping):
        if _TENSOR in value:
            return {value[_TENSOR]}
        return {key for item in value.values() for key in references(item)}
    return {key for item in value for key in references(item)} if isinstance(value, list) else set()
