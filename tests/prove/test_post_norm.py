"""New blocks that end in a norm: the norms in front of them and within become plain, the last takes over.

y = g n(z) + b stays what it is as n(n(z)) = n(z), but for eps; so it is measured with an eps of next to nothing.
"""

import pytest
import timm
import torch

from growtool.checkpoint import ModelSpec
from growtool.errors import PlanError
from growtool.growing.execute import grown_tensors
from growtool.growing.summary import summarise
from growtool.plan import Plan
from growtool.recipe import resolve
from tests.support.promises import OTHERS, TILE, promised
from tests.support.treacherous import name_of
from tests.support.treacherous_post_norm import CLOSED, DOUBTFUL
from tests.zoo.proofs import InMemory, growth_proof, source_model

OUT = {"operator": "zero_out"}
WAYS = [OUT, {**OUT, "placement": "end"}, {"operator": "cancel_out"}, {**OUT, "start": "initial"}]


def grown(case, blocks=3, **depth):
    """The source with random numbers, and the recipe with more blocks."""
    spec = ModelSpec(name_of("behind", case))
    model = source_model(spec)
    plan = Plan.model_validate({"target": {"model_args": {"depth": blocks}}, "depth": {**OUT, **depth}})
    return model, resolve(plan, InMemory.of(spec, model))


@pytest.mark.parametrize("case", CLOSED)
@pytest.mark.parametrize("depth", WAYS)
def test_blocks_behind_a_norm_are_closed(case, depth):
    for blocks in (3, 5):
        assert promised("behind", case, {"depth": blocks}, depth=depth) == "exact up to eps"


@pytest.mark.parametrize("case", CLOSED)
def test_they_grow_wider_too(case):
    assert promised("behind", case, {"depth": 3, "width": 2}, width=TILE, depth=OUT) == "exact up to eps"
    for width in OTHERS:
        promised("behind", case, {"depth": 3, "width": 2}, width=width, depth=OUT)


@pytest.mark.parametrize("case", DOUBTFUL)
def test_never_exact_and_wrong(case):
    promised("behind", case, {"depth": 4}, depth=OUT)


@pytest.mark.slow
@pytest.mark.parametrize("case", DOUBTFUL)
def test_never_exact_and_wrong_in_other_ways(case):
    for depth in WAYS[1:]:
        promised("behind", case, {"depth": 4}, depth=depth)
    promised("behind", case, {"depth": 3, "width": 2}, width=TILE, depth=OUT)


@pytest.mark.parametrize(
    ("case", "plain", "heirs"),
    [
        ("one norm", ["blocks.1.one"], {"blocks.2.one": "blocks.1.one"}),
        ("two norms", ["blocks.1.two", "blocks.2.one"], {"blocks.2.two": "blocks.1.two"}),
    ],
)
def test_which_norms_become_plain_and_which_take_over(case, plain, heirs):
    _, recipe = grown(case)
    implied = {name: tensor.implied for name, tensor in recipe.tensors.items() if tensor.implied is not None}
    assert implied.keys() == {f"{norm}.{name}" for norm in plain for name in ("weight", "bias")}
    assert all(value.unique().tolist() == [float(name.endswith("weight"))] for name, value in implied.items())
    for heir, front in heirs.items():
        assert recipe.tensors[f"{heir}.weight"].source == f"{front}.weight"


def test_a_block_from_elsewhere_takes_over_the_norm_in_front_of_it():
    """Its own copy is that of another block, whose gain does not belong there."""
    sources = [0, 0, 1, 0]
    model, recipe = grown("two norms", 4, operator="map", map=sources, start="zero_out")
    assert recipe.promise.kind == "exact up to eps" and growth_proof(model, recipe).told < 1e-9
    assert recipe.tensors["blocks.3.two.weight"].source == "blocks.1.two.weight"


def test_closed_blocks_learn():
    """What ends a branch is zero, and it has a gradient; so has the norm that took over."""
    _, recipe = grown("two norms")
    model = timm.create_model(recipe.target.architecture, **recipe.target.model_args).double()
    model.load_state_dict(grown_tensors(recipe))
    model(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()).square().sum().backward()
    closing = {name for name, tensor in recipe.tensors.items() if tensor.zero}
    assert closing == {f"blocks.2.{name}" for name in ("b.weight", "b.bias", "c.weight", "c.bias")}
    for name, parameter in model.named_parameters():
        if name in closing:
            assert not parameter.any()
        if name in closing or name.startswith("blocks.2.two"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_what_is_said_of_it():
    _, recipe = grown("two norms")
    said = " ".join(summarise(recipe).reasons)
    assert "with the new blocks closed each norms what another has normed, so eps of 0.03 counts more than once" in said
    assert "blocks.2.one" in said and "blocks.0.one" not in said


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("a gain read elsewhere", r"whose gain or shift other operations read, too \(blocks.2.one.weight\)"),
        ("gain and shift exchanged", "that are no modules of their own"),
        ("one norm for all", "native_layer_norm in norm changes what it received"),
    ],
)
def test_a_refusal_says_what_stands_in_the_way(case, why):
    with pytest.raises(PlanError, match=why):
        grown(case)
