"""What is promised of the treacherous models, measured where it is called exact."""

from functools import lru_cache

from growtool.checkpoint import ModelSpec
from growtool.errors import GrowtoolError
from growtool.plan import Plan
from growtool.recipe import resolve
from growtool.recipe.matching import match
from growtool.recipe.resolve import recipe_of, traced_target
from growtool.recipe.traced_model import TracedModel
from tests.support import treacherous_callers, treacherous_post_norm  # noqa: F401 - they register their models
from tests.support.treacherous import name_of
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
    if recipe.promise.kind != "lossy":
        error = growth_proof(model, recipe).told
        assert error < 1e-9, f"promised {recipe.promise.kind}, off by {error:.0e}"
    if recipe.promise.kind != "exact":
        assert recipe.promise.reasons
    return recipe.promise.kind


@lru_cache(maxsize=1)
def _traced(kind, case, target):
    """The source with random numbers, and both traced: the same for every operator tried on them."""
    spec = ModelSpec(name_of(kind, case))
    source = TracedModel.of(spec, where=case)
    plan = Plan.model_validate({"target": {"model_args": dict(target)}})
    return source_model(spec), source, traced_target(plan.target, source)


def deeper(case: str, operator: str = "zero_out"):
    """The recipe with one more block."""
    spec = ModelSpec(name_of("called", case))
    plan = Plan.model_validate({"target": {"model_args": {"depth": 3}}, "depth": {"operator": operator}})
    return resolve(plan, InMemory.of(spec, source_model(spec)))
