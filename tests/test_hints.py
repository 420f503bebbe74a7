"""What a message suggests is accepted on that very model: each is provoked, read, and done."""

import re

import pytest
from models import TINY, Tiny, plan_of, write_folder

from growtool.advise import advise, parse_budget
from growtool.checkpoint import open_checkpoint
from growtool.errors import PlanError
from growtool.recipe import resolve
from tests.test_closings import deeper

MODELS = {
    "mobilenetv3": Tiny("mobilenetv3_small_050", {"num_classes": 5}),
    "convnext": TINY["convnext"],
    "vit": TINY["vit"].with_args(embed_dim=16, num_heads=4),
    "resnet": Tiny("resnet18", {"layers": [2, 2, 2, 2], "channels": [8, 8, 16, 24], "num_classes": 5}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return {name: open_checkpoint(write_folder(tiny, root / name)) for name, tiny in MODELS.items()}


def problem_of(source, plan, tmp_path) -> str:
    """The first problem of a plan that is refused."""
    with pytest.raises(PlanError) as error:
        resolve(plan_of(tmp_path, plan).plan, source)
    return error.value.problems[-1]


@pytest.mark.parametrize("name", MODELS)
def test_the_operator_that_is_named_in_place_of_tile_keeps_the_function(name, sources, tmp_path):
    target = {"scale": {"width": 1.5}}
    said = problem_of(sources[name], {"target": target, "width": {"operator": "tile"}}, tmp_path)
    named = re.search(r"use `width: \{operator: (\w+)\}`, which is (.*) for this target", said)
    if named:
        recipe = resolve(plan_of(tmp_path, {"target": target, "width": {"operator": named[1]}}).plan, sources[name])
        assert recipe.promise.kind == named[2] != "lossy"
    else:
        budget = re.search(r"`growtool advise CHECKPOINT --budget (\S+)` proposes some that do", said)
        assert budget is not None
        advice = advise(sources[name], parse_budget(budget[1]))
        wider = [p for p in (*advice.proposals, *advice.beyond) if p.axis == "width"]
        assert wider, advice.refused
        for proposal in wider:
            assert resolve(plan_of(tmp_path, proposal.plan).plan, sources[name]).promise.kind != "lossy"
    assert bool(named) == (name in ("vit", "resnet"))


@pytest.mark.parametrize("name", ["vit", "resnet", "convnext"])
@pytest.mark.parametrize("axis", ["width", "depth"])
def test_the_nearest_factors_are_accepted(name, axis, sources, tmp_path):
    sections = {"width": {"operator": "net2net"}, "depth": {"operator": "zero_out"}}
    plan = {"target": {"scale": {axis: 1.3}}, axis: sections[axis]}
    said = problem_of(sources[name], plan, tmp_path)
    nearest = re.search(r"nearest factors that are: (.*)$", said)
    assert nearest is not None, said
    for factor in nearest[1].split(" or "):
        resolve(plan_of(tmp_path, plan | {"target": {"scale": {axis: _number(factor)}}}).plan, sources[name])


@pytest.mark.parametrize(("name", "operator"), [("vit", "net2deeper"), ("resnet", "cancel_out")])
def test_the_operator_that_is_named_for_depth_is_accepted(name, operator, sources, tmp_path):
    plan = {"target": {"scale": {"depth": 2}}, "depth": {"operator": operator}}
    named = re.search(r"; use (\w+)", problem_of(sources[name], plan, tmp_path))
    assert named is not None
    recipe = resolve(plan_of(tmp_path, plan | {"depth": {"operator": named[1]}}).plan, sources[name])
    assert recipe.promise.kind == "exact"


@pytest.mark.parametrize("case", ["a chain", "activation on the stream"])
def test_what_is_named_where_there_is_no_residual_connection_is_accepted(case):
    with pytest.raises(PlanError) as error:
        deeper(case)
    found = re.search(r"use (\w+) or (\w+) \(lossy\)", str(error.value))
    assert found is not None
    for operator in found.groups():
        assert deeper(case, operator).promise.kind == "lossy"


def _number(text: str) -> float | str:
    return text if "/" in text else float(text)
