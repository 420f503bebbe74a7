"""A symbolic tensor axis: which channels it carries, and in what layout.

An `Axis` is a concatenation of segments; a `Segment` is a row-major product of factors; a factor is a `ChannelGroup`
(a set of channels that grows as one) or a nested axis. So a packed qkv axis of three heads times sixteen channels is
`((H, D), (H, D), (H, D))`, and the input of a dense block is `((a,), (b,), (c,))`. Identity is structural: two axes of
equal size have nothing to do with each other until an operation of the model says so.

Channel groups are union-find roots: binding a channel group to an axis replaces it everywhere at the next `resolve`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Owner: TypeAlias = tuple[str, int]  # (parameter name, dimension)

_serial = itertools.count()


class Unsolvable(Exception):
    """Two layouts have no common refinement; the axes involved become fixed."""


class ChannelGroup:
    """Channels that grow as one.

    Attributes:
        size: how many.
        owners: the parameter dimensions this channel group was created for; tells rows from columns at a contraction.
        fixed: why these channels must keep their number and order, or None where they may grow.
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

# Reasons to be fixed that are asked for elsewhere.
KERNEL_POSITION, SPATIAL_POSITION, LOOKED_UP = "a kernel position", "a spatial position", "indexing"
MODEL_OUTPUT = "the model's output"

ONE: Axis = ((),)  # an axis of size 1


def new_axis(size: int, fixed: str | None = None, owners: frozenset[Owner] = frozenset()) -> Axis:
    """An axis of one fresh channel group (no channel group at all for size 1)."""
    return ONE if size == 1 else ((ChannelGroup(size, fixed, owners),),)


def factor_size(factor: Factor) -> int:
    """Number of positions of one factor."""
    return factor.size if isinstance(factor, ChannelGroup) else axis_size(factor)


def segment_size(segment: Segment) -> int:
    """Number of positions of one segment."""
    return math.prod(map(factor_size, segment))


def axis_size(axis: Axis) -> int:
    """Number of positions of the axis."""
    return sum(map(segment_size, axis))


def resolve(axis: Axis) -> Axis:
    """The axis with every binding followed, nested products flattened and leading concatenations spread out."""
    try:
        return tuple(segment for old in axis for segment in _resolve_segment(old))
    except RecursionError:  # hundreds of positions, each cut off the rest
        _shorten(axis)
        return tuple(segment for old in axis for segment in _resolve_segment(old))


def _shorten(axis: Axis) -> None:
    """Resolve what an axis is bound to from the innermost outwards."""
    found: dict[ChannelGroup, None] = {}
    waiting = list(leaves(axis))
    while waiting:
        root = _root(waiting.pop())
        if root.term is not None and root not in found:
            found[root] = None
            waiting += leaves(root.term)
    for group in reversed(found):
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
        # (a + b) * c in row-major order is a*c followed by b*c
        head, rest = factors[0], tuple(factors[1:])
        return head if not rest else tuple(s for part in head for s in _resolve_segment(part + rest))
    return (tuple(factors),)


def _root(group: ChannelGroup) -> ChannelGroup:
    """The last of a chain of groups bound one to the next; the chain is made short, as deep models bind thousands."""
    chain = []
    while (
        group.term is not None
        and len(group.term) == 1
        and len(group.term[0]) == 1
        and isinstance(group.term[0][0], ChannelGroup)
    ):
        chain.append(group)
        group = group.term[0][0]
    for passed in chain:
        passed.term = ((group,),)
    return group


def groups_on(axis: Axis) -> Iterator[ChannelGroup]:
    """The free and fixed channel groups of a resolved or unresolved axis, bindings followed, in order, with repeats."""
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
    """The channel groups the axis was built from, bindings not followed."""
    for segment in axis:
        for factor in segment:
            if isinstance(factor, ChannelGroup):
                yield factor
            else:
                yield from leaves(factor)


def owners(axis: Axis) -> Iterator[tuple[ChannelGroup, Owner]]:
    """The leaves of the axis with the parameter dimensions they were created for."""
    return ((group, owner) for group in leaves(axis) for owner in group.owners)


def positions(axis: Axis, order: Mapping[ChannelGroup, Tensor]) -> Tensor:
    """The position along the axis that each new one is taken from when channels are put into another order.

    Args:
        axis: resolved; segments one after the other, each a row-major product.
        order: channel group -> int64 [its size], the channel at each new place; channel groups that are absent keep
            theirs.

    Returns:
        int64 [axis_size(axis)].
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


def is_fixed(axis: Axis) -> str | None:
    """The reason why no channel of the axis may change, None if one may (or there is none)."""
    reasons = [group.fixed for group in groups_on(axis)]
    return reasons[0] if reasons and all(reasons) else None


def fix(axis: Axis, reason: str) -> None:
    """Forbid the channels of the axis to change; the first reason given stays."""
    for group in groups_on(axis):
        group.fixed = group.fixed or reason


def bind(group: ChannelGroup, axis: Axis) -> None:
    """Declare that `group` stands for `axis`, of the same size.

    Raises:
        Unsolvable: the axis contains the channel group.
    """
    assert group.term is None and axis_size(axis) == group.size, (group, axis)
    if any(a is group for a in groups_on(axis)):
        raise Unsolvable("an axis within itself")
    if group.fixed:
        fix(axis, group.fixed)
    group.term = axis


def cut(axis: Axis, at: int) -> tuple[Axis, Axis]:
    """Split into the first `at` positions and the rest; refines channel groups that the cut falls into."""
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
    head, rest = segment[0], segment[1:]
    assert isinstance(head, ChannelGroup) and head.term is None, segment
    whole, remainder = divmod(at, segment_size(rest))
    sizes = [whole, head.size - whole] if remainder == 0 else [whole, 1, head.size - whole - 1]
    parts = [new_axis(n, head.fixed, head.owners) if n else () for n in sizes]
    if sum(map(bool, parts)) > 1:
        bind(head, tuple(s for part in parts for s in part))
    else:
        parts = [((head,),) if part else () for part in parts]
    pieces = [resolve(tuple(s + rest for s in part)) for part in parts]
    if remainder == 0:
        return pieces[0], pieces[1]
    left, right = cut((rest,), remainder)
    return pieces[0] + left, right + pieces[2]
