"""What a lossy plan could say instead: the width operator that is exact for its target, or that loses least."""

from __future__ import annotations

from dataclasses import replace

from growtool.algebra.promise import NORM_LEAVES_A_MEAN, Promise
from growtool.operators.table import OPERATORS
from growtool.plan.width import CentreZero
from growtool.recipe.growing import Growing
from growtool.recipe.promising import promise_of
from growtool.recipe.widths import expand_widths


def better_width(growing: Growing, promise: Promise) -> str | None:
    """A sentence, where channels are what is lossy and another operator does better; None elsewhere."""
    plan, width = growing.plan, growing.plan.width
    if promise.kind != "lossy" or width is None or OPERATORS[width.operator].implementation().loss(width):
        return None
    if plan.second is not None:  # no other operator takes in a second model
        return None
    other = plan.model_copy(update={"width": CentreZero(), "overrides": ()})
    widths = expand_widths(other, growing.matching, growing.starts.closed)
    if not widths.changes:
        return None
    found, _ = promise_of(replace(growing, plan=other, widths=widths, sections={}, rescaled={}))
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
