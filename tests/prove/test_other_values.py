"""The same operations on other values, and other ties: never promised exact, and no promise lost where they agree."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from growtool.checkpoint import ModelSpec, build
from growtool.errors import PlanError
from growtool.plan import Plan
from growtool.prove.block_equivalence import compare_passes
from growtool.recipe import resolve
from growtool.recipe.choosing.consent import require_consent
from growtool.recipe.ties import torn_ties
from growtool.trace import trace_model
from tests.support.promises import OTHERS, TILE, promised
from tests.support.treacherous_values import OTHER_VALUES, TIED_MODULES, TIES, name_of
from tests.zoo.proofs import InMemory, source_model

TURNED, WIDER = {"turned": True}, {"turned": True, "width": 2}


@pytest.mark.parametrize("case", OTHER_VALUES)
def test_other_values_are_never_called_exact(case):
    assert promised("values", case, TURNED) in ("lossy", "refused")
    assert promised("values", case, WIDER, width=TILE) in ("lossy", "refused")


@pytest.mark.parametrize("case", OTHER_VALUES)
def test_the_same_values_are_called_exact(case):
    assert promised("values", case, {"turned": False}) == "exact"


class Two(nn.Module):
    """A model of two images, which it may take for each other."""

    def __init__(self, *, exchanged: bool) -> None:
        super().__init__()
        self.a, self.b, self.exchanged = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), exchanged

    def forward(self, x, y):
        x, y = (y, x) if self.exchanged else (x, y)
        return self.a(x) + self.b(y).tanh()


def test_each_input_is_a_value_of_its_own():
    source, same, exchanged = (
        trace_model(Two(exchanged=exchanged), (3, 8, 8), (3, 8, 8)) for exchanged in (False, False, True)
    )
    unchanged, none = (lambda path: path), (lambda path: False)
    assert compare_passes(source, same, [], unchanged, none).difference is None
    difference = compare_passes(source, exchanged, [], unchanged, none).difference
    assert difference == "a: convolution reads other values than in the source"


def recipe_of(kind, case):
    spec = ModelSpec(name_of(kind, case))
    return resolve(Plan.model_validate({"target": {"model_args": TURNED}}), InMemory.of(spec, source_model(spec)))


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("weights", "a.weight = b.weight"),
        ("vectors", "g = q"),
        ("buffers", "stored = other"),
        ("one parameter registered twice", "a.weight = b.weight"),
        ("parameters in one memory", "a.weight = b.weight"),
        ("two pairs", "fc.weight = fc2.weight, a.weight = b.weight"),
        ("norms", "norm.weight = inner.weight, norm.bias = inner.bias"),
        ("a gain and a scale", "g = norm.weight"),
        (TIED_MODULES, "a.weight = b.weight, a.bias = b.bias"),
    ],
)
def test_a_tie_that_only_the_target_has_is_named(case, names):
    recipe = recipe_of("tied", case)
    promise = recipe.promise
    assert promise.kind == "lossy"
    with pytest.raises(PlanError, match=r"target: computes otherwise than the source, so that growth cannot keep the"):
        require_consent(recipe)
    assert promise.reasons[0] == f"{names}: one tensor in the target, several in the source, which may differ"
    for width in (TILE, *OTHERS):
        assert promised("tied", case, WIDER, width=width) == "lossy"


@pytest.mark.parametrize("kind", ["untied", "kept"])
@pytest.mark.parametrize("case", TIES)
def test_a_tie_that_the_target_drops_or_keeps_is_exact(case, kind):
    assert promised(kind, case, TURNED) == "exact"
    assert promised(kind, case, WIDER, width=TILE) == "exact"
    for width in OTHERS:
        promised(kind, case, WIDER, width=width)


def test_modules_that_are_no_longer_one_are_not_called_exact_and_wrong():
    for width in (TILE, *OTHERS):
        promised("untied", TIED_MODULES, WIDER, width=width)


def test_names_of_one_tensor_that_are_made_in_several_ways_are_found():
    recipe = recipe_of("kept", "weights")
    made, source = recipe.tensors, recipe.models[0]
    assert torn_ties(made.values(), source) == []
    for change in ({"zero": True}, {"remade": True}, {"implied": torch.ones(6, 6)}, {"maps": made["head.weight"].maps}):
        other = {**made, "b.weight": replace(made["b.weight"], **change)}
        reason = "a.weight = b.weight: one tensor in the target, which would have to grow in several ways at once"
        assert torn_ties(other.values(), source) == [reason]


@pytest.mark.parametrize("case", [case for case in TIES if case != "buffers"])
def test_a_model_without_weights_has_the_ties_of_the_model(case):
    parameters = build(ModelSpec(name_of("kept", case))).state_dict(keep_vars=True).values()
    assert len(set(map(id, parameters))) < len(parameters)
