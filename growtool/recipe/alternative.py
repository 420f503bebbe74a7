"""What a lossy plan could say instead: the width operator that is exact for its target, or that loses least."""

from __future__ import annotations

from collections.abc import Mapping

from growtool.algebra.moved_factors import MovedFactor
from growtool.algebra.promise import NORM_LEAVES_A_MEAN, Promise
from growtool.operators.table import OPERATORS
from growtool.plan.schema import Plan
from growtool.plan.width import CentreZero
from growtool.recipe.matching import Matching
from growtool.recipe.promising import promise_of
from growtool.recipe.starts import Starts
from growtool.recipe.widths import expand_widths


def better_width(
    plan: Plan, matching: Matching, starts: Starts, moved: Mapping[str, MovedFactor], promise: Promise
) -> str | None:
    """A sentence, where channels are what is lossy and another operator does better; None elsewhere.

    Args:
        plan: as the user wrote it.
        matching: source and target side by side.
        starts: how new blocks are closed.
        moved: factors that the layers behind make up for, by module.
        promise: the plan's.
    """
    width = plan.width
    if promise.kind != "lossy" or width is None or OPERATORS[width.operator].implementation().loss(width):
        return None
    if plan.second is not None:  # no other operator takes in a second model
        return None
    other = plan.model_copy(update={"width": CentreZero(), "overrides": ()})
    widths = expand_widths(other, matching, starts.zero | starts.cancelling.keys())
    if not widths.changes:
        return None
    found, _ = promise_of(other, matching, widths, {}, starts, moved)
    if found.kind != "lossy":
        return f"width: {{operator: centre_zero}} is {found.kind} for this target"
    if all(reason.endswith(NORM_LEAVES_A_MEAN) for reason in found.reasons):
        least = "centre_zero"
    elif any("not all copied equally often" in reason for reason in found.reasons):
        least = "net2net"
    else:
        return None
    if width.operator == least:
        return None
    return f"no width operator is exact for this target; {least} lost least where it was measured (docs/operators.md)"
