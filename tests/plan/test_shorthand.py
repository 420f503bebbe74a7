"""Plans in short: each form stands for a long one, is told its place, and is kept as it was written."""

import pytest

from growtool.errors import PlanError
from growtool.plan import LoadedPlan, Plan, load_plan
from growtool.plan.depth import DEPTH_OPERATORS
from growtool.plan.document import read_document, write_document
from growtool.plan.schema import Data, Output
from growtool.plan.width import WIDTH_OPERATORS, Mixture, Tile

SHORT = [
    ("scale: 2", "target: {scale: {width: 2}}"),
    ("scale: 4/3", "target: {scale: {width: 4/3}}"),
    ("scale: {width: 2, depth: [2, 1]}", "target: {scale: {width: 2, depth: [2, 1]}}"),
    ("target: {scale: 2}", "target: {scale: {width: 2}}"),
    ("target: vit_small_patch16_224", "target: {model: vit_small_patch16_224}"),
    ("target: x\nwidth: tile", "target: {model: x}\nwidth: {operator: tile}"),
    ("target: x\ndepth: zero_out", "target: {model: x}\ndepth: {operator: zero_out}"),
    (
        "target: x\nwidth: tile\noverrides: [{match: 'head.*', width: fpi}]",
        "target: {model: x}\nwidth: {operator: tile}\noverrides: [{match: 'head.*', width: {operator: fpi}}]",
    ),
]


def load(tmp_path, text: str) -> LoadedPlan:
    (tmp_path / "plan.yaml").write_text(text)
    return load_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(("short", "long"), SHORT)
def test_a_short_form_stands_for_a_long_one(tmp_path, short, long):
    assert load(tmp_path, short).plan == load(tmp_path, long).plan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nscale: 0.5", "2:8 scale.width: found 0.5, expected at least 1"),
        ("seed: 1\nscale: big", "2:8 scale.width: found 'big', expected a number of at least 1, such as 2 or 4/3"),
        ("scale: {width: 2,\n  depht: 2}", "2:3 scale.depht: unknown key, expected one of width, depth; did you mean"),
        ("scale: {}", "1:8 scale: found neither width nor depth"),
        ("seed: 1\ntarget: {scale: 0.5}", "2:17 target.scale.width: found 0.5, expected at least 1"),
        ("seed: 1\ntarget: 3", "2:9 target: found 3, expected a mapping"),
        ("scale: 2\nwidth: tyle", "2:8 width.operator: found 'tyle', expected one of tile, "),
        ("scale: 2\ndepth: map", "2:8 depth.map: missing, expected the source block of every target block"),
        ("target: x\nscale: 2", "1:1 scale: found beside `target`, expected one of them"),
    ],
)
def test_what_is_wrong_with_a_short_form_is_told_at_its_place(tmp_path, text, expected):
    with pytest.raises(PlanError) as error:
        load(tmp_path, text)
    assert error.value.problems[0].startswith(f"{tmp_path / 'plan.yaml'}:{expected}"), error.value.problems


def test_a_problem_of_growing_is_told_at_the_short_form(tmp_path):
    loaded = load(tmp_path, "seed: 1\nscale: {width: 1.01}\n")
    for key, place in (("target.scale.width", "2:9"), ("target.scale.depth", "2:1"), ("target", "2:1")):
        with pytest.raises(PlanError) as error, loaded.placing_problems():
            raise PlanError(f"{key}: found something")
        assert str(error.value) == f"{tmp_path / 'plan.yaml'}:{place} {key}: found something"


def test_every_operator_is_named_in_short():
    for name in WIDTH_OPERATORS.keys() - {"gradmax", "ligo", "two_source"}:
        assert Plan.model_validate({"scale": 2, "width": name}).width == WIDTH_OPERATORS[name]()
    for name in DEPTH_OPERATORS.keys() - {"map", "mixing"}:
        assert Plan.model_validate({"target": "x", "depth": name}).depth == DEPTH_OPERATORS[name]()


CHANGED = [
    {"seed": 7},
    {"width": Mixture()},
    {"width": Mixture(bank="sub_block", gain=0.1)},
    {"width": None, "overrides": ()},
    {"data": Data(path="images", batches=3), "recalibrate": True},
    {"verify": None, "output": Output(dtype="bfloat16"), "allow_lossy": True},
    {"model": "resnet18", "model_args": {"a": "1e-4", "b": "no", "c": None, "d": [1, 2.5], "e": "~"}},
    {"depth": DEPTH_OPERATORS["map"](map={"layer1": (0, 0, 1)}, start="zero_out")},
]


@pytest.mark.parametrize("changes", CHANGED)
def test_the_text_of_a_changed_plan_says_the_change_and_nothing_else(tmp_path, changes):
    text = "scale: 4/3\nwidth: {operator: tile, split: equal}\nseed: 3\noverrides: [{match: '*', width: tile}]\n"
    loaded = load(tmp_path, text)
    said = loaded.with_plan(loaded.plan.model_copy(update=changes), ["why"])
    again = load(tmp_path, said.text)
    assert again.plan == said.plan == loaded.plan.model_copy(update=changes)
    assert again.sha256 == said.sha256 and said.text.startswith("# why\nscale: 4/3\n")
    assert loaded.with_plan(loaded.plan) is loaded and again.with_plan(said.plan).text == said.text


def test_a_plan_of_plain_values_is_written_as_it_is(tmp_path):
    loaded = LoadedPlan.of({"scale": {"width": 2, "depth": [2, 1]}, "width": "tile"}, tmp_path / "plan.yaml")
    assert loaded.text == "scale:\n  width: 2\n  depth: [2, 1]\nwidth: tile\n"
    assert load(tmp_path, loaded.text).plan == loaded.plan and loaded.plan.width == Tile()


@pytest.mark.parametrize("value", ["1e-4", "no", "1:30", "2020-01-01", "010", "", "~", "null", "true", 1e-5, 1e300, -3])
def test_values_are_read_as_they_were_written(tmp_path, value):
    same = ["twice"]
    content = {"a": value, "b": {"c": same, "d": [same, value]}}
    (tmp_path / "a.yaml").write_text(write_document(content))
    document = read_document(tmp_path / "a.yaml", what="", need="")
    assert document.content == content and type(document.content["a"]) is type(value) and not document.problems
