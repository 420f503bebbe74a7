"""Where the blocks of a stage go when it becomes deeper."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from growtool.operators.depth.placement import Placed, arrange, mapped
from growtool.plan.depth import CancelOut, Interleave, Map, Net2Deeper, Stack, ZeroOut


@pytest.mark.parametrize(
    ("spec", "sources", "count", "expected"),
    [
        (Stack(), (1, 2), 4, [1, 2, 1, 2]),
        (Stack(), (1, 2, 3), 5, [1, 2, 3, 1, 2]),
        (Interleave(), (1, 2), 4, [1, 1, 2, 2]),
        (Interleave(), (1, 2, 3), 5, [1, 1, 2, 2, 3]),
        (Interleave(), (0,), 3, [0, 0, 0]),
        (ZeroOut(), (0, 1, 2, 3), 6, [0, 1, 1, 2, 3, 3]),
        (ZeroOut(), (0, 1), 4, [0, 0, 1, 1]),
        (ZeroOut(placement="end"), (0, 1), 4, [0, 1, 1, 1]),
        (ZeroOut(), (3,), 1, [3]),
        (CancelOut(), (0, 1, 2, 3), 6, [0, 1, 1, 2, 3, 3]),
        (CancelOut(placement="end"), (0, 1), 4, [0, 1, 1, 1]),
        (Net2Deeper(), (1, 2), 4, [1, 1, 2, 2]),
        (Map(map=[0, 0, 1, 1, 2]), (0, 0, 1, 1, 2), 5, [0, 0, 1, 1, 2]),
    ],
)  # fmt: skip
def test_where_blocks_go(spec, sources, count, expected):
    placed = mapped(spec, sources) if isinstance(spec, Map) else arrange(spec, sources, count)
    assert [p.source for p in placed] == expected
    assert [p.new for p in placed] == [source in expected[:place] for place, source in enumerate(expected)]
    start = {"zero_out": "zero_out", "cancel_out": "cancel_out", "net2deeper": "identity"}.get(spec.operator, "copy")
    assert [p.start for p in placed] == [start if p.new else "copy" for p in placed]


@given(
    st.integers(1, 6), st.integers(0, 12), st.sampled_from([Stack(), Interleave(), ZeroOut(), ZeroOut(placement="end")])
)
def test_every_source_block_stays_once_and_in_order(length, added, spec):
    sources = tuple(range(10, 10 + length))
    placed: list[Placed] = arrange(spec, sources, length + added)
    assert len(placed) == length + added
    assert [p.source for p in placed if not p.new] == list(sources)
    if isinstance(spec, ZeroOut):  # a closed block passes on its input, so its neighbour decides what it copies
        assert [p.source for p in placed] == sorted(p.source for p in placed)
        assert not placed[0].new


@given(st.integers(1, 4), st.integers(1, 3))
def test_llama_pro_puts_a_new_block_after_every_few_old_ones(groups, per_group):
    placed = arrange(ZeroOut(), tuple(range(groups * per_group)), groups * (per_group + 1))
    assert [p.new for p in placed] == ([False] * per_group + [True]) * groups
