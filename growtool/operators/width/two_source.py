"""`two_source`: two checkpoints on the diagonal of a net twice as wide (MixtureGrowth, arXiv 2311.04251, section 3.3).

The halves of every width compute what the two sources compute; the classifier reads half of each, so that the logits
are the mean of theirs. (The reference adds them.) Between the halves stand zeros, or with `gain` combinations of both
sources' weights, which no diagonal can make up for: the two halves carry different channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, tiled
from growtool.algebra.layers import copy_positions, split_evenly
from growtool.operators.base import Abilities, Layer, Read, rows_of
from growtool.plan.width import TwoSource

ABILITIES = Abilities(every_tensor=True)


def expand(spec: TwoSource, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """`[a, b]`. Raises ValueError where `new_size` is not twice `size`."""
    if new_size != 2 * size:
        raise ValueError(f"{new_size} is not twice {size}")
    return tiled(size, new_size)


def grow(spec: TwoSource, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """Rows of each source in its half; a layer that writes no half takes half of each source."""
    assert layer.second is not None, "the recipe hands the second source over"
    other = layer.second()
    rows, columns = rows_of(layer.maps), next((d for d, axis in enumerate(layer.maps) if axis.consumes), None)
    if rows is None:
        mean = split_evenly(W, layer.maps)  # half of W for each half of the columns, or W itself
        second = split_evenly(other, layer.maps)
        if columns is None or layer.maps[columns].is_identity:
            return (mean + second) / 2
        return torch.where(_half(layer, columns, W.ndim) == 1, second, mean)
    mine, theirs = (copy_positions(source, layer.maps) for source in (W, other))
    grown = torch.where(_half(layer, rows, W.ndim) == 1, theirs, mine)
    if columns is None or layer.maps[columns].is_identity:
        return grown
    across = _half(layer, rows, W.ndim) != _half(layer, columns, W.ndim)
    return torch.where(across, _between(spec, mine, theirs, layer), grown)


def _half(layer: Layer, dim: int, ndim: int) -> Tensor:
    """0 or 1 along a dimension, for the first and the second source."""
    return layer.maps[dim].replica.reshape(-1, *[1] * (ndim - dim - 1))


def _between(spec: TwoSource, mine: Tensor, theirs: Tensor, layer: Layer) -> Tensor:
    """Random combinations of both sources' weights, of `gain` times the size of the first's."""
    if not spec.gain:
        return torch.zeros_like(mine)
    a, b = torch.randn(2, generator=layer.generator(), dtype=torch.float64).tolist()
    mixed: Tensor = a * mine + b * theirs
    size = float(torch.linalg.vector_norm(mixed))
    return mixed * (spec.gain * float(torch.linalg.vector_norm(mine)) / size) if size > 0 else mixed


def loss(spec: TwoSource) -> str | None:
    """Why the operator itself changes the function, or None."""
    return "a gain mixes the two sources" if spec.gain else None
