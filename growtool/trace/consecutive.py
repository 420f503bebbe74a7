"""Positions listed one after the other, `x[..., [-2], :]`, are taken as a slice: others may grow beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class ConsecutiveAsSlice(TorchFunctionMode):
    """While active, a list of consecutive positions picks by a slice: the same values, in the same place."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__getitem__:
            args = (args[0], as_slice(args[1]))
        return func(*args, **(kwargs or {}))


def as_slice(index: Any) -> Any:
    """An index with its list of consecutive positions as a slice; unchanged where it holds none, or another list too.

    A second list, a number or a tensor is picked together with the first one, position by position.
    """
    parts = index if isinstance(index, tuple) else (index,)
    lists = [part for part in parts if isinstance(part, list)]
    others = all(part is None or part is ... or isinstance(part, slice | list) for part in parts)
    if len(lists) != 1 or not others or not _consecutive(lists[0]):
        return index
    first, last = lists[0][0], lists[0][-1]
    taken = slice(first, None if last == -1 else last + 1)
    return tuple(taken if isinstance(part, list) else part for part in parts)


def _consecutive(positions: list[Any]) -> bool:
    if not positions or not all(type(position) is int for position in positions):
        return False
    first = positions[0]
    return positions == list(range(first, first + len(positions))) and (first >= 0 or positions[-1] < 0)
