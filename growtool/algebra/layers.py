"""The one place where grown weights are computed.

A layer with weight W between axes `in` and `out` computes the same function after growth if and only if
`W' E_in = E_out W`. Every solution has the form

    W' = Z + (E_out W - Z E_in) R_in

for a draft Z and a left inverse R_in of E_in: whatever the draft, the correction makes it exact. Z = 0 is the plain
split of Net2Net, a random Z is LEMON's projection, a grid of template mixtures is the compensated MixtureGrowth.

Axes: O/o rows before/after, I/i columns before/after; trailing kernel axes ride along. `B` = slots (`AxisMap.slot`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.places import at, put

AT_ONCE = 1 << 18  # numbers computed together


def copy_positions(W: Tensor, maps: Sequence[AxisMap], *, but: int | None = None) -> Tensor:
    """`E W E^T`: copy positions along every dimension, without any split; zeros at blank ones.

    Args:
        W: the source tensor, one map per dimension.
        maps: how each dimension grows.
        but: a dimension to leave as it is.
    """
    for dim, axis in enumerate(maps):
        if dim != but and not axis.is_identity:
            W = W.index_select(dim, axis.index)
            if axis.blank is not None:
                W.index_fill_(dim, torch.nonzero(axis.blank).flatten(), 0)
    return W


def split_evenly(W: Tensor, maps: Sequence[AxisMap]) -> Tensor:
    """`E_out W R_in` with the equal split R = E^+: each of c copies of a channel that is summed over gets 1/c."""
    grown = copy_positions(W, maps)
    for dim, axis in enumerate(maps):
        if axis.consumes and not axis.is_identity:
            # copies were made above, so the product may take their place
            grown.mul_(axis.share.to(grown.dtype).reshape(-1, *[1] * (grown.ndim - dim - 1)))
    return grown


def grow_gradient(G: Tensor, maps: Sequence[AxisMap], *, power: int = 1) -> Tensor:
    """`R_out^T G E_in^T`: the gradient of a grown weight, given that of the weight before.

    Where channels are copied and split evenly, each of c copies of a channel that is written receives 1/c of what the
    channel received, and each copy that is read has the channel's own values. Momentum, a mean of gradients, grows so;
    so do second moments, elementwise squares, with the squares of the factors.

    Args:
        G: of the source tensor's shape.
        maps: how each dimension of the tensor grows.
        power: 1 for gradients, 2 for means of their squares.

    Returns:
        Of the target's shape; zeros at blank positions.
    """
    grown = copy_positions(G, maps)
    for dim, axis in enumerate(maps):
        if not axis.is_identity:
            part = (1.0 / (axis.copies * axis.share)) ** power
            if axis.blank is not None:
                part = part.masked_fill(axis.blank, 0.0)
            grown = grown * part.to(grown.dtype).reshape(-1, *[1] * (grown.ndim - dim - 1))
    return grown


def summed_dim(maps: Sequence[AxisMap]) -> int | None:
    """The one dimension a sum runs over and that grows; None if there is none or more than one."""
    dims = [dim for dim, axis in enumerate(maps) if axis.consumes and not axis.is_identity]
    return dims[0] if len(dims) == 1 else None


def complete(draft: Tensor, W: Tensor, maps: Sequence[AxisMap], share: Tensor | None = None) -> Tensor:
    """Correct a draft so that the layer computes what it computed before: `Z + (E_out W - Z E_in) R_in`.

    Blank columns keep what the draft holds there; blank rows come out with copies that cancel.

    Args:
        draft: Z, of the target's shape; overwritten.
        W: the source weight.
        maps: how each dimension grows; exactly one of them is summed over and grows.
        share: R_in as float64 [i], summing to 1 over each slot; None is the equal split.

    Returns:
        W', of the target's shape.

    Raises:
        ValueError: no single summed dimension grows, so there is nothing to choose.
    """
    dim = summed_dim(maps)
    if dim is None:
        raise ValueError("no single summed dimension grows")
    part = maps[dim].share if share is None else share
    weight = part.to(draft.dtype).reshape(-1, *[1] * (draft.ndim - dim - 1))
    if draft.ndim == 1:
        _correct(draft, W, maps, dim, weight)
        return draft
    across = 1 if dim == 0 else 0
    for positions in in_runs(torch.arange(draft.shape[across]), draft.select(across, 0)):
        part_maps = [*maps[:across], maps[across].part(positions), *maps[across + 1 :]]
        _correct(draft.narrow(across, int(positions[0]), len(positions)), W, part_maps, dim, weight)
    return draft


def deviation(W: Tensor) -> float:
    """Standard deviation of the numbers of a tensor, `AT_ONCE` or fewer at a time."""
    mean, squares = W.mean(), 0.0
    for part in W.flatten().split(AT_ONCE // 4):
        apart = part - mean
        squares += float(apart.dot(apart))
    return math.sqrt(squares / max(W.numel(), 1))


def in_runs(positions: Tensor, across: Tensor) -> Sequence[Tensor]:
    """Positions along a dimension, so few at a time that what is computed for them takes little memory.

    Args:
        positions: int64.
        across: what stands at one of them.
    """
    return positions.split(max(1, AT_ONCE // max(1, across.numel()))) if len(positions) else ()


def _correct(draft: Tensor, W: Tensor, maps: Sequence[AxisMap], dim: int, weight: Tensor) -> None:
    """`complete` in place, summed over `dim`, the share given in the draft's type."""
    axis = maps[dim]
    gap = copy_positions(W, maps, but=dim).index_select(dim, axis.slot_source)  # [o, B, ...]
    for positions, slots in axis.turns:
        put(gap, dim, slots, at(gap, dim, slots).sub_(at(draft, dim, positions)))
    for positions, slots in axis.turns:
        added = at(gap, dim, slots), at(weight, 0, positions)
        put(draft, dim, positions, at(draft, dim, positions).addcmul_(*added))


def home_share(columns: AxisMap, home: int, homes: int) -> Tensor:
    """R_in for one row block of a grid: it is corrected in its home column blocks alone, equally where it has several.

    A grid has one row block per copy of the rows and one column block per copy of the columns. With `homes` the
    smaller of the two numbers, column block j is home to the row blocks i with i = j modulo `homes`: the diagonal of a
    square grid.

    Returns:
        float64 [i], summing to 1 over each slot.
    """
    at_home = (columns.replica % homes == home).double()
    per_slot = torch.zeros(columns.slots, dtype=torch.float64).index_add_(0, columns.slot, at_home)[columns.slot]
    # a channel with fewer copies than others may have none in the home blocks: it is split evenly
    return torch.where(per_slot > 0, at_home / per_slot.clamp(min=1.0), columns.share)
