"""What a plan does to two models, and which other operator to use where its own cannot grow them so far."""

from __future__ import annotations

from growtool.errors import PlanError
from growtool.plan.schema import Plan
from growtool.recipe.analysis import Analysis
from growtool.recipe.choosing.operators import WIDTHS
from growtool.recipe.matching import Matching
from growtool.recipe.promising import promise_of
from growtool.recipe.widths.expand import CannotWidenError


def growing_by(plan: Plan, matching: Matching) -> Analysis:
    """Return what the plan does; see `Analysis.by`.

    Raises:
        PlanError: channels or blocks cannot grow as the plan says; where the width operator is to blame, with another
            one that keeps the function, if there is one.
    """
    try:
        return Analysis.by(plan, matching)
    except CannotWidenError as error:
        raise PlanError([f"{problem}; {_remedy(plan, matching)}" for problem in error.problems]) from error


def _remedy(plan: Plan, matching: Matching) -> str:
    """Return what to do about a width operator that cannot: others are tried on these very models."""
    if plan.second is not None:
        return "choose widths that are twice those of the source"
    for width in WIDTHS:
        try:
            promise, _ = promise_of(Analysis.by(plan.model_copy(update={"width": width, "overrides": ()}), matching))
        except PlanError:
            continue
        if promise.kind != "lossy":
            return f"use `width: {{operator: {width.operator}}}`, which is {promise.kind} for this target"
    return (
        "no other operator keeps the function for this target; choose another, `growtool advise CHECKPOINT --budget "
        "2x-macs` proposes some that do"
    )
