"""Rounding grown tensors to a coarser type, so that the shares of copies still add up to the old weight.

Two copies share a weight w of bfloat16 as a and b = w - a. If each share is rounded alone, their sum is not w. Here the
larger one is rounded first, and the smaller one makes up for its rounding: it needs no more digits than w has
(Sterbenz' lemma for b >= w / 2, in general while a is at most twice as large as w), so the sum is w again. Where there
are more digits to hold, one rounding is left instead of one for each copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.places import at, put

_PIECE = 2**22  # numbers of a tensor that are worked on at a time


def rounded_together(W: Tensor, maps: Sequence[AxisMap], dtype: torch.dtype) -> Tensor:
    """Round a grown tensor in place to numbers that `dtype` holds, and return it.

    In each sum over copies the smallest share makes up for the rounding of the others. The tensor stays as it is if
    `dtype` is no coarser than its type, or if the number of dimensions with several shares in a sum is not one.

    Args:
        W: the tensor in the type it was worked on.
        maps: how each dimension grew.
        dtype: the type of the file.
    """
    if torch.finfo(dtype).eps <= torch.finfo(W.dtype).eps:
        return W
    shared = [dim for dim, axis in enumerate(maps) if len(axis.turns) > 1]
    if len(shared) != 1:
        return W
    (dim,) = shared
    along = 1 if dim == 0 else 0
    size = W.shape[along] if W.ndim > 1 else 1
    count = max(1, _PIECE * size // max(W.numel(), 1))
    for piece in W.split(count, along) if W.ndim > 1 else [W]:
        _round(piece.movedim(dim, 0), maps[dim], dtype)
    return W


def _round(W: Tensor, axis: AxisMap, dtype: torch.dtype) -> None:
    """Round a tensor in place, whose first dimension has the copies; `axis` is its map."""
    rounded = W.to(dtype).to(W.dtype)
    if not bool(rounded.isfinite().all()):  # `in_type` tells of them when the tensor is written
        return
    rest = W.new_zeros((axis.slots, *W.shape[1:]))  # what rounding took from the sum of each slot
    smallest, turn_of_smallest = torch.full_like(rest, torch.inf), torch.zeros_like(rest, dtype=torch.int16)
    for turn, (positions, slots) in enumerate(axis.turns):
        share = at(rounded, 0, positions)
        size, before = share.abs(), at(smallest, 0, slots)
        is_smaller = size < before
        put(rest, 0, slots, at(rest, 0, slots).add_(at(W, 0, positions)).sub_(share))
        put(turn_of_smallest, 0, slots, at(turn_of_smallest, 0, slots).masked_fill_(is_smaller, turn))
        put(smallest, 0, slots, torch.minimum(before, size, out=before))
    for turn, (positions, slots) in enumerate(axis.turns):
        is_smallest = at(turn_of_smallest, 0, slots) == turn
        put(rounded, 0, positions, at(rounded, 0, positions).add_(at(rest, 0, slots) * is_smallest))
    W.copy_(rounded.to(dtype))
