"""Parameters that a model holds under several names: every name plays its role, and all get the same values.

The invariant: with all numbers random in float64, the model timm builds for the target computes what the source
computes, and the tensors of one parameter are equal in the written state.
"""

import pytest

from growtool.checkpoint import ModelSpec
from growtool.growing.execute import grown_tensors
from growtool.plan import Plan
from growtool.recipe import resolve
from tests.zoo.proofs import InMemory, growth_proof, source_model

COAT = {
    "embed_dims": [16, 16, 16, 16],
    "serial_depths": [1, 1, 1, 1],
    "parallel_depth": 1,
    "num_heads": 8,
    "mlp_ratios": [2, 2, 2, 2],
    "num_classes": 5,
}


@pytest.mark.parametrize("operator", [{"operator": "tile"}, {"operator": "net2net", "split": "random_projection"}])
def test_a_shared_layer_grows_once(operator):
    spec = ModelSpec("coat_tiny", COAT)
    model = source_model(spec)
    plan = Plan.model_validate({"target": {"model_args": {"mlp_ratios": [4, 4, 4, 4]}}, "width": operator})
    recipe = resolve(plan, InMemory.of(spec, model))
    assert recipe.promise.kind == "exact"
    assert growth_proof(model, recipe).error < 1e-12
    state = grown_tensors(recipe)
    shared = [state[f"parallel_blocks.0.mlp{i}.fc2.weight"] for i in (2, 3, 4)]
    assert shared[0].equal(shared[1])
    assert shared[0].equal(shared[2])
