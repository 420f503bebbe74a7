"""The first operator that keeps the function at a given size: each one is asked for its promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from growtool.checkpoint import Checkpoint
from growtool.errors import GrowtoolError, PlanError
from growtool.plan.schema import Plan
from growtool.prove.obstacle import Obstacle, Why
from growtool.recipe.matching import Matching, match
from growtool.recipe.recipe import Recipe
from growtool.recipe.resolve import recipe_of, require_digits
from growtool.recipe.symmetry import stay_alike
from growtool.recipe.traced_model import TracedModel
from growtool.workflows.advise.sizes import Scaling, Shape, scale_of

WIDTHS: tuple[Mapping[str, Any], ...] = (
    {"operator": "mixture"},
    {"operator": "mixture", "bank": "sub_block"},
    {"operator": "centre_zero"},
    {"operator": "net2net"},
)
DEPTHS: tuple[Mapping[str, Any], ...] = (
    {"operator": "zero_out"},
    {"operator": "net2deeper"},
    {"operator": "interleave"},  # lossy by its name, where nothing else can
)


@dataclass
class Tried:
    """The result of trying all operators at one size.

    Attributes:
        plan: as plain data; None if no operator keeps the function.
        recipe: of that plan.
        obstacles: one entry for each operator that loses the function.
        refusals: one entry for each operator that cannot grow to this size.
    """

    plan: Mapping[str, Any] | None = None
    recipe: Recipe | None = None
    obstacles: list[tuple[Obstacle, ...]] = field(default_factory=list)
    refusals: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def needs_whole_factors(self) -> bool:
        """Whether all operators that apply fail because some channels have more copies than others."""
        uneven = (Why.UNEVEN, Why.MEAN)
        return bool(self.obstacles) and all(any(o.why in uneven for o in found) for found in self.obstacles)

    @property
    def reasons(self) -> list[tuple[str, ...]]:
        """For each operator that loses the function, the reasons."""
        return [tuple(obstacle.text for obstacle in found) for found in self.obstacles]


def try_shape(checkpoint: Checkpoint, source: TracedModel, scaling: Scaling, shape: Shape) -> Tried:
    """Try the operators in their order at one size.

    Args:
        checkpoint: with the tensors of its model, as `growtool.checkpoint.match` returns it.
        source: its traced model.
        scaling: makes the spec of a size.
        shape: the size.
    """
    tried = Tried()
    scale = scale_of(shape)
    try:
        target = TracedModel.of(scaling.spec(*shape), where=f"{checkpoint.name}, scaled by {scale}")
    except GrowtoolError as error:
        tried.refusals.append(error.problems)
        return tried
    for deeper in DEPTHS if shape[1] else (None,):
        sections: dict[str, Any] = {"depth": dict(deeper)} if deeper else {}
        try:
            matching = match(source, target, Plan.model_validate({"target": {"scale": scale}, **sections}).depth)
        except PlanError as error:
            tried.refusals.append(error.problems)
            continue
        _try_widths(({"scale": scale}, sections), WIDTHS if shape[0] else (None,), checkpoint, matching, tried)
        if tried.plan is not None:
            break
    return tried


def _try_widths(
    asked: tuple[Mapping[str, Any], Mapping[str, Any]],
    widths: Sequence[Mapping[str, Any] | None],
    checkpoint: Checkpoint,
    matching: Matching,
    tried: Tried,
) -> None:
    """Try the width operators for a target and a depth section, and add the results to `tried`."""
    (target, deeper), alike = asked, True
    for wider in widths:
        if wider and "bank" in wider and not alike:
            continue  # another bank tells copies apart; it keeps no function that the first does not
        told = {"target": target, **({"width": dict(wider)} if wider else {}), **deeper}
        plan, alike = Plan.model_validate(told), False
        try:
            require_digits(plan, checkpoint)
            recipe = recipe_of(plan, checkpoint, matching)
        except PlanError as error:
            tried.refusals.append(error.problems)
            continue
        promise = recipe.promise
        if promise.kind == "lossy" and any(obstacle.why is not Why.BY_NAME for obstacle in promise.obstacles):
            tried.obstacles.append(promise.obstacles)
        elif not (alike := stay_alike(recipe) is not None):
            tried.plan, tried.recipe = told, recipe
            return
