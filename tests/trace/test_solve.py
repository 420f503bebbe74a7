"""Unification: after it, both axes mean the same positions, or nothing of either may change any more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growtool.trace.axes import ONE, ChannelGroup, Unsolvable, axis_size, groups_on, new_axis, resolve
from growtool.trace.unify import factor_out, unify
from tests.support.axes import axes, meaning


@given(st.data())
def test_unified_axes_mean_the_same_or_are_fixed(data):
    size = data.draw(st.integers(1, 24))
    left, right = data.draw(axes(size)), data.draw(axes(size))
    unify(left, right)
    same = meaning(resolve(left)) == meaning(resolve(right))
    fixed = all(group.fixed for axis in (left, right) for group in groups_on(axis))
    assert same or fixed


@given(st.data())
def test_an_axis_unifies_with_itself_without_loss(data):
    axis = data.draw(axes(data.draw(st.integers(1, 24))))
    unify(axis, axis)
    assert not any(group.fixed for group in groups_on(axis))


@given(st.data())
def test_unifying_again_changes_nothing(data):
    size = data.draw(st.integers(1, 16))
    left, right = data.draw(axes(size)), data.draw(axes(size))
    unify(left, right)
    before = [(resolve(axis), [group.fixed for group in groups_on(axis)]) for axis in (left, right)]
    unify(right, left)
    assert [(resolve(axis), [group.fixed for group in groups_on(axis)]) for axis in (left, right)] == before


@given(st.data())
def test_factors_arrange_the_positions_as_a_table(data):
    size = data.draw(st.integers(1, 24))
    axis = data.draw(axes(size))
    inner = data.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    try:
        outside, inside = factor_out(axis, inner)
    except Unsolvable:
        return
    assert (axis_size(outside), axis_size(inside)) == (size // inner, inner)
    if not any(group.fixed for group in groups_on(axis)):
        rows, columns = meaning(resolve(outside)), meaning(resolve(inside))
        assert [row + column for row in rows for column in columns] == meaning(resolve(axis))


def test_heads_and_head_size_come_apart_once_a_view_says_so():
    packed = new_axis(24)
    parts, channels = factor_out(packed, 4)
    three, heads = factor_out(parts, 2)
    assert [axis_size(axis) for axis in (three, heads, channels)] == [3, 2, 4]
    assert resolve(packed) == ((three[0][0], heads[0][0], channels[0][0]),)


def test_two_splits_find_their_common_refinement():
    a, b, c, d = ChannelGroup(6), ChannelGroup(4), ChannelGroup(12), ChannelGroup(2)
    left, right = ((a, b),), ((c, d),)
    unify(left, right)
    assert [group.size for group in groups_on(left)] == [group.size for group in groups_on(right)] == [6, 2, 2]
    assert resolve(left) == resolve(right)


def test_concatenations_meet_at_their_cuts():
    left, right = new_axis(2) + new_axis(6), new_axis(5) + new_axis(3)
    unify(left, right)
    assert [group.size for group in groups_on(left)] == [2, 3, 3]
    assert resolve(left) == resolve(right)


def test_layouts_without_a_common_refinement_fix_both():
    left, right = ((ChannelGroup(4), ChannelGroup(9)),), ((ChannelGroup(6), ChannelGroup(6)),)
    unify(left, right)
    reasons = {group.fixed for axis in (left, right) for group in groups_on(axis)}
    assert reasons == {"layouts that do not fit together (36 split in two ways)"}


def test_different_sizes_fix_both():
    left, right = new_axis(4), new_axis(6)
    unify(left, right)
    assert {group.fixed for axis in (left, right) for group in groups_on(axis)} == {
        "layouts that do not fit together (4 against 6)"
    }


def test_a_fixed_axis_fixes_what_it_meets():
    free, fixed = ((ChannelGroup(2), ChannelGroup(3)),), new_axis(6, "the model's output")
    unify(free, fixed)
    assert {group.fixed for group in groups_on(free)} == {"the model's output"}


@pytest.mark.parametrize("inner", [4, 5])
def test_a_factor_that_does_not_divide_is_refused(inner):
    with pytest.raises(Unsolvable):
        factor_out(((ChannelGroup(2), ChannelGroup(3)),), inner)


def test_trivial_factors():
    axis = new_axis(6)
    assert factor_out(axis, 1) == (axis, ONE)
    assert factor_out(axis, 6) == (ONE, axis)
