"""Operators that a plan leaves open: the first that keeps the function of this model at this target."""

import json
import re

import pytest

from growtool.plan.depth import Net2Deeper, ZeroOut
from growtool.plan.width import CentreZero, Mixture, Net2Net
from tests.support.models import TINY, WIDER, Tiny, difference, grown, load, resolved, write_folder

VIT, RESNET = TINY["vit"], TINY["resnet"]
LONE = Tiny("resnet50", {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "num_classes": 5})
PLAIN = Tiny("growtool_open", {"base": "mobilenetv1_100", "channel_multiplier": 0.1})
DEEPER = {"layers": [3, 1, 1, 1], "channels": [8, 16, 16, 24]}


@pytest.mark.parametrize(
    ("tiny", "content", "width", "depth", "sentences"),
    [
        (VIT, {"target": {"model_args": WIDER["vit"]}}, Mixture(), None, ["width: mixture is chosen, .*: exact here"]),
        (
            VIT, {"scale": 1.5}, CentreZero(), None,
            ["width: centre_zero is chosen, .*: exact up to eps here; mixture would lose the function$"],
        ),
        (
            LONE, {"scale": 2}, Mixture(bank="sub_block"), None,
            [r"width: mixture \(bank: sub_block\) is chosen, .*: exact here; mixture would leave copies alike$"],
        ),
        (VIT, {"scale": {"depth": 2}}, None, ZeroOut(), ["depth: zero_out is chosen, .*: exact here$"]),
        (
            PLAIN, {"scale": {"depth": 2}}, None, Net2Deeper(),
            ["depth: net2deeper is chosen, .*: exact here; zero_out cannot; cancel_out cannot$"],
        ),
        (RESNET, {"target": {"model_args": DEEPER}}, Mixture(), ZeroOut(), ["^depth: zero_out", "^width: mixture"]),
        (RESNET, {"target": {"model_args": DEEPER}, "width": "net2net"}, Net2Net(), ZeroOut(), ["^depth: zero_out"]),
        (
            VIT, {"scale": {"width": 2, "depth": 2}, "width": "aki"}, None, ZeroOut(),
            ["depth: zero_out is chosen, .*: it loses nothing by itself$"],
        ),
        (
            TINY["swin"], {"target": {"model_args": {"embed_dim": 12, "num_heads": [3, 3]}}}, CentreZero(), None,
            ["width: centre_zero is chosen, .*: no operator keeps the function here; mixture would lose the function$"],
        ),
    ],
)  # fmt: skip
def test_the_first_operator_that_keeps_the_function_is_chosen(tiny, content, width, depth, sentences, tmp_path):
    recipe = resolved(write_folder(tiny, tmp_path / "source"), content)
    assert recipe.plan.depth == depth and (width is None or recipe.plan.width == width)
    assert len(recipe.choices) == len(sentences)
    for sentence, found in zip(sentences, recipe.choices, strict=True):
        assert re.search(sentence, found)


def test_what_a_plan_names_is_taken(tmp_path):
    recipe = resolved(write_folder(VIT, tmp_path / "source"), {"scale": 2, "width": "tile"})
    assert recipe.choices == () and recipe.plan.width is not None and recipe.plan.width.operator == "tile"


def test_nothing_is_chosen_for_what_does_not_grow(tmp_path):
    recipe = resolved(write_folder(VIT, tmp_path / "source"), {"scale": 1})
    assert (recipe.choices, recipe.plan.width, recipe.plan.depth) == ((), None, None)


def test_the_chosen_operators_keep_the_function(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    result = grown(source, {"target": {"model_args": DEEPER}}, tmp_path / "out")
    assert result.summary.promise == "exact"
    assert difference(load(source), load(result.out), RESNET.inputs()) < 1e-11


def test_where_no_operator_can_the_first_says_why(growtool, tmp_path):
    source = write_folder(TINY["densenet"], tmp_path / "source")
    (tmp_path / "plan.yaml").write_text("target: {model_args: {block_config: [3, 2]}}\n")
    code, out, err = growtool("grow", source, tmp_path / "plan.yaml", "--dry-run")
    assert (code, out) == (1, "") and "denseblock1.denselayer3: has the parameters of" in err


def test_the_command_names_what_it_chose(growtool, tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    _, out, _ = growtool("grow", source, "--width", "2", "--dry-run")
    assert "\n  width: mixture is chosen, as the plan names none: exact here\n" in out
    _, out, _ = growtool("grow", source, "--width", "2", "--dry-run", "--json")
    assert json.loads(out)["choices"] == ["width: mixture is chosen, as the plan names none: exact here"]
