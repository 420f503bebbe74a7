"""The algebra against explicit matrices, and against cases worked out by hand.

`E` and `R` are written out as dense matrices here: whatever the maps do by index must be what the matrices say,
`R E = I` and `W' E_in = E_out W` among it. All of it in float64.
"""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from growtool.algebra import layers
from growtool.algebra.axis_map import AxisMap, axis_map
from growtool.algebra.expansion import Expansion, copied_at_random, tiled
from growtool.algebra.layers import complete, copy_positions, home_share, in_runs, split_evenly, summed_dim
from growtool.trace import ChannelGroup, GroupPair, PairedAxis, Unchanged

TIGHT = 1e-12


def dense_E(axis: AxisMap) -> Tensor:
    """[M, N], the single 1 of each row at the position it copies."""
    return torch.nn.functional.one_hot(axis.index, axis.size).double()


def dense_R(axis: AxisMap, share: Tensor) -> Tensor:
    """[N, M], the share of each copy in the row of what it copies."""
    return (dense_E(axis) * share[:, None]).T


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def consumed(expansion: Expansion) -> AxisMap:
    """One set of channels that a sum runs over."""
    growth = GroupPair(ChannelGroup(expansion.size), ChannelGroup(len(expansion.index)))
    return axis_map(PairedAxis(((growth,),)), {growth: expansion}, frozenset([growth]))


def produced(expansion: Expansion) -> AxisMap:
    """One set of channels that no sum runs over."""
    growth = GroupPair(ChannelGroup(expansion.size), ChannelGroup(len(expansion.index)))
    return axis_map(PairedAxis(((growth,),)), {growth: expansion}, frozenset())


@st.composite
def expansions(draw, *, size: int | None = None, least: int = 0) -> Expansion:
    """All old channels, then copies of any of them, as many as one likes."""
    n = size if size is not None else draw(st.integers(1, 5))
    copies = draw(st.lists(st.integers(0, n - 1), min_size=least, max_size=6))
    index = draw(st.permutations([*range(n), *copies]))
    return Expansion(n, torch.tensor(index))


@st.composite
def paired_axes(draw, *, depth: int = 2) -> tuple[PairedAxis, dict[GroupPair, Expansion]]:
    """Concatenations of products of sets that grow and sets that do not, nested."""
    grown: dict[GroupPair, Expansion] = {}

    def factor(level: int):
        kind = draw(st.sampled_from(["growth", "growth", "unchanged"] + (["nested"] if level else [])))
        if kind == "unchanged":
            return Unchanged(draw(st.integers(1, 3)))
        if kind == "nested":
            return axis(level - 1)
        if grown and draw(st.booleans()):
            return draw(st.sampled_from(list(grown)))
        expansion = draw(expansions(size=draw(st.integers(1, 3))))
        growth = GroupPair(ChannelGroup(expansion.size), ChannelGroup(len(expansion.index)))
        grown[growth] = expansion
        return growth

    def axis(level: int) -> PairedAxis:
        return PairedAxis(
            tuple(tuple(factor(level) for _ in range(draw(st.integers(1, 2)))) for _ in range(draw(st.integers(1, 2))))
        )

    return axis(depth), grown


def positions_by_hand(axis: PairedAxis, grown: dict[GroupPair, Expansion], consumes: frozenset[GroupPair]):
    """For each target position: its source position, the key of its sum, and its share; and the source's size."""
    rows, size = [], 0
    for number, segment in enumerate(axis.segments):
        factors = [_factor_by_hand(factor, grown, consumes) for factor in segment]
        for parts in itertools.product(*(entries for entries, _ in factors)):
            source, keys, share = 0, [], 1.0
            for (index, key, part), (_, n) in zip(parts, factors, strict=True):
                source, share = source * n + index, share * part
                keys.append(key)
            rows.append((source + size, (number, *keys), share))
        size += int(torch.tensor([n for _, n in factors]).prod())
    return rows, size


def _factor_by_hand(factor, grown, consumes):
    if isinstance(factor, PairedAxis):
        return positions_by_hand(factor, grown, consumes)
    if isinstance(factor, Unchanged):
        return [(i, i, 1.0) for i in range(factor.size)], factor.size
    index = grown[factor].index.tolist()
    counts = Counter(index)
    if factor in consumes:
        return [(i, i, 1.0 / counts[i]) for i in index], grown[factor].size
    return [(i, place, 1.0) for place, i in enumerate(index)], grown[factor].size


