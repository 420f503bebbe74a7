"""Never exact and wrong: whatever a model does to its channels, a promise of `exact` holds.

Every parameter and buffer is random, in float64; what is promised is measured on the model timm builds.
"""

from functools import lru_cache

import pytest
from treacherous import CLOSABLE, EXACT, IN_LINE, NOT_IN_LINE, OPEN, OTHER, TIED, name_of

from growtool.checkpoint import ModelSpec
from growtool.errors import GrowtoolError
from growtool.plan import Plan
from growtool.recipe.matching import match
from growtool.recipe.resolve import recipe_of, traced_target
from growtool.recipe.traced_model import TracedModel
from tests.zoo.proofs import InMemory, growth_proof, source_model

TILE = {"operator": "tile", "split": "equal"}
OTHERS = [{"operator": name} for name in ("net2net", "mixture", "zero", "centre_zero", "lemon")]
DEEPENING = ("zero_out", "cancel_out", "net2deeper")


def promised(kind, case, target, **sections):
    """`exact`, `lossy` or `refused`, after measuring what was called exact."""
    plan = Plan.model_validate({"target": {"model_args": target}, **sections})
    try:
        model, source, grown = _traced(kind, case, tuple(target.items()))
        recipe = recipe_of(plan, InMemory.of(source.spec, model), match(source, grown, plan.depth))
    except GrowtoolError as error:
        assert error.problems
        return "refused"
    if recipe.promise.kind == "exact":
        error = growth_proof(model, recipe).error
        assert error < 1e-9, f"promised exact, off by {error:.0e}"
    else:
        assert recipe.promise.reasons
    return recipe.promise.kind


@lru_cache(maxsize=1)
def _traced(kind, case, target):
    """The source with random numbers, and both traced: the same for every operator tried on them."""
    spec = ModelSpec(name_of(kind, case))
    source = TracedModel.of(spec, where=case)
    plan = Plan.model_validate({"target": {"model_args": dict(target)}})
    return source_model(spec), source, traced_target(plan.target, source)


@pytest.mark.parametrize("case", EXACT)
def test_what_copies_pass_through_is_exact(case):
    assert promised("wide", case, {"width": 2}, width=TILE) == "exact"


@pytest.mark.parametrize("case", [*EXACT, *OTHER])
def test_never_exact_and_wrong_in_width(case):
    if promised("wide", case, {"width": 2}, width=TILE) != "refused":  # what cannot be tiled is hardly ever matched
        for width in OTHERS:
            promised("wide", case, {"width": 2}, width=width)


@pytest.mark.parametrize("case", CLOSABLE)
def test_a_residual_branch_is_closed(case):
    assert promised("deep", case, {"depth": 3}, depth={"operator": "zero_out"}) == "exact"


@pytest.mark.parametrize("case", [*OPEN, TIED])
def test_never_exact_and_wrong_in_depth(case):
    for operator in DEEPENING:
        promised("deep", case, {"depth": 3}, depth={"operator": operator})


@pytest.mark.parametrize("case", IN_LINE)
def test_layers_in_line_grow_deeper(case):
    assert promised("line", case, {"depth": 4}, depth={"operator": "net2deeper"}) == "exact"
    assert promised("line", case, {"depth": 4}, depth={"operator": "interleave"}) == "lossy"


@pytest.mark.parametrize("case", NOT_IN_LINE)
def test_what_is_not_in_line_is_never_called_exact(case):
    assert promised("line", case, {"depth": 4}, depth={"operator": "net2deeper"}) != "exact"
