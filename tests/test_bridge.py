"""Projections that only the target has: filled so that they pass the source's channels on.

The invariant is that of every exact growth: with all numbers random in float64, the model timm builds for the target
computes what the source computes.
"""

import pytest

from growtool.checkpoint import ModelSpec
from growtool.errors import PlanError
from growtool.plan import Plan
from growtool.recipe import resolve
from tests.zoo.proofs import InMemory, growth_proof, source_model

RESNET = {"channels": [64, 8, 8, 8], "layers": [2, 1, 1, 1], "num_classes": 5}


def recipe_of(spec, **plan):
    model = source_model(spec)
    return model, resolve(Plan.model_validate(plan), InMemory.of(spec, model))


@pytest.mark.parametrize(
    ("width", "operator"),
    [(2.0, {"operator": "tile"}), (2.0, {"operator": "mixture"}), (1.25, {"operator": "net2net"})],
)
def test_a_resnet_wider_than_its_stem_keeps_its_function(width, operator):
    model, recipe = recipe_of(ModelSpec("resnet18", RESNET), target={"scale": {"width": width}}, width=operator)
    bridge = recipe.tensors["layer1.0.downsample.0.weight"]
    assert bridge.source is None and not bridge.is_copy
    assert recipe.promise.kind == "exact"
    assert growth_proof(model, recipe).error < 1e-12


def test_bridges_and_new_blocks_go_together():
    model, recipe = recipe_of(
        ModelSpec("resnet18", RESNET),
        target={"scale": {"width": 2.0, "depth": (3, 1, 1, 1)}},
        width={"operator": "mixture"},
        depth={"operator": "zero_out"},
    )
    assert recipe.promise.kind == "exact"
    assert len(recipe.blocks.new) == 1
    assert growth_proof(model, recipe).error < 1e-12


def test_a_block_whose_shortcut_the_trace_does_not_see_is_refused():
    with pytest.raises(PlanError, match=r"layer1\.0\.downsample\.0\.weight, .*without counterpart in the source"):
        recipe_of(ModelSpec("skresnet18", RESNET), target={"scale": {"width": 2.0}}, width={"operator": "tile"})


def test_a_projection_of_the_normalised_stream_is_no_bridge():
    spec = ModelSpec("resnetv2_18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_chs": 8, "num_classes": 5})
    with pytest.raises(PlanError, match=r"stages\.0\.blocks\.0\.downsample.*without counterpart in the source"):
        recipe_of(spec, target={"model_args": {"stem_chs": 16}}, width={"operator": "tile"})
