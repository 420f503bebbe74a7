"""Making two axes equal: unification with arithmetic, in the manner of Hindley-Milner."""

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
    is_fixed,
    resolve,
    segment_size,
)


def unify(left: Axis, right: Axis) -> None:
    """Declare that two axes of equal size carry the same channels in the same order.

    Where their layouts have no common refinement, every channel of both becomes fixed: coverage is lost, never truth.
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
    fixed_left, fixed_right = is_fixed(left), is_fixed(right)
    if fixed_left or fixed_right:
        if fixed_left:
            fix(right, fixed_left)
        if fixed_right:
            fix(left, fixed_right)
        return None
    for lone, other in ((left, right), (right, left)):
        if len(lone) == 1 and len(lone[0]) == 1 and isinstance(lone[0][0], ChannelGroup):
            return bind(lone[0][0], other)
    if len(left) == 1 and len(right) == 1:
        return _unify_segments(left[0], right[0])
    first = min(segment_size(left[0]), segment_size(right[0]))
    (a, rest_a), (b, rest_b) = cut(left, first), cut(right, first)
    _unify(a, b)
    if rest_a:
        _unify(rest_a, rest_b)
    return None


def _unify_segments(left: Segment, right: Segment) -> None:
    inner = _common_inner(left, right)
    (outer_a, inner_a), (outer_b, inner_b) = factor_out((left,), inner), factor_out((right,), inner)
    _unify(inner_a, inner_b)
    _unify(outer_a, outer_b)


def _common_inner(left: Segment, right: Segment) -> int:
    a, b = factor_size(left[-1]), factor_size(right[-1])
    if a % b == 0 or b % a == 0:
        return min(a, b)
    a, b = factor_size(left[0]), factor_size(right[0])
    if a % b == 0 or b % a == 0:
        return segment_size(left) // max(a, b)
    raise Unsolvable(f"{segment_size(left)} split in two ways")


def factor_out(axis: Axis, inner: int) -> tuple[Axis, Axis]:
    """Split an axis of size n into (n / inner, inner), row-major; refines channel groups by divisibility.

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
    outer: Axis = ()
    common: Axis | None = None
    rest = axis
    while rest:
        if segment_size(rest[0]) % inner == 0:
            part, inside = factor_out(rest[:1], inner)
            rest = rest[1:]
        else:
            inside, rest = cut(rest, inner)
            part = ONE
        outer += part
        if common is None:
            common = inside
        else:
            unify(common, inside)
    assert common is not None
    return resolve(outer), resolve(common)


def _factor_out_segment(segment: Segment, inner: int) -> tuple[Axis, Axis]:
    kept: Segment = ()
    index, missing = len(segment), inner
    while missing > 1:
        index -= 1
        factor = segment[index]
        size = factor_size(factor)
        if missing % size == 0:
            kept = (factor, *kept)
            missing //= size
        elif size % missing == 0:
            outside, inside = _split_factor(factor, missing)
            return resolve(((*segment[:index], outside),)), resolve(((inside, *kept),))
        else:
            raise Unsolvable(f"{inner} does not divide {segment_size(segment)} along its factors")
    return resolve((segment[:index],)), resolve((kept,))


def _split_factor(factor: Factor, inner: int) -> tuple[Axis, Axis]:
    if not isinstance(factor, ChannelGroup):
        return factor_out(factor, inner)
    outside = ChannelGroup(factor.size // inner, factor.fixed, factor.owners)
    inside = ChannelGroup(inner, factor.fixed, factor.owners)
    bind(factor, ((outside, inside),))
    return ((outside,),), ((inside,),)
