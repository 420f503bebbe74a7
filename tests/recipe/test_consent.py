"""No broken network by accident: what loses the function where its operators keep it elsewhere needs consent."""

import json
import re
from pathlib import Path

import pytest
import yaml

from growtool.checkpoint import open_checkpoint
from growtool.errors import PlanError
from growtool.operators.table import OPERATORS
from growtool.plan import LoadedPlan
from growtool.plan.depth import DEPTH_OPERATORS, Map
from growtool.plan.width import WIDTH_OPERATORS, Mixture, TwoSource, VarianceTransfer
from growtool.recipe import resolve
from growtool.recipe.choosing.consent import require_consent
from growtool.recipe.symmetry import stay_alike
from growtool.workflows.compare.arms import grown_arms
from growtool.workflows.schedule.file import load_schedule
from growtool.workflows.schedule.run import run_schedule
from tests.support.finetune import CLASSES
from tests.support.models import TINY, Tiny, grown, plan_of, resolved, write_folder

VIT, CONVNEXT, SWIN = TINY["vit"], TINY["convnext"], TINY["swin"]
RESNET = Tiny("resnet18", {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 12], "num_classes": len(CLASSES)})
PUBLISHED = {"operator": "mixture", "compensate": False}
UNEVEN = {"scale": 1.5, "width": "net2net"}
CONSENT = "or consent to the loss: `allow_lossy: true` in the plan, or --allow-lossy"


def refusal(source: Path, content: dict) -> str:
    with pytest.raises(PlanError) as error:
        require_consent(resolved(source, content))
    (problem,) = error.value.problems
    return problem


def hinted(content: dict, problem: str) -> dict:
    """The plan with what the message proposes pasted in."""
    found = re.search(r"has, in place of (.*):\n((?:  .*\n)+)", problem)
    assert found, problem
    replaced = re.findall(r"`(\w+)`", found[1])
    gone = {*replaced, *(["scale"] if "target" in replaced else [])}
    return {key: value for key, value in content.items() if key not in gone} | yaml.safe_load(found[2])


@pytest.mark.parametrize(
    ("tiny", "content"),
    [
        (VIT, UNEVEN),
        (VIT, {"scale": {"width": 1.5, "depth": 2}, "width": "net2net", "depth": "stack"}),
        (VIT, {"scale": 2, "width": "two_source", "second": "mirror"}),
        (VIT, UNEVEN | {"overrides": [{"match": "head.*", "width": {"operator": "net2net", "split": "equal"}}]}),
        (VIT, {"target": {"model_args": {"embed_dim": 12, "num_heads": 3}}, "width": "fpi", "seed": 3}),
        (CONVNEXT, {"scale": {"width": 1.5, "depth": 2}, "width": "centre_zero", "depth": "zero_out"}),
        (SWIN, {"target": {"model_args": {"embed_dim": 12, "num_heads": [3, 3]}}}),
        pytest.param(TINY["mobilenetv3"], UNEVEN, marks=pytest.mark.slow),
    ],
)
def test_what_the_refusal_proposes_keeps_the_function_of_that_very_model(tiny, content, tmp_path):
    source = write_folder(tiny, tmp_path / "source")
    problem = refusal(source, content)
    assert problem.splitlines()[-1] == CONSENT
    proposed = resolved(source, hinted(content, problem))
    assert proposed.promise.kind != "lossy" and stay_alike(proposed) is None
    require_consent(proposed)


