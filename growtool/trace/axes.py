"""Symbolic tensor axes: which channels an axis carries, and in what layout.

An `Axis` is a concatenation of segments. A `Segment` is a row-major product of factors. A factor is a `ChannelGroup`
(a set of channels that grows as one) or a nested axis. With H heads of D channels each, a packed qkv axis is
`((H, D), (H, D), (H, D))`. The channels that a layer of a dense block reads are `((a,), (b,), (c,))`.

Two axes are the same only if they are made of the same channel groups: axes of equal size are unrelated until an
operation of the model makes them equal.

Channel groups are the nodes of a union-find forest. `bind` makes a group stand for an axis, and `resolve` puts that
axis in place of the group wherever it occurs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Owner: TypeAlias = tuple[str, int]  # (parameter name, dimension)

_serial = itertools.count()


class Unsolvable(Exception):
    """The layout of an axis cannot be followed any further; whoever catches this fixes the axes involved."""


class ChannelGroup:
    """Channels that grow as one.

    Attributes:
        size: number of channels.
        fixed: why these channels must keep their number and order; None if they may grow.
        owners: the parameter dimensions that the group was created for. Rows and columns of a square weight may become
            one group; the owners still tell which of the two a contraction sums over.
        term: the axis that the group stands for since it was bound; None for a root of the forest.
        serial: a number of its own, for printing.
    """

    __slots__ = ("fixed", "owners", "serial", "size", "term")

    def __init__(self, size: int, fixed: str | None = None, owners: frozenset[Owner] = frozenset()) -> None:
        self.size = int(size)
        self.fixed = fixed
        self.owners = owners
        self.term: Axis | None = None
        self.serial = next(_serial)

    def __repr__(self) -> str:
        return f"{'#' if self.fixed else 'v'}{self.serial}:{self.size}"


Factor: TypeAlias = "ChannelGroup | Axis"
Segment: TypeAlias = "tuple[Factor, ...]"
Axis: TypeAlias = "tuple[Segment, ...]"

# Reasons to be fixed that are compared or given in several places.
KERNEL_POSITION, SPATIAL_POSITION, LOOKED_UP = "a kernel position", "a spatial position", "indexing"
MODEL_OUTPUT = "the model's output"
VARYING = "constant values that differ along it"

ONE: Axis = ((),)  # an axis of size 1


def new_axis(size: int, fixed: str | None = None, owners: frozenset[Owner] = frozenset()) -> Axis:
    """Return an axis of one new channel group; for size 1, an axis without any channel group."""
    return ONE if size == 1 else ((ChannelGroup(size, fixed, owners),),)


def new_axes(sizes: Iterable[int], fixed: str | None = None) -> tuple[Axis, ...]:
    """Return a new axis of each of these sizes."""
    return tuple(new_axis(size, fixed) for size in sizes)


def factor_size(factor: Factor) -> int:
    """Return the number of positions of a factor."""
    return factor.size if isinstance(factor, ChannelGroup) else axis_size(factor)


def segment_size(segment: Segment) -> int:
    """Return the number of positions of a segment."""
    return math.prod(map(factor_size, segment))


def axis_size(axis: Axis) -> int:
    """Return the number of positions of an axis."""
    return sum(map(segment_size, axis))


def resolve(axis: Axis) -> Axis:
    """Return the axis in normal form: bindings followed, nested products flattened, leading concatenations spread out.

    Axes with equal normal forms carry the same channels in the same layout.
    """
    try:
        return tuple(part for segment in axis for part in _resolve_segment(segment))
    except RecursionError:
        # Overlapping windows cut an axis position by position, and each rest is bound inside the one before: hundreds
        # of terms, one within the next.
        _resolve_terms(axis)
        return tuple(part for segment in axis for part in _resolve_segment(segment))


def _resolve_terms(axis: Axis) -> None:
    """Resolve the terms that an axis leads to, the innermost first, so that none has a deep one inside."""
    bound: dict[ChannelGroup, None] = {}  # an ordered set, outer groups before inner ones
    waiting = list(leaves(axis))
    while waiting:
        group = _root(waiting.pop())
        if group.term is not None and group not in bound:
            bound[group] = None
            waiting += leaves(group.term)
    for group in reversed(bound):
        assert group.term is not None
        group.term = resolve(group.term)


def _resolve_segment(segment: Segment) -> Axis:
    factors: list[Factor] = []
    for factor in segment:
        if isinstance(factor, ChannelGroup):
            if factor.size == 1:
                continue
            root = _root(factor)
            if root.term is None:
                factors.append(root)
                continue
            root.term = inner = resolve(root.term)
        else:
            inner = resolve(factor)
        factors.extend(inner[0] if len(inner) == 1 else (inner,))
    if factors and not isinstance(factors[0], ChannelGroup):
        # (a + b) * c in row-major order is a*c followed by b*c. This holds for the outermost factor alone: c * (a + b)
        # alternates between a and b, and stays nested.
        head, rest = factors[0], tuple(factors[1:])
        return head if not rest else tuple(s for part in head for s in _resolve_segment(part + rest))
    return (tuple(factors),)


def _root(group: ChannelGroup) -> ChannelGroup:
    """Return the last of a chain of groups, each bound to the next; it may itself be bound to a composite axis.

    The groups passed are bound to the last one directly (path compression), as deep models bind thousands in a chain.
    """
    chain = []
    while group.term is not None and (following := lone_group(group.term)) is not None:
        chain.append(group)
        group = following
    for passed in chain:
        passed.term = ((group,),)
    return group


def lone_group(axis: Axis) -> ChannelGroup | None:
    """Return the channel group that an axis is written as; None for an axis of several, or of none."""
    match axis:
        case ((ChannelGroup() as group,),):
            return group
    return None


def groups_on(axis: Axis) -> Iterator[ChannelGroup]:
    """Yield the channel groups of an axis, resolved or not, in order and with repeats; bindings are followed."""
    for segment in axis:
        for factor in segment:
            if not isinstance(factor, ChannelGroup):
                yield from groups_on(factor)
                continue
            root = _root(factor)
            if root.term is not None:
                yield from groups_on(root.term)
            elif root.size > 1:
                yield root


def leaves(axis: Axis) -> Iterator[ChannelGroup]:
    """Yield the channel groups that an axis was built from, without following bindings."""
    for segment in axis:
        for factor in segment:
            if isinstance(factor, ChannelGroup):
                yield factor
            else:
                yield from leaves(factor)


def positions(axis: Axis, order: Mapping[ChannelGroup, Tensor]) -> Tensor:
    """Return the permutation of an axis that reorders its channel groups, for `index_select`.

    Args:
        axis: resolved.
        order: channel group -> int64 [its size], the old channel at each new place; groups that are absent keep their
            order.

    Returns:
        int64 [axis_size(axis)], the old position at each new one.
    """
    parts, offset = [], 0
    for segment in axis:
        part = torch.zeros(1, dtype=torch.int64)
        for factor in segment:
            if isinstance(factor, ChannelGroup):
                inner = order[factor] if factor in order else torch.arange(factor.size)
            else:
                inner = positions(factor, order)
            part = (part[:, None] * len(inner) + inner[None, :]).reshape(-1)
        parts.append(part + offset)
        offset += len(part)
    return torch.cat(parts)


def fixed_reason(axis: Axis) -> str | None:
    """Return why no channel of the axis may change; None if some channel may, or if the axis has no channel group."""
    reasons = [group.fixed for group in groups_on(axis)]
    return reasons[0] if reasons and all(reasons) else None


def may_grow(axis: Axis) -> bool:
    """Return whether some channel of the axis may change its number."""
    return any(group.fixed is None for group in groups_on(axis))


def fix(axis: Axis, reason: str) -> None:
    """Forbid the channels of an axis to change; groups that are fixed already keep their first reason."""
    for group in groups_on(axis):
        group.fixed = group.fixed or reason


def bind(group: ChannelGroup, axis: Axis) -> None:
    """Make a root group stand for an axis of the same size.

    Raises:
        Unsolvable: the axis contains the group.
    """
    assert group.term is None and axis_size(axis) == group.size, (group, axis)
    if any(a is group for a in groups_on(axis)):
        raise Unsolvable("an axis within itself")
    if group.fixed:
        fix(axis, group.fixed)
    group.term = axis


def cut(axis: Axis, at: int) -> tuple[Axis, Axis]:
    """Split an axis into its first `at` positions and the rest; a channel group that the cut falls into is refined."""
    axis = resolve(axis)
    done = 0
    for i, segment in enumerate(axis):
        if done == at:
            return axis[:i], axis[i:]
        size = segment_size(segment)
        if done + size > at:
            left, right = _cut_segment(segment, at - done)
            return resolve(axis[:i] + left), resolve(right + axis[i + 1 :])
        done += size
    return axis, ()


def _cut_segment(segment: Segment, at: int) -> tuple[Axis, Axis]:
    """Split a resolved segment within: 0 < at < its size."""
    head, rest = segment[0], segment[1:]
    # resolve spreads leading concatenations out, so that the outermost factor is a group
    assert isinstance(head, ChannelGroup) and head.term is None, segment
    whole, remainder = divmod(at, segment_size(rest))
    # The first `whole` channels of the head lie in front of the cut. If it falls between two channels, the others lie
    # behind it; if it falls within one, that channel becomes a part of its own, and its `rest` is cut.
    sizes = [whole, head.size - whole] if remainder == 0 else [whole, 1, head.size - whole - 1]
    parts: list[Axis] = [new_axis(n, head.fixed, head.owners) if n else () for n in sizes]
    bind(head, tuple(part_segment for part in parts for part_segment in part))
    pieces = [resolve(tuple(part_segment + rest for part_segment in part)) for part in parts]
    if remainder == 0:
        return pieces[0], pieces[1]
    left, right = cut((rest,), remainder)
    return pieces[0] + left, right + pieces[2]
