"""Which operators keep the function at one size: each is asked for its promise, the first that keeps it is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from growtool.advise.sizes import Scaling, Shape
from growtool.algebra.promise import NORM_LEAVES_A_MEAN, UNEVEN
from growtool.checkpoint import Checkpoint
from growtool.errors import GrowtoolError, PlanError
from growtool.operators.table import OPERATORS
from growtool.plan.depth import Depth
from growtool.plan.schema import Plan
from growtool.plan.target import factor_text
from growtool.plan.width import Width
from growtool.recipe.alike import stay_alike
from growtool.recipe.matching import Matching, match
from growtool.recipe.recipe import Recipe
from growtool.recipe.resolve import recipe_of, require_digits
from growtool.recipe.traced import Traced

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
    """What came of a shape.

    Attributes:
        plan: as plain data; None where no operator keeps the function.
        recipe: of that plan.
        reasons: of each operator that loses it.
        refusals: of each operator that cannot grow it so.
    """

    plan: Mapping[str, Any] | None = None
    recipe: Recipe | None = None
    reasons: list[tuple[str, ...]] = field(default_factory=list)
    refusals: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def needs_whole_factors(self) -> bool:
        """Whether every operator that applies fails because some channels have more copies than others."""
        return bool(self.reasons) and all(
            any(UNEVEN in reason or reason.endswith(NORM_LEAVES_A_MEAN) for reason in reasons)
            for reasons in self.reasons
        )


def try_shape(checkpoint: Checkpoint, source: Traced, scaling: Scaling, shape: Shape) -> Tried:
    """Ask the operators in their order; the checkpoint holds what its model has (`growtool.checkpoint.match`)."""
    tried = Tried()
    scale = scale_of(shape)
    try:
        target = Traced.of(scaling.spec(*shape), where=f"{checkpoint.name}, scaled by {scale}")
    except GrowtoolError as error:
        tried.refusals.append(error.problems)
        return tried
    matchings: dict[str, Matching] = {}
    for sections in _operators(*shape):
        told = {"target": {"scale": scale}, **sections}
        plan = Plan.model_validate(told)
        try:
            require_digits(plan, checkpoint)
            deeper = plan.depth.operator if plan.depth else ""
            if deeper not in matchings:
                matchings[deeper] = match(source, target, plan.depth)
            recipe = recipe_of(plan, checkpoint, matchings[deeper])
        except PlanError as error:
            tried.refusals.append(error.problems)
            continue
        if set(recipe.promise.reasons if recipe.promise.kind == "lossy" else ()) - _by_name(plan):
            tried.reasons.append(recipe.promise.reasons)
        elif not stay_alike(recipe):
            tried.plan, tried.recipe = told, recipe
            break
    return tried


def scale_of(shape: Shape) -> dict[str, Any]:
    """`target.scale` of a plan for a shape."""
    width, depths = shape
    return ({"width": _as_written(width)} if width else {}) | ({"depth": list(depths)} if depths else {})


def _by_name(plan: Plan) -> set[str]:
    """What the plan's operators lose wherever they are used."""
    sections: list[Width | Depth] = [section for section in (plan.width, plan.depth) if section is not None]
    losses = (OPERATORS[section.operator].implementation().loss(section) for section in sections)
    return {loss for loss in losses if loss}


def _as_written(factor: Fraction) -> int | float | str:
    text = factor_text(factor)
    return text if "/" in text else int(text) if text.isdecimal() else float(text)


def _operators(width: Fraction | None, depths: tuple[int, ...] | None) -> Iterator[dict[str, Any]]:
    for wider in WIDTHS if width else (None,):
        for deeper in DEPTHS if depths else (None,):
            sections: dict[str, Any] = {"width": dict(wider)} if wider else {}
            yield sections | ({"depth": dict(deeper)} if deeper else {})
