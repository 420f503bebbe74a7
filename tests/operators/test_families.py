"""Every width operator on six families: what is promised, what comes out, and the numbers of a golden file."""

import json

import pytest

from growtool.plan.width import WIDTH_OPERATORS
from tests.support.finetune import UNCLOSED_IMAGES
from tests.support.golden_widths import EXPECTED, FAMILIES, GOLDEN, LOSSY, ON_IMAGES, REFUSED, record

pytestmark = UNCLOSED_IMAGES


def test_the_table_names_every_operator():
    assert EXPECTED.keys() == WIDTH_OPERATORS.keys()


@pytest.mark.parametrize("operator", EXPECTED)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_promised_is_kept(family, operator):
    found, golden = record(family, operator), json.loads(GOLDEN.read_text())[operator][family]
    expected = EXPECTED[operator][family]
    assert found["promise"] == expected == golden["promise"], (
        "if it is meant, run `python -m tests.support.golden_widths`"
    )
    if expected == REFUSED:
        return
    close = 1e-5 if operator in ON_IMAGES else 1e-9  # gradients round otherwise from machine to machine
    assert found["digest"] == pytest.approx(golden["digest"], rel=close, abs=close)
    if expected == LOSSY:
        assert found["difference"] == pytest.approx(golden["difference"], rel=1e-3, abs=1e-9)
    else:
        assert found["difference"] < 1e-11
