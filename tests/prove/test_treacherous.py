"""Never exact and wrong: whatever a model does to its channels, a promise of `exact` holds.

Every parameter and buffer is random, in float64; what is promised is measured on the model timm builds.
"""

import pytest

from tests.support.promises import DEEPENING, OTHERS, TILE, promised
from tests.support.treacherous import CLOSABLE, EXACT, IN_LINE, NOT_IN_LINE, OPEN, OTHER, TIED


@pytest.mark.parametrize("case", EXACT)
def test_what_copies_pass_through_is_exact(case):
    assert promised("wide", case, {"width": 2}, width=TILE) == "exact"


@pytest.mark.parametrize("case", [*EXACT, *OTHER])
def test_never_exact_and_wrong_in_width(case):
    if promised("wide", case, {"width": 2}, width=TILE) != "refused":  # what cannot be tiled is hardly ever matched
        for width in OTHERS:
            promised("wide", case, {"width": 2}, width=width)


@pytest.mark.parametrize("case", CLOSABLE)
def test_a_residual_branch_is_closed(case):
    assert promised("deep", case, {"depth": 3}, depth={"operator": "zero_out"}) == "exact"


@pytest.mark.parametrize("case", [*OPEN, TIED])
def test_never_exact_and_wrong_in_depth(case):
    for operator in DEEPENING:
        promised("deep", case, {"depth": 3}, depth={"operator": operator})


@pytest.mark.parametrize("case", IN_LINE)
def test_layers_in_line_grow_deeper(case):
    assert promised("line", case, {"depth": 4}, depth={"operator": "net2deeper"}) == "exact"
    assert promised("line", case, {"depth": 4}, depth={"operator": "interleave"}) == "lossy"


@pytest.mark.parametrize("case", NOT_IN_LINE)
def test_what_is_not_in_line_is_never_called_exact(case):
    assert promised("line", case, {"depth": 4}, depth={"operator": "net2deeper"}) != "exact"
