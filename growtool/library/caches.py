"""Caches of functions that models call: transformers' DINOv3 keeps the coordinates of its patches between passes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def empty_caches(model: nn.Module) -> None:
    """Empty the caches of the functions in the files of a model's classes, so that every pass runs all operations.

    A cached result would be a constant in the second trace of an architecture, where the first has operations.
    """
    homes = {sys.modules.get(type(module).__module__) for module in model.modules()}  # none of a class made by hand
    for home in homes - {None}:
        for value in list(vars(home).values()):
            for empty in _caches_of(value):
                empty()


def _caches_of(value: Any) -> Iterator[Callable[[], None]]:
    """Yield what empties the cache of a function, or of a function that it wraps.

    transformers' `compile_compatible_method_lru_cache` keeps an `lru_cache` in the closure of its wrapper.
    """
    candidates = [value]
    for cell in getattr(value, "__closure__", None) or ():
        try:
            candidates.append(cell.cell_contents)
        except ValueError:  # the variable has no value yet
            continue
    for function in candidates:
        if callable(function) and not isinstance(function, type) and callable(getattr(function, "cache_clear", None)):
            yield function.cache_clear
