"""Making two axes equal: unification as in Hindley-Milner type inference, with sizes that multiply and add up."""

from __future__ import annotations

from growtool.trace.axes import (
    ONE,
    Axis,
    ChannelGroup,
    Factor,
    Segment,
    Unsolvable,
    axis_size,
    bind,
    cut,
    factor_size,
    fix,
    fixed_reason,
    lone_group,
    resolve,
    segment_size,
)


def unify(left: Axis, right: Axis) -> None:
    """Declare that two axes carry the same channels in the same order.

    If their layouts have no common refinement, every channel of both becomes fixed: fewer channels can grow then, but
    none grows wrongly.
    """
    try:
        _unify(left, right)
    except (Unsolvable, RecursionError) as error:
        reason = f"layouts that do not fit together ({error})"
        fix(left, reason)
        fix(right, reason)


def _unify(left: Axis, right: Axis) -> None:
    left, right = resolve(left), resolve(right)
    if left == right:
        return None
    if axis_size(left) != axis_size(right):
        raise Unsolvable(f"{axis_size(left)} against {axis_size(right)}")
    fixed_left, fixed_right = fixed_reason(left), fixed_reason(right)
    if fixed_left or fixed_right:
        # positions that never change stay equal without a common layout
        if fixed_left:
            fix(right, fixed_left)
        if fixed_right:
            fix(left, fixed_right)
        return None
    for lone, other in ((left, right), (right, left)):
        group = lone_group(lone)
        if group is not None:
            return bind(group, other)
    if len(left) == 1 and len(right) == 1:
        return _unify_segments(left[0], right[0])
    shortest = min(segment_size(left[0]), segment_size(right[0]))
    (first_left, rest_left), (first_right, rest_right) = cut(left, shortest), cut(right, shortest)
    _unify(first_left, first_right)
    if rest_left:
        _unify(rest_left, rest_right)
    return None


def _unify_segments(left: Segment, right: Segment) -> None:
    inner = _common_inner(left, right)
    outer_left, inner_left = factor_out((left,), inner)
    outer_right, inner_right = factor_out((right,), inner)
    _unify(inner_left, inner_right)
    _unify(outer_left, outer_right)


def _common_inner(left: Segment, right: Segment) -> int:
    """Return the size of an inner part that both segments, equal in size, can be split at."""
    innermost = factor_size(left[-1]), factor_size(right[-1])
    if max(innermost) % min(innermost) == 0:
        return min(innermost)
    outermost = factor_size(left[0]), factor_size(right[0])
    if max(outermost) % min(outermost) == 0:
        return segment_size(left) // max(outermost)
    raise Unsolvable(f"{segment_size(left)} split in two ways")


def factor_out(axis: Axis, inner: int) -> tuple[Axis, Axis]:
    """Split an axis of n positions into a row-major product of n / inner times `inner`; groups are refined if need be.

    Returns:
        The outer and the inner axis. A packed qkv axis `((H, D), (H, D), (H, D))`, split at the size of D, has the
        outer axis `((H,), (H,), (H,))` and the inner axis `((D,),)`.

    Raises:
        Unsolvable: the layout has no such factor.
    """
    axis = resolve(axis)
    size = axis_size(axis)
    if size % inner:
        raise Unsolvable(f"{size} is not a multiple of {inner}")
    if inner == 1:
        return axis, ONE
    if inner == size:
        return ONE, axis
    if len(axis) == 1:
        return _factor_out_segment(axis[0], inner)
    outer_axis: Axis = ()
    inner_axis: Axis | None = None
    rest = axis
    while rest:
        if segment_size(rest[0]) % inner == 0:
            outside, inside = factor_out(rest[:1], inner)
            rest = rest[1:]
        else:
            inside, rest = cut(rest, inner)
            outside = ONE
        outer_axis += outside
        # the product is one only if every outer position has the same inner channels
        if inner_axis is None:
            inner_axis = inside
        else:
            unify(inner_axis, inside)
    assert inner_axis is not None
    return resolve(outer_axis), resolve(inner_axis)


def _factor_out_segment(segment: Segment, inner: int) -> tuple[Axis, Axis]:
    taken: Segment = ()
    index, missing = len(segment), inner
    while missing > 1:
        index -= 1
        factor = segment[index]
        size = factor_size(factor)
        if missing % size == 0:
            taken = (factor, *taken)
            missing //= size
        elif size % missing == 0:
            outside, inside = _split_factor(factor, missing)
            return resolve(((*segment[:index], outside),)), resolve(((inside, *taken),))
        else:
            raise Unsolvable(f"{inner} does not divide {segment_size(segment)} along its factors")
    return resolve((segment[:index],)), resolve((taken,))


def _split_factor(factor: Factor, inner: int) -> tuple[Axis, Axis]:
    if not isinstance(factor, ChannelGroup):
        return factor_out(factor, inner)
    outside = ChannelGroup(factor.size // inner, factor.fixed, factor.owners)
    inside = ChannelGroup(inner, factor.fixed, factor.owners)
    bind(factor, ((outside, inside),))
    return ((outside,),), ((inside,),)
