"""What a message suggests is accepted on that very model: each is provoked, read, and done."""

import re
from functools import cache

import pytest

from growtool.checkpoint import ModelSpec, build, open_checkpoint
from growtool.errors import PlanError
from growtool.plan.depth import ZeroOut
from growtool.recipe import resolve
from growtool.recipe.blocks.placing import place_blocks
from growtool.recipe.choosing.consent import require_consent
from growtool.recipe.symmetry import stay_alike
from growtool.recipe.target.size_arguments import SizeArguments
from growtool.workflows.advise.budget import parse_budget
from growtool.workflows.advise.proposals import advise
from tests.support.blocks import alternating
from tests.support.copies import COPIES
from tests.support.models import TINY, Tiny, plan_of, resolved, write_folder
from tests.support.promises import deeper
from tests.zoo.proofs import InMemory

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


@pytest.mark.parametrize("name", [pytest.param("mobilenetv3", marks=pytest.mark.slow), "convnext", "vit", "resnet"])
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
    nearest = re.search(r"nearest factors that fit: (.*)$", said)
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Writes each tiny model once."""
    root = tmp_path_factory.mktemp("folders")
    return cache(lambda family, args: write_folder(TINY[family].with_args(**dict(args)), root / f"{family}{len(args)}"))


def test_a_stage_without_a_block_to_copy_is_left_as_it_is(folders):
    """Where a new one has no residual connection to start closed with."""
    source, deeper = folders("mobilenetv3", ()), {"depth": {"operator": "zero_out"}}
    with pytest.raises(PlanError, match=r"blocks\.5\.1: .* needs a residual connection around"):
        resolved(source, {"target": {"model_args": {"repeats": [1, 2, 3, 2, 3, 2]}}, **deeper})
    target = {"target": {"model_args": {"repeats": [1, 3, 3, 2, 3, 1]}}}
    assert resolved(source, target | deeper).promise.kind == "exact"


@pytest.mark.parametrize(("key", "value"), [("num_classes", 7), ("img_size", 48)])
def test_what_growth_keeps_is_left_out(key, value, folders):
    source, wider = folders("vit", ()), {"embed_dim": 16, "num_heads": 4}
    with pytest.raises(PlanError, match=f"leave {key} out|set {key} and in_chans alike"):
        resolved(source, {"target": {"model_args": {**wider, key: value}}})
    assert resolved(source, {"target": {"model_args": wider}}).promise.kind == "exact"


@pytest.mark.slow
def test_the_siblings_that_are_named_are_accepted(tmp_path, monkeypatch):
    spec = ModelSpec("vit_tiny_patch16_224", {"num_classes": 5})
    source = InMemory.of(spec, build(spec))
    with monkeypatch.context() as context:
        context.setattr("growtool.recipe.target.spec.find_size_arguments", lambda *_, **__: SizeArguments({}, {}))
        said = problem_of(source, {"target": {"scale": {"width": 2}}}, tmp_path)
    named = re.search(r"name a larger model of the family, `target: {model: NAME}`: (.*)$", said)
    assert named is not None, said
    for name in named[1].split(", "):
        require_consent(resolve(plan_of(tmp_path, {"target": {"model": name}}).plan, source))


@pytest.mark.parametrize(
    ("family", "args"),
    [
        ("vit", {"embed_dim": 16, "num_heads": 4}),
        ("resnet", {"channels": [8, 16, 16, 24]}),
        ("eva", {"mlp_ratio": 4.0}),
    ],
)
def test_the_operator_that_is_named_where_there_are_no_hidden_units_is_accepted(family, args, folders, tmp_path):
    source, target = folders(family, ()), {"target": {"model_args": args}}
    with pytest.raises(PlanError) as error:
        resolved(source, {**target, "width": {"operator": "gradmax"}, "data": {"path": str(tmp_path)}})
    for problem in error.value.problems:
        named = re.search(r"; use `width: \{operator: (\w+)\}`, which is (.*) for this target$", problem)
        assert named is not None, problem
        assert resolved(source, {**target, "width": {"operator": named[1]}}).promise.kind == named[2] != "lossy"


ALIKE = {  # what a message about copies that stay alike suggests
    "split: random_projection": {"width": {"operator": "tile", "split": "random_projection"}, "overrides": []},
    "the operator tile": {"width": {"operator": "tile"}, "overrides": []},
    "bank: sub_block": {"width": {"operator": "mixture", "bank": "sub_block"}, "overrides": []},
    "a gain with other coefficients": {"width": {"operator": "mixture", "gain": 1.0}, "overrides": []},
}


@pytest.mark.parametrize("case", [case for case, found in COPIES.items() if found[4] is not None])
def test_what_is_named_where_copies_stay_alike_tells_them_apart(case, folders):
    family, args, width, overrides, _, _ = COPIES[case]
    source = folders(family, (("layers", (2, 1, 1, 1)),) if family == "resnet" else ())
    target = {"target": {"model_args": dict(args)}}
    said = stay_alike(resolved(source, {**target, "width": width, "overrides": overrides}))
    named = [plan for words, plan in ALIKE.items() if words in said]
    assert named, said
    for plan in named:
        recipe = resolved(source, {**target, **plan})
        assert recipe.promise.kind == "exact" and stay_alike(recipe) is None


def test_two_sources_grow_to_twice_their_widths(folders):
    source, plan = folders("vit", ()), {"second": "mirror", "width": {"operator": "two_source"}}
    with pytest.raises(PlanError, match="choose widths that are twice those of the source"):
        resolved(source, {"target": {"scale": {"width": 3}}, **plan})
    resolved(source, {"target": {"scale": {"width": 2}}, **plan})


def test_overrides_that_disagree_are_mended_as_the_message_says(folders):
    source, target = folders("resnet", ()), {"target": {"model_args": {"channels": [8, 16, 16, 24]}}}
    other = [{"match": "layer1*", "width": {"operator": "zero"}}]
    with pytest.raises(PlanError, match="choose other options of tile, or one operator for the whole model"):
        resolved(source, {**target, "width": {"operator": "tile"}, "overrides": other})
    other = [{"match": "layer1*", "width": {"operator": "tile", "gain": 0.2}}]
    assert resolved(source, {**target, "width": {"operator": "tile"}, "overrides": other}).promise.kind == "exact"
    assert resolved(source, {**target, "width": {"operator": "zero"}}).promise.kind != "lossy"


def test_kinds_that_alternate_grow_by_as_many_blocks_of_each():
    with pytest.raises(PlanError, match="add as many blocks of each kind"):
        place_blocks([alternating("abab", "abbaa")], ZeroOut())
    place_blocks([alternating("abab", "ababab")], ZeroOut())


def _number(text: str) -> float | str:
    return text if "/" in text else float(text)
