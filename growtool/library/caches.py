"""Functions that remember what they returned: DINOv3 keeps the coordinates of its patches from one pass to the next."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def empty_caches(model: nn.Module) -> None:
    """Make the functions beside a model's classes compute anew, so that every pass runs the same operations.

    What they kept would be a constant in the second trace of an architecture, and no operation.
    """
    homes = {sys.modules.get(type(module).__module__) for module in model.modules()}  # none of a class made by hand
    for home in homes - {None}:
        for value in list(vars(home).values()):
            for empty in _caches_of(value):
                empty()


def _caches_of(value: Any) -> Iterator[Callable[[], None]]:
    """The caches of a function: its own, and that of a function which it wraps."""
    held = [value]
    for cell in getattr(value, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # nothing in it yet
            continue
    for function in held:
        if callable(function) and not isinstance(function, type) and callable(getattr(function, "cache_clear", None)):
            yield function.cache_clear