@given(paired_axes(), st.data())
def test_a_map_is_the_index_arithmetic_of_its_layout(case, data):
    axis, grown = case
    consumes = frozenset(growth for growth in grown if data.draw(st.booleans()))
    rows, size = positions_by_hand(axis, grown, consumes)
    found = axis_map(axis, grown, consumes)
    assert found.size == size
    assert found.index.tolist() == [source for source, _, _ in rows]
    assert found.share.tolist() == pytest.approx([share for _, _, share in rows])
    slots = {}
    for slot, (_, key, _) in zip(found.slot.tolist(), rows, strict=True):
        assert slots.setdefault(key, slot) == slot
    assert len(set(slots.values())) == len(slots) == found.slots
    # a copy is told by its source and its replica
    pairs = list(zip(found.index.tolist(), found.replica.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)


@given(paired_axes(), st.data())
def test_shares_of_a_slot_add_up_to_one_source_position(case, data):
    axis, grown = case
    found = axis_map(axis, grown, frozenset(growth for growth in grown if data.draw(st.booleans())))
    total = torch.zeros(found.slots, dtype=torch.float64).index_add_(0, found.slot, found.share)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=TIGHT)
    assert torch.equal(found.slot_source[found.slot], found.index)


@given(expansions())
def test_the_equal_split_is_a_left_inverse(expansion):
    axis = consumed(expansion)
    product = dense_R(axis, axis.share) @ dense_E(axis)
    torch.testing.assert_close(product, torch.eye(expansion.size, dtype=torch.float64), rtol=0, atol=TIGHT)
    assert axis.consumes and not produced(expansion).consumes


@given(expansions())
def test_counts_and_replicas(expansion):
    index = expansion.index.tolist()
    counts = Counter(index)
    assert expansion.counts.tolist() == [counts[i] for i in index]
    assert expansion.replica.tolist() == [index[:place].count(i) for place, i in enumerate(index)]
    assert expansion.multiplicity == (counts[0] if len(set(counts.values())) == 1 else None)


@given(st.integers(1, 5), st.integers(1, 4))
def test_tiling_repeats_the_whole(size, times):
    expansion = tiled(size, size * times)
    assert expansion.index.tolist() == [*range(size)] * times
    assert expansion.multiplicity == times
    assert expansion.replica.tolist() == [copy for copy in range(times) for _ in range(size)]
    assert expansion.is_identity == (times == 1)


def test_tiling_takes_whole_multiples_alone():
    with pytest.raises(ValueError, match="6 is not a multiple of 4"):
        tiled(4, 6)


def test_random_copies_come_after_the_old_channels_and_from_the_generator_alone():
    draws = [copied_at_random(4, 9, torch.Generator().manual_seed(seed)).index.tolist() for seed in (0, 0, 1)]
    assert draws[0][:4] == [0, 1, 2, 3] and len(draws[0]) == 9
    assert draws[0] == draws[1] != draws[2]


@given(expansions(), expansions(least=1), st.booleans())
def test_the_plain_split_is_e_w_r(rows, columns, kernel):
    shape = (rows.size, columns.size, 3) if kernel else (rows.size, columns.size)
    W, maps = random(*shape), (produced(rows), consumed(columns), *[AxisMap.unchanged(3)] * kernel)
    split = split_evenly(W, maps)
    expected = torch.einsum("oa,ab...,bi->oi...", dense_E(maps[0]), W, dense_R(maps[1], maps[1].share))
    torch.testing.assert_close(split, expected, rtol=0, atol=TIGHT)
    copied = torch.einsum("oa,ab...->ob...", dense_E(maps[0]), W)
    torch.testing.assert_close(copy_positions(W, maps, but=1), copied, rtol=0, atol=0)


def test_a_vector_is_copied():
    assert split_evenly(torch.tensor([1.0, 2.0]), [produced(tiled(2, 4))]).tolist() == [1.0, 2.0, 1.0, 2.0]