def test_the_refusal_says_where_what_and_why(tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    assert refusal(source, UNEVEN).splitlines() == [
        "width: net2net keeps the function of other models, but not of this one at this target:",
        "  norm1 and norm2 of blocks 0-1, norm: LayerNorm over channels that are not all copied "
        "equally often (residual stream 8 -> 12)",
        "the nearest plan that keeps it has, in place of `width`:",
        "  width: centre_zero",
        CONSENT,
    ]


def test_a_target_that_computes_otherwise_is_told_as_such(tmp_path):
    source = write_folder(TINY["vit_scaled"], tmp_path / "source")
    content = {"target": {"model_args": {"act_layer": "relu", "depth": 3}}}
    problem = refusal(source, content)
    assert problem.startswith(
        "target: computes otherwise than the source, so that zero_out cannot keep the function:\n"
    )
    assert "no plan near this one was found to keep it" in problem


LOSSY_BY_NAME = [
    {"scale": 2, "width": "aki"},
    {"scale": 1.5, "width": "aki"},
    {"scale": 2, "width": "random"},
    {"scale": 2, "width": PUBLISHED},
    {"scale": 1.5, "width": {"operator": "variance_transfer", "rescale": True}},
    {"scale": {"depth": 2}, "depth": "stack"},
    {"scale": {"depth": 2}, "depth": "interleave"},
    {"scale": {"depth": 2}, "depth": {"operator": "map", "map": [0, 0, 1, 1]}},
    {"scale": {"width": 2, "depth": 2}, "width": "tile", "depth": "stack"},
    {"scale": 2, "width": "mixture", "overrides": [{"match": "blocks.*", "width": PUBLISHED}]},
]


@pytest.mark.parametrize("content", LOSSY_BY_NAME)
def test_what_is_lossy_by_name_needs_no_consent(content, tmp_path):
    recipe = resolved(write_folder(VIT, tmp_path / "source"), content)
    assert recipe.promise.kind == "lossy" and recipe.promise.accidents == ()
    require_consent(recipe)


def test_recalibration_that_is_asked_for_needs_no_consent(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    recipe = resolved(source, {"scale": 2, "width": "tile", "recalibrate": True, "data": {"path": "images"}})
    assert recipe.promise.kind == "lossy" and recipe.promise.accidents == ()


@pytest.mark.parametrize(
    "content", [{"scale": 1.5, "width": "centre_zero"}, {"scale": 2, "width": "tile"}, UNEVEN | {"allow_lossy": True}]
)
def test_what_keeps_the_function_or_is_allowed_needs_no_consent(content, tmp_path):
    require_consent(resolved(write_folder(VIT, tmp_path / "source"), content))


def test_the_table_tells_which_operators_are_lossy_by_name():
    """Those whose line of the table says so, and no others; with options, those that their line names."""
    sections = {name: section for name, section in {**WIDTH_OPERATORS, **DEPTH_OPERATORS}.items() if name != "map"}
    for name, section in sections.items():
        says_so = OPERATORS[name].promise.startswith("lossy")
        assert (section().loss is not None) == says_so, name
    for published in (Mixture(compensate=False), VarianceTransfer(rescale=True), Map(map=(0, 0)), TwoSource(gain=0.1)):
        assert published.loss
    assert Map(map=(0, 0), start="zero_out").loss is None


def test_python_refuses_and_writes_nothing(tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    with pytest.raises(PlanError, match=r"plan\.yaml:2:1 width: net2net keeps the function of other models"):
        grown(source, UNEVEN, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = grown(source, UNEVEN | {"allow_lossy": True}, tmp_path / "out")
    assert result.summary.promise == "lossy" and "allow_lossy: true" in (result.out / "plan.yaml").read_text()


def test_the_command_shows_everything_and_refuses(growtool, tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    asked = "grow", source, "--width", "1.5", "--operator", "net2net", "-o", tmp_path / "out"
    for dry in ([], ["--dry-run"]):
        code, out, err = growtool(*asked, *dry)
        assert code == 1 and err.startswith("error: width: net2net keeps") and err.endswith(f"{CONSENT}\n")
        assert "promise: lossy (not the same function)\n  norm1 and norm2 of" in out
    code, out, err = growtool(*asked, "--dry-run", "--json")
    assert (code, err) == (1, f"error: {json.loads(out)['refused']}\n")
    assert not (tmp_path / "out").exists()
    code, out, err = growtool(*asked, "--allow-lossy", "--dry-run", "--json")
    assert (code, err, json.loads(out)["refused"]) == (0, "", None)
    assert growtool(*asked, "--allow-lossy")[0] == 0
    assert "allow_lossy: true\n" in (tmp_path / "out" / "plan.yaml").read_text()


def test_a_comparison_refuses_before_anything_trains(tmp_path):
    source = open_checkpoint(write_folder(VIT, tmp_path / "source"))
    with pytest.raises(PlanError, match=r"plan\.yaml: width: net2net keeps the function of other models"):
        grown_arms(source, [plan_of(tmp_path, UNEVEN)])
    (allowed,) = grown_arms(source, [plan_of(tmp_path, UNEVEN | {"allow_lossy": True})])
    assert allowed.promise == "lossy"


def test_consent_makes_no_other_arm(tmp_path):
    """A comparison that was begun goes on with the same trials."""
    source = open_checkpoint(write_folder(VIT, tmp_path / "source"))
    plans = [{"scale": 2, "width": "tile"}, {"scale": 2, "width": "tile", "allow_lossy": True}]
    arms = [grown_arms(source, [plan_of(tmp_path, plan)])[0] for plan in plans]
    assert arms[0].fingerprint() == arms[1].fingerprint()


def test_a_schedule_refuses_before_anything_trains(tmp_path):
    write_folder(VIT, tmp_path / "source")
    (tmp_path / "schedule.yaml").write_text(
        "checkpoint: source\nstages:\n  - grow: {scale: 1.5, width: net2net}\n  - grow: {scale: {depth: 2}}\n"
    )
    with pytest.raises(PlanError, match=r"schedule\.yaml:3:5 .*width: net2net keeps the function of other models"):
        run_schedule(load_schedule(tmp_path / "schedule.yaml"), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*-grow"))


def test_a_recipe_that_is_refused_can_be_looked_at(tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    loaded = LoadedPlan.of(UNEVEN, tmp_path / "plan.yaml")
    recipe = resolve(loaded.plan, open_checkpoint(source))
    assert [key for key, _ in recipe.promise.accidents] == ["width"] * len(recipe.promise.reasons)
