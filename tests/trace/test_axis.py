"""Symbolic axes mean lists of positions; what is done to an axis must leave every position what it was.

The meaning of an axis is written out by brute force: each position is the tuple of (channel group, index) it is made
of. Cutting an axis cuts that list, factoring it arranges that list as a table.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growtool.trace.axes import (
    ONE,
    ChannelGroup,
    Unsolvable,
    axis_size,
    bind,
    cut,
    fix,
    groups_on,
    leaves,
    new_axis,
    resolve,
)
from tests.support.axes import axes, meaning


@given(st.data())
def test_a_cut_keeps_every_position_in_place(data):
    size = data.draw(st.integers(1, 12))
    axis = data.draw(axes(size))
    at = data.draw(st.integers(0, size))
    left, right = cut(axis, at)
    assert (axis_size(left), axis_size(right)) == (at, size - at)
    assert meaning(resolve(left)) + meaning(resolve(right)) == meaning(resolve(axis))


@given(st.data())
def test_resolving_twice_changes_nothing(data):
    axis = data.draw(axes(data.draw(st.integers(1, 12))))
    assert resolve(resolve(axis)) == resolve(axis)


def test_a_cut_through_an_atom_refines_it_everywhere():
    group = ChannelGroup(6)
    axis, elsewhere = ((group,),), ((ChannelGroup(2), group),)
    left, right = cut(axis, 2)
    assert [[factor.size for factor in segment] for segment in left + right] == [[2], [4]]
    lead, inner = resolve(elsewhere)[0]
    assert lead.size == 2 and inner == left + right


def test_a_leading_concatenation_is_spread_out():
    a, b, c = ChannelGroup(2), ChannelGroup(3), ChannelGroup(4)
    assert resolve(((((a,), (b,)), c),)) == ((a, c), (b, c))
    assert resolve(((c, ((a,), (b,))),)) == ((c, ((a,), (b,))),)


def test_a_single_position_leaves_no_trace():
    a = ChannelGroup(3)
    assert new_axis(1) == ONE
    assert resolve(((ChannelGroup(1), a, ChannelGroup(1)),)) == ((a,),)
    assert axis_size(ONE) == 1 and list(groups_on(ONE)) == []


def test_binding_replaces_an_atom_in_every_axis_that_holds_it():
    whole, a, b = ChannelGroup(6), ChannelGroup(2), ChannelGroup(3)
    bind(whole, ((a, b),))
    assert resolve(((ChannelGroup(2), whole),))[0][1:] == (a, b)
    assert list(groups_on(((whole,),))) == [a, b]


def test_owners_are_those_of_the_atoms_as_they_were_created():
    whole = ChannelGroup(6, owners=frozenset([("conv.weight", 1)]))
    bind(whole, ((ChannelGroup(2), ChannelGroup(3)),))
    assert [(group, group.owners) for group in leaves(((whole,),))] == [(whole, {("conv.weight", 1)})]


def test_an_axis_never_contains_itself():
    group = ChannelGroup(4)
    with pytest.raises(Unsolvable):
        bind(group, ((group,),))


def test_what_is_fixed_stays_fixed_through_binding_and_the_first_reason_stays():
    whole, a, b = ChannelGroup(6, fixed="the input image"), ChannelGroup(2), ChannelGroup(3)
    bind(whole, ((a, b),))
    fix(((a,),), "another reason")
    assert (a.fixed, b.fixed) == ("the input image", "the input image")


def test_parts_of_a_fixed_atom_are_fixed():
    left, right = cut(((ChannelGroup(4, fixed="a kernel position"), ChannelGroup(2)),), 4)
    assert [(a.size, a.fixed) for a in groups_on(left)] == [(2, "a kernel position"), (2, None)]
    assert [(a.size, a.fixed) for a in groups_on(right)] == [(2, "a kernel position"), (2, None)]


def test_an_axis_may_be_bound_a_thousand_times_over():
    """Every position cut off the rest, as overlapping windows do: one term stands inside the next."""
    whole = rest = new_axis(1200)
    for _ in range(1199):
        (head,) = rest[0]
        one, *more = (new_axis(n) for n in (1, head.size - 1))
        bind(head, one + tuple(segment for part in more for segment in part))
        rest = more[0]
    assert [axis_size((segment,)) for segment in resolve(whole)] == [1] * 1200
