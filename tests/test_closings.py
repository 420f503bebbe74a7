"""Closed blocks whatever is around them: sums in the caller, several streams, layers on the stream."""

import pytest
from test_treacherous import DEEPENING, OTHERS, TILE, promised
from treacherous_callers import CLOSED, DOUBTFUL


@pytest.mark.parametrize("placement", ["interleaved", "end"])
@pytest.mark.parametrize("case", CLOSED)
def test_blocks_are_closed(case, placement):
    assert promised("called", case, {"depth": 3}, depth={"operator": "zero_out", "placement": placement}) == "exact"


@pytest.mark.parametrize("case", [*CLOSED, *DOUBTFUL])
def test_never_exact_and_wrong(case):
    for placement in ("interleaved", "end"):
        for operator in DEEPENING:
            promised("called", case, {"depth": 4}, depth={"operator": operator, "placement": placement})


@pytest.mark.parametrize("case", CLOSED)
def test_never_exact_and_wrong_where_it_grows_wider_too(case):
    for width in (TILE, *OTHERS):
        promised("called", case, {"depth": 3, "width": 2}, width=width, depth={"operator": "zero_out"})