@given(expansions(), expansions(least=1), st.booleans(), st.integers(0, 3))
def test_any_draft_is_completed_to_the_same_function(rows, columns, kernel, home):
    """`W' E_in = E_out W` for any draft and any share, copies uneven or not; the draft alone decides the rest."""
    shape = (rows.size, columns.size, 3) if kernel else (rows.size, columns.size)
    W, maps = random(*shape), (produced(rows), consumed(columns), *[AxisMap.unchanged(3)] * kernel)
    if summed_dim(maps) is None:
        return
    draft = random(len(rows.index), len(columns.index), *[3] * kernel, seed=1)
    homes = min(maps[0].replicas, maps[1].replicas)
    share = home_share(maps[1], home % homes, homes)
    done = complete(draft.clone(), W, maps, share)
    left = torch.einsum("oi...,ib->ob...", done, dense_E(maps[1]))
    right = torch.einsum("oa,ab...->ob...", dense_E(maps[0]), W)
    torch.testing.assert_close(left, right, rtol=0, atol=TIGHT)
    # the formula itself: Z + (E_out W - Z E_in) R_in
    gap = right - torch.einsum("oi...,ib->ob...", draft, dense_E(maps[1]))
    expected = draft + torch.einsum("ob...,bi->oi...", gap, dense_R(maps[1], share))
    torch.testing.assert_close(done, expected, rtol=0, atol=TIGHT)


@pytest.mark.parametrize("maps", ["columns", "rows", "blank rows"])
def test_a_draft_is_completed_the_same_in_runs(maps, monkeypatch):
    """To the bit, however few positions are computed together."""
    kept, summed = produced(tiled(3, 6)), consumed(tiled(4, 8))
    if maps == "blank rows":
        kept = replace(kept, blank=torch.arange(6) > 3)
    W, draft = random(3, 4), random(6, 8, seed=1)
    E = dense_E(kept) * ~kept.blank[:, None]
    gap = E @ W - draft @ dense_E(summed)
    expected = draft + gap @ dense_R(summed, summed.share)

    def done() -> Tensor:
        if maps == "rows":
            return complete(draft.T.contiguous(), W.T.contiguous(), (summed, kept)).T
        return complete(draft.clone(), W, (kept, summed))

    whole = done()
    torch.testing.assert_close(whole, expected, rtol=0, atol=TIGHT)
    monkeypatch.setattr(layers, "AT_ONCE", 20)
    assert [len(run) for run in in_runs(torch.arange(6), draft[0])] == [2, 2, 2]
    assert torch.equal(done(), whole)


@given(paired_axes(), st.data())
def test_completion_holds_for_composite_axes_slot_by_slot(case, data):
    axis, grown = case
    columns = axis_map(axis, grown, frozenset(grown))
    rows = produced(data.draw(expansions(size=2)))
    if summed_dim((rows, columns)) != 1:
        return
    W = random(2, columns.size)
    done = complete(random(len(rows.index), len(columns.index), seed=1), W, (rows, columns))
    sums = torch.zeros(len(rows.index), columns.slots, dtype=torch.float64).index_add_(1, columns.slot, done)
    expected = W[rows.index][:, columns.slot_source]
    torch.testing.assert_close(sums, expected, rtol=0, atol=TIGHT)


@given(expansions(least=1), st.integers(1, 4), st.data())
def test_home_shares_sum_to_one_and_stay_home_where_there_is_one(expansion, homes, data):
    axis = consumed(expansion)
    home = data.draw(st.integers(0, homes - 1))
    share = home_share(axis, home, homes)
    total = torch.zeros(axis.slots, dtype=torch.float64).index_add_(0, axis.slot, share)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=TIGHT)
    at_home = axis.replica % homes == home
    for slot in range(axis.slots):
        inside = axis.slot == slot
        away = share[inside & ~at_home]
        assert not (inside & at_home).any() or not away.any()


def test_there_is_nothing_to_complete_without_a_growing_sum():
    maps = (produced(tiled(2, 4)), produced(tiled(2, 4)))
    assert summed_dim(maps) is None
    with pytest.raises(ValueError, match="no single summed dimension grows"):
        complete(torch.zeros(4, 4), torch.zeros(2, 2), maps)
    assert summed_dim((produced(tiled(2, 4)), consumed(tiled(2, 2)))) is None
    assert summed_dim((consumed(tiled(2, 4)), consumed(tiled(2, 4)))) is None


@pytest.mark.parametrize("share", [[1.0, 0.5, 0.5], [1.0, 0.7, 0.3]])
def test_net2wider_by_hand(share):
    """One input, two hidden units (1 and 2), one output (3 and 4): 3*1 + 4*2 = 11, with unit 2 copied as without."""
    W1, W2, x = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[3.0, 4.0]]).double(), torch.ones(1).double()
    hidden = Expansion(2, torch.tensor([0, 1, 1]))
    wider = split_evenly(W1, (produced(hidden), AxisMap.unchanged(1)))
    reader = (AxisMap.unchanged(1), consumed(hidden))
    narrower = complete(torch.zeros(1, 3).double(), W2, reader, torch.tensor(share).double())
    torch.testing.assert_close(narrower, torch.tensor([[3.0, 4 * share[1], 4 * share[2]]]).double())
    assert float(narrower @ (wider @ x).relu()) == pytest.approx(11.0)
    if share[1] == share[2]:
        torch.testing.assert_close(split_evenly(W2, reader), narrower)


