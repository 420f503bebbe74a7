"""Positions along a dimension, as a range if they are consecutive: these are read as a view, without a copy."""

from __future__ import annotations

import torch
from torch import Tensor

Places = Tensor | range


def as_places(positions: Tensor) -> Places:
    """Return positions (int64) as a range if they are consecutive, else as they are."""
    first, count = (int(positions[0]), len(positions)) if len(positions) else (0, 0)
    consecutive = torch.equal(positions, torch.arange(first, first + count))
    return range(first, first + count) if consecutive else positions


def along(vector: Tensor, dim: int, ndim: int) -> Tensor:
    """Return a vector in the shape in which it runs along one dimension of a tensor of `ndim` dimensions."""
    return vector.reshape(-1, *[1] * (ndim - dim - 1))


def at(values: Tensor, dim: int, places: Places) -> Tensor:
    """Return the values at some places of a dimension: a view if these are a range, else a copy."""
    if isinstance(places, Tensor):
        return values.index_select(dim, places)
    return values.narrow(dim, places.start, len(places))


def put(values: Tensor, dim: int, places: Places, changed: Tensor) -> None:
    """Write back what `at` returned, changed in place since; a view has changed the values already."""
    if isinstance(places, Tensor):
        values.index_copy_(dim, places, changed)
