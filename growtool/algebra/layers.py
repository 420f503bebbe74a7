"""The one place where grown weights are computed.

A layer with weight W [O, I] between axes `in` and `out` computes the same function after growth if and only if
`W' E_in = E_out W`. Every solution W' [o, i] has the form

    W' = Z + (E_out W - Z E_in) R_in

for a draft Z and a left inverse R_in of E_in: since R_in E_in = I, the correction makes any draft exact. Z = 0 is the
plain split of Net2Net, a random Z is LEMON's projection, a grid of template mixtures is the compensated MixtureGrowth.

Axes: O/o rows before/after, I/i columns before/after, B slots of columns (`AxisMap.slot`); trailing kernel axes are
carried along unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.places import along, at, put

AT_ONCE = 1 << 18  # numbers computed together, so that they stay in the processor's cache


def copy_positions(W: Tensor, maps: Sequence[AxisMap], *, but: int | None = None) -> Tensor:
    """Return `E W E^T`: copies of positions along every dimension, without any split; zeros at blank positions.

    Args:
        W: the source tensor.
        maps: how each dimension grows.
        but: a dimension to leave as it is.
    """
    for dim, axis in enumerate(maps):
        if dim != but and not axis.is_identity:
            W = W.index_select(dim, axis.index)
            if axis.has_blanks:
                W.index_fill_(dim, torch.nonzero(axis.blank).flatten(), 0)
    return W


def split_evenly(W: Tensor, maps: Sequence[AxisMap]) -> Tensor:
    """Return `E_out W R_in` with the equal split R = E^+: each of c copies of a channel that is read gets 1/c."""
    grown = copy_positions(W, maps)
    for dim, axis in enumerate(maps):
        if axis.consumes and not axis.is_identity:
            # copies were made above, so the product may take their place
            grown.mul_(along(axis.share.to(grown.dtype), dim, grown.ndim))
    return grown


def grow_gradient(G: Tensor, maps: Sequence[AxisMap], *, power: int = 1) -> Tensor:
    """Return `R_out^T G E_in^T`: the gradient of a grown weight, given that of the weight before.

    The gradient is (dL/dy) x^T. Where channels are copied and split evenly, each of c copies of a channel of y receives
    1/c of the channel's dL/dy, as its readers are split, and each copy of a channel of x has the channel's own values.
    Momentum, a mean of gradients, grows by the same formula; second moments, means of squares, by the squared factors.

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
            # 1/c for rows, with share 1; 1 for columns, with 1/c
            factor = ((1.0 / (axis.copies * axis.share)) ** power).masked_fill(axis.blank, 0.0)
            grown = grown * along(factor.to(grown.dtype), dim, grown.ndim)
    return grown


def summed_dim(maps: Sequence[AxisMap]) -> int | None:
    """Return the one dimension that grows and that a sum runs over, or None if there is none or more than one."""
    dims = [dim for dim, axis in enumerate(maps) if axis.consumes and not axis.is_identity]
    return dims[0] if len(dims) == 1 else None


def complete(draft: Tensor, W: Tensor, maps: Sequence[AxisMap], share: Tensor | None = None) -> Tensor:
    """Correct a draft so that the layer computes what it computed before: `W' = Z + (E_out W - Z E_in) R_in`.

    Blank columns keep what the draft holds there, as no slot has a share for them. In blank rows, where E_out W is
    zero, the copies of each column come out with weights that cancel.

    Args:
        draft: Z [o, i, ...]; overwritten.
        W: the source weight [O, I, ...].
        maps: how each dimension grows; exactly one of them is summed over and grows.
        share: R_in as float64 [i], summing to 1 over each slot; None is the equal split.

    Returns:
        W' [o, i, ...].

    Raises:
        ValueError: no single summed dimension grows, so there is nothing to choose.
    """
    dim = summed_dim(maps)
    if dim is None:
        raise ValueError("no single summed dimension grows")
    R = maps[dim].share if share is None else share
    R = along(R.to(draft.dtype), dim, draft.ndim)
    if draft.ndim == 1:
        _correct(draft, W, maps, dim, R)
        return draft
    across = 1 if dim == 0 else 0
    for positions in in_runs(torch.arange(draft.shape[across]), draft.select(across, 0)):
        part_maps = [*maps[:across], maps[across].part(positions), *maps[across + 1 :]]
        _correct(draft.narrow(across, int(positions[0]), len(positions)), W, part_maps, dim, R)
    return draft


def deviation(W: Tensor) -> float:
    """Return the standard deviation of the numbers of a tensor, without a second tensor of its size."""
    mean, squares = W.mean(), 0.0
    for part in W.flatten().split(AT_ONCE // 4):
        apart = part - mean
        squares += float(apart.dot(apart))
    return math.sqrt(squares / max(W.numel(), 1))


def in_runs(positions: Tensor, across: Tensor) -> Sequence[Tensor]:
    """Split positions along a dimension into runs of about `AT_ONCE` numbers, so that a run takes little memory.

    Args:
        positions: int64.
        across: the numbers that stand at one position.
    """
    return positions.split(max(1, AT_ONCE // max(1, across.numel()))) if len(positions) else ()


def _correct(draft: Tensor, W: Tensor, maps: Sequence[AxisMap], dim: int, R: Tensor) -> None:
    """Complete a draft in place, summed over `dim`; R is the share in the draft's type, [i, 1, ...]."""
    axis = maps[dim]
    gap = copy_positions(W, maps, but=dim).index_select(dim, axis.slot_source)  # E_out W [o, B, ...]
    for positions, slots in axis.turns:
        put(gap, dim, slots, at(gap, dim, slots).sub_(at(draft, dim, positions)))  # - Z E_in
    for positions, slots in axis.turns:
        correction = at(gap, dim, slots), at(R, 0, positions)
        put(draft, dim, positions, at(draft, dim, positions).addcmul_(*correction))


def home_share(columns: AxisMap, home: int, homes: int) -> Tensor:
    """Return R_in for row blocks of a grid that are corrected in their home column blocks alone, equally if in several.

    A grid has one row block per copy of the rows and one column block per copy of the columns. With `homes` the
    smaller of the two numbers, column block j is home to the row blocks i with i = j modulo `homes`: the diagonal of a
    square grid.

    Args:
        columns: how the columns grow.
        home: the number of the row blocks modulo `homes`.
        homes: see above.

    Returns:
        float64 [i], summing to 1 over each slot.
    """
    at_home = (columns.replica % homes == home).double()
    per_slot = torch.zeros(columns.slots, dtype=torch.float64).index_add_(0, columns.slot, at_home)[columns.slot]
    # a channel with fewer copies than others may have none in the home blocks: that one is split evenly
    return torch.where(per_slot > 0, at_home / per_slot.clamp(min=1.0), columns.share)
