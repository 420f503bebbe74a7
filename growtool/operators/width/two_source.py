"""`two_source`: two checkpoints on the diagonal of a net twice as wide (MixtureGrowth, arXiv 2311.04251, section 3.3).

`W' = [[W_a, 0], [0, W_b]]`: the halves of every width compute what the two sources a and b compute. The classifier is
`[W_a, W_b] / 2` with the bias `(b_a + b_b) / 2`, so that the logits are the mean of theirs; the reference
implementation adds them. With `gain` combinations of both sources' weights stand in place of the zeros. No diagonal
block can make up for these, as the two halves carry different channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, tiled
from growtool.algebra.layers import copy_positions, split_evenly
from growtool.algebra.places import along
from growtool.operators.base import Abilities, Layer, rows_of
from growtool.plan.width import TwoSource

ABILITIES = Abilities(every_tensor=True)


def expand(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return two copies, one for each source.

    Raises:
        ValueError: `new_size` is not twice `size`.
    """
    if new_size != 2 * size:
        raise ValueError(f"{new_size} is not twice {size}")
    return tiled(size, new_size)


def grow(spec: TwoSource, W: Tensor, layer: Layer) -> Tensor:
    """Return the rows of each source in its half; a layer whose rows do not grow takes half of each source."""
    assert layer.second is not None, "the recipe hands the second source over"
    other = layer.second()
    rows, columns = rows_of(layer.maps), next((d for d, axis in enumerate(layer.maps) if axis.consumes), None)
    if rows is None:
        # W / 2 in each half of the columns, or W itself if the columns do not grow either
        mine, theirs = (split_evenly(source, layer.maps) for source in (W, other))
        if columns is None or layer.maps[columns].is_identity:
            return (mine + theirs) / 2
        return torch.where(_half(layer, columns, W.ndim) == 1, theirs, mine)
    mine, theirs = (copy_positions(source, layer.maps) for source in (W, other))
    grown = torch.where(_half(layer, rows, W.ndim) == 1, theirs, mine)
    if columns is None or layer.maps[columns].is_identity:
        return grown
    across = _half(layer, rows, W.ndim) != _half(layer, columns, W.ndim)
    return torch.where(across, _between(spec, mine, theirs, layer), grown)


def _half(layer: Layer, dim: int, ndim: int) -> Tensor:
    """Return 0 or 1 along a dimension, for positions of the first and the second source, broadcast to the others."""
    return along(layer.maps[dim].replica, dim, ndim)


def _between(spec: TwoSource, mine: Tensor, theirs: Tensor, layer: Layer) -> Tensor:
    """Return a random combination of both sources' weights, `gain` times as large (Frobenius norm) as the first's."""
    if not spec.gain:
        return torch.zeros_like(mine)
    a, b = torch.randn(2, generator=layer.generator(), dtype=torch.float64).tolist()
    mixed: Tensor = a * mine + b * theirs
    size = float(torch.linalg.vector_norm(mixed))
    return mixed * (spec.gain * float(torch.linalg.vector_norm(mine)) / size) if size > 0 else mixed
