"""Places along a dimension, a range where they stand in a row: what is read there need not be copied."""

from __future__ import annotations

import torch
from torch import Tensor

Places = Tensor | range


def as_places(positions: Tensor) -> Places:
    """Positions (int64) as a range where they are one."""
    first, count = (int(positions[0]), len(positions)) if len(positions) else (0, 0)
    together = torch.equal(positions, torch.arange(first, first + count))
    return range(first, first + count) if together else positions


def at(values: Tensor, dim: int, places: Places) -> Tensor:
    """Some places of a dimension: a view where they stand in a row, else a copy."""
    if isinstance(places, Tensor):
        return values.index_select(dim, places)
    return values.narrow(dim, places.start, len(places))


def put(values: Tensor, dim: int, places: Places, found: Tensor) -> None:
    """Write what `at` gave, once it has changed, back to where it came from."""
    if isinstance(places, Tensor):
        values.index_copy_(dim, places, found)
