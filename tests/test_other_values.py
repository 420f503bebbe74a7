"""The same operations on other values, and other ties: never promised exact, and no promise lost where they agree."""

import pytest
from test_treacherous import TILE, promised
from treacherous_values import OTHER_VALUES, TIES

TURNED, WIDER = {"turned": True}, {"turned": True, "width": 2}


@pytest.mark.parametrize("case", OTHER_VALUES)
def test_other_values_are_never_called_exact(case):
    assert promised("values", case, TURNED) == "lossy"
    assert promised("values", case, WIDER, width=TILE) != "exact"


@pytest.mark.parametrize("case", TIES)
def test_a_tie_that_only_the_target_has_is_named(case):
    promised("tied", case, TURNED) 
    promised("tied", case, WIDER, width=TILE)


@pytest.mark.parametrize("case", TIES)
def test_a_tie_that_the_target_keeps_or_drops_is_exact(case):
    for kind in ("untied", "kept"):
        assert promised(kind, case, TURNED) == "exact"
        assert promised(kind, case, WIDER, width=TILE) == "exact"
