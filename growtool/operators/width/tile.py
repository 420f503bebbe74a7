"""`tile`: whole copies of all channels (HyperCloning, arXiv 2409.12903; FPI, arXiv 2110.07143)."""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.expansion import Expansion, tiled
from growtool.operators.base import Abilities, Layer, Read, split_coefficients
from growtool.operators.copies import grow_copies, loss_of_copies
from growtool.plan.width import Tile

ABILITIES = Abilities(in_span=lambda section: section.split == "equal")
loss = loss_of_copies


def expand(spec: Tile, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return whole copies `[h, h, ...]`.

    Raises:
        ValueError: `new_size` is not a multiple of `size`.
    """
    return tiled(size, new_size)


def grow(spec: Tile, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """Return W shared among the copies as `spec` says."""
    return grow_copies(spec, W, layer)


def grow_coefficients(spec: Tile, W: Tensor, layer: Layer, rows: AxisMap, columns: AxisMap) -> Tensor:
    """Return the coefficients of the grown weight, for a weight in template form, float64 [k_out, k_in, T]."""
    return split_coefficients(layer, rows, columns)
