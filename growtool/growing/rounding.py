"""Rounding to a coarser type, so that what copies share still adds up to the old weight.

A weight w of bfloat16 that two copies share as a and b = w - a loses digits if each is rounded alone. Where the larger
one is rounded first, the smaller one needs no more digits than w has (Sterbenz' lemma for b >= w / 2, in general while
a is at most twice as large as w), and the sum is w again. Where there is more to hold, one rounding is left in place
of one for each copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.places import at, put

_PIECE = 2**22  # numbers worked on at a time


def rounded_together(W: Tensor, maps: Sequence[AxisMap], dtype: torch.dtype) -> Tensor:
    """The grown tensor with numbers of `dtype`, of which the smallest in each sum makes up for the others' rounding.

    Args:
        W: the tensor in the type it was worked on; changed in place.
        maps: one per dimension.
        dtype: that of the file.
    """
    if torch.finfo(dtype).eps <= torch.finfo(W.dtype).eps:
        return W
    split = [dim for dim, axis in enumerate(maps) if len(axis.turns) > 1]
    if len(split) != 1:
        return W
    (dim,) = split
    along = 1 if dim == 0 else 0
    size = W.shape[along] if W.ndim > 1 else 1
    count = max(1, _PIECE * size // max(W.numel(), 1))
    for piece in W.split(count, along) if W.ndim > 1 else [W]:
        _round(piece.movedim(dim, 0), maps[dim], dtype)
    return W


def _round(W: Tensor, axis: AxisMap, dtype: torch.dtype) -> None:
    """Round along the first dimension; numbers that the type cannot hold are left to whoever writes them."""
    held = W.to(dtype).to(W.dtype)
    if not bool(held.isfinite().all()):
        return
    left = W.new_zeros((axis.slots, *W.shape[1:]))
    smallest, turn_of = torch.full_like(left, torch.inf), torch.zeros_like(left, dtype=torch.int16)
    for turn, (positions, slots) in enumerate(axis.turns):
        there = at(held, 0, positions)
        size, before = there.abs(), at(smallest, 0, slots)
        smaller = size < before
        put(left, 0, slots, at(left, 0, slots).add_(at(W, 0, positions)).sub_(there))
        put(turn_of, 0, slots, at(turn_of, 0, slots).masked_fill_(smaller, turn))
        put(smallest, 0, slots, torch.minimum(before, size, out=before))
    for turn, (positions, slots) in enumerate(axis.turns):
        mine = at(turn_of, 0, slots) == turn
        put(held, 0, positions, at(held, 0, positions).add_(at(left, 0, slots) * mine))
    W.copy_(held.to(dtype))
