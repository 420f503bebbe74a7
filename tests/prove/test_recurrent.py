"""Recurrent layers of several sizes: each begins with zeros, which are one value and no layer's own."""

import pytest

from growtool.checkpoint import ModelSpec
from growtool.plan import Plan
from growtool.recipe import resolve
from tests.zoo.proofs import InMemory, growth_proof, source_model

SMALL = {"layers": [1, 1], "patch_sizes": [4, 2], "embed_dims": [8, 12], "hidden_sizes": [2, 3], "mlp_ratios": [2, 2],
         "img_size": 32, "num_classes": 5}  # fmt: skip


@pytest.mark.parametrize(
    "plan",
    [
        {"target": {"scale": {"width": 2}}, "width": "tile"},
        {"target": {"model_args": {"layers": [2, 2]}}, "depth": "zero_out"},
    ],
)
def test_stages_of_recurrent_layers_grow_exactly(plan):
    """The zeros that one layer begins with are not held against those of another."""
    spec = ModelSpec("sequencer2d_s", SMALL)
    model = source_model(spec)
    recipe = resolve(Plan.model_validate(plan), InMemory.of(spec, model))
    assert recipe.promise.kind == "exact", recipe.promise
    assert growth_proof(model, recipe).error < 1e-12