def attention(x: Tensor, qkv: Tensor, proj: Tensor, heads: int) -> Tensor:
    """Self-attention of tokens x [N, C] with packed rows, as timm computes it."""
    q, k, v = (x @ qkv.T).reshape(len(x), 3, heads, -1).permute(1, 2, 0, 3)
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(0, 1).reshape(len(x), -1) @ proj.T


def test_packed_rows_are_tiled_part_by_part():
    """Growing one head of four channels to two: each of query, key and value is copied on its own."""
    heads, stream = GroupPair(None, ChannelGroup(2)), GroupPair(ChannelGroup(4), ChannelGroup(8))
    grown = {heads: tiled(1, 2), stream: tiled(4, 8)}
    of_qkv = axis_map(PairedAxis(((heads, Unchanged(4)),) * 3), grown, frozenset())
    assert of_qkv.index.tolist() == [*range(4)] * 2 + [*range(4, 8)] * 2 + [*range(8, 12)] * 2

    x, qkv, proj = random(5, 4), random(12, 4, seed=1), random(4, 4, seed=2)
    readers = axis_map(PairedAxis(((stream,),)), grown, frozenset([stream]))
    of_proj = axis_map(PairedAxis(((heads, Unchanged(4)),)), grown, frozenset([heads]))
    before = attention(x, qkv, proj, 1)
    larger_proj = split_evenly(proj, (produced(tiled(4, 8)), of_proj))
    larger_qkv = split_evenly(qkv, (of_qkv, readers))
    torch.testing.assert_close(attention(x.repeat(1, 2), larger_qkv, larger_proj, 2), before.repeat(1, 2))

    naive = AxisMap.copied(12, torch.arange(24) % 12, torch.arange(24) // 12)
    wrong = attention(x.repeat(1, 2), split_evenly(qkv, (naive, readers)), larger_proj, 2)
    assert float((wrong - before.repeat(1, 2)).abs().max()) > 0.1


def test_compensated_grid_by_hand():
    """W = 2 with the new blocks 0.5 and -1 becomes [[1.5, 0.5], [-1, 3]]; its rows add up to 2."""
    W, columns = torch.tensor([[2.0]]).double(), consumed(tiled(1, 2))
    draft = torch.tensor([[0.0, 0.5], [-1.0, 0.0]]).double()
    rows = [
        complete(draft[home : home + 1].clone(), W, (AxisMap.unchanged(1), columns), home_share(columns, home, 2))
        for home in (0, 1)
    ]
    assert torch.cat(rows).tolist() == [[1.5, 0.5], [-1.0, 3.0]]


def test_classifier_by_hand():
    """Tiled twice, the classifier reads half of its weight from each copy; its bias stays."""
    W, bias = torch.tensor([[2.0, 4.0], [6.0, 8.0]]), torch.tensor([1.0, -1.0])
    assert split_evenly(W, (AxisMap.unchanged(2), consumed(tiled(2, 4)))).tolist() == [[1, 2, 1, 2], [3, 4, 3, 4]]
    assert torch.equal(split_evenly(bias, (AxisMap.unchanged(2),)), bias)


def test_four_neighbouring_patches_are_four_copies_of_the_layout():
    """Swin's merging reads 4 C channels: E on that axis is I_4 (x) E."""
    stream = GroupPair(ChannelGroup(3), ChannelGroup(5))
    expansion = Expansion(3, torch.tensor([0, 1, 2, 2, 0]))
    axis = axis_map(PairedAxis(((Unchanged(4), stream),)), {stream: expansion}, frozenset([stream]))
    one = torch.nn.functional.one_hot(expansion.index, 3).double()
    assert torch.equal(dense_E(axis), torch.kron(torch.eye(4).double(), one))


def test_lower_precision_is_kept():
    maps = (produced(tiled(2, 4)), consumed(tiled(2, 4)))
    assert split_evenly(torch.ones(2, 2, dtype=torch.bfloat16), maps).dtype == torch.bfloat16
    assert complete(torch.zeros(4, 4, dtype=torch.float32), torch.ones(2, 2), maps).dtype == torch.float32
