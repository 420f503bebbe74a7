"""What the table of operators tells users: complete, in step with the page made from it, every example a plan."""

import re

import pytest

from growtool.checkpoint import open_checkpoint
from growtool.operators.table import OPERATORS
from growtool.plan import load_plan
from growtool.recipe import resolve
from tests.support.models import Tiny, write_folder
from tests.support.operators_page import PAGE, page


@pytest.mark.parametrize("info", OPERATORS.values(), ids=list(OPERATORS))
def test_every_operator_says_what_a_user_has_to_know(info):
    for text in (info.summary, info.promise, info.source, info.formula, info.needs):
        assert text and not text.endswith(".")
    assert info.when.endswith(".")


def test_the_page_of_operators_is_in_step_with_the_table():
    assert PAGE.read_text() == page(), "run `python -m tests.support.operators_page`"


@pytest.mark.parametrize("name", OPERATORS)
def test_the_example_of_every_operator_resolves(name, tmp_path):
    """Read from the page itself, on a tiny model that it fits."""
    (example,) = re.findall(rf"^## {name}$.*?```yaml\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "plan.yaml").write_text(example)
    plan = load_plan(tmp_path / "plan.yaml").plan
    section = plan.width or plan.depth
    assert section is not None and section.operator == name
    small = {"img_size": 32, "embed_dim": 16, "num_heads": 4, "depth": 2, "num_classes": 5}
    fitting = {"net2deeper": Tiny("growtool_open", {"base": "mobilenetv1_100", "channel_multiplier": 0.1})}
    source = write_folder(fitting.get(name, Tiny("test_vit", small)), tmp_path / "source")
    if plan.second is not None:
        write_folder(Tiny("test_vit", small), tmp_path / plan.second, seed=1)
        plan = plan.model_copy(update={"second": str(tmp_path / plan.second)})
    recipe = resolve(plan, open_checkpoint(source))
    assert bool(recipe.widths) == (plan.width is not None) and bool(recipe.blocks.new) == (plan.depth is not None)
    exact_there = {"tile", "mixture", "zero", "fpi", "variance_transfer", "gradmax", "zero_out", "cancel_out"}
    exact_there |= {"net2deeper"}
    nearly = {"centre_zero", "lemon"}
    expected = "exact" if name in exact_there else "exact up to eps" if name in nearly else "lossy"
    assert recipe.promise.kind == expected
