"""Every width operator on six families: what is promised, what comes out, and the numbers of a golden file.

The table below is what theory allows: whole multiples for all, off them BatchNorm networks by copies or blanks,
pre-LayerNorm transformers up to eps, and nothing for ConvNeXt, MLP-Mixer (tokens are mixed channel by channel) and
Swin's first stage. `gradmax` is asked for wider hidden layers, which ResNet, ConvNeXt and EfficientNet have no argument
for; what else they widen is refused.
"""

import json

import pytest
from finetune_support import UNCLOSED_IMAGES
from golden_widths import FAMILIES, GOLDEN, ON_IMAGES, record

from growtool.plan.width import WIDTH_OPERATORS

pytestmark = UNCLOSED_IMAGES
EXACT, EPS, LOSSY, REFUSED = "exact", "exact up to eps", "lossy", "refused"
EXPECTED = {
    "tile": dict.fromkeys(FAMILIES, EXACT),
    "mixture": dict.fromkeys(FAMILIES, EXACT),
    "fpi": dict.fromkeys(FAMILIES, EXACT),
    "aki": dict.fromkeys(FAMILIES, LOSSY),
    "ligo": dict.fromkeys(FAMILIES, LOSSY),
    "random": dict.fromkeys(FAMILIES, LOSSY),
    "gradmax": {**dict.fromkeys(FAMILIES, REFUSED), "vit": EXACT, "swin": EXACT, "mixer": EXACT},
    "two_source": {**dict.fromkeys(FAMILIES, LOSSY), "efficientnet": EXACT},
    "net2net": {**dict.fromkeys(FAMILIES, LOSSY), "resnet": EXACT, "efficientnet": EXACT},
    **{
        name: {**dict.fromkeys(FAMILIES, LOSSY), "resnet": EXACT, "efficientnet": EXACT, "vit": EPS}
        for name in ("centre_zero", "lemon", "zero", "variance_transfer")
    },
}


def test_the_table_names_every_operator():
    assert EXPECTED.keys() == WIDTH_OPERATORS.keys()


@pytest.mark.parametrize("operator", EXPECTED)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_promised_is_kept(family, operator):
    found, golden = record(family, operator), json.loads(GOLDEN.read_text())[operator][family]
    expected = EXPECTED[operator][family]
    assert found["promise"] == expected == golden["promise"], "if it is meant, run `python tests/golden_widths.py`"
    if expected == REFUSED:
        return
    close = 1e-5 if operator in ON_IMAGES else 1e-9  # gradients round otherwise from machine to machine
    assert found["digest"] == pytest.approx(golden["digest"], rel=close, abs=close)
    if expected == LOSSY:
        assert found["difference"] == pytest.approx(golden["difference"], rel=1e-3, abs=1e-9)
    else:
        assert found["difference"] < 1e-11
