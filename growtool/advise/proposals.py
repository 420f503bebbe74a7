"""Plans that grow a checkpoint within a budget: wider, deeper, and both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from growtool.advise.budget import Budget
from growtool.advise.guidelines import GUIDELINES
from growtool.advise.sizes import Scaling, Size
from growtool.checkpoint import Checkpoint
from growtool.errors import PlanError
from growtool.plan.schema import Plan
from growtool.plan.target import Scale
from growtool.recipe import resolve
from growtool.recipe.resolve import traced_target
from growtool.recipe.target import scalable
from growtool.recipe.traced import Traced

# Tried in this order; the first whose promise is not lossy is proposed, else the first that applies at all.
WIDTH_OPERATORS = ("mixture", "centre_zero", "net2net")
DEPTH_OPERATORS = ("zero_out", "net2deeper", "interleave")


@dataclass(frozen=True, slots=True)
class Proposal:
    """One plan within the budget.

    Attributes:
        axis: `width`, `depth` or `both`.
        plan: what the file says, as plain data.
        size: of the grown model.
        promise: `exact` or `lossy`.
        reasons: why it is lossy.
        guideline: what has been published about growing so, with its limits.
    """

    axis: str
    plan: Mapping[str, Any]
    size: Size
    promise: str
    reasons: tuple[str, ...]
    guideline: str

    def text(self, heading: str) -> str:
        """The plan file, with `heading` as its first comment."""
        return f"# {heading}\n{yaml.safe_dump(dict(self.plan), sort_keys=False, default_flow_style=None)}"


@dataclass(frozen=True, slots=True)
class Advice:
    """Attributes:

    source: the size of the checkpoint.
    proposals: one for each axis that can grow within the budget.
    refused: axis -> why there is no proposal.
    """

    source: Size
    proposals: tuple[Proposal, ...]
    refused: Mapping[str, str]


def advise(checkpoint: Checkpoint, budget: Budget) -> Advice:
    """The largest plan of each axis within the budget; no weight is read.

    Raises:
        CheckpointError: the checkpoint's model cannot be built or run.
    """
    source = Traced.of(checkpoint.spec, where=checkpoint.name)
    base, knobs = scalable(Scale(width=2.0, depth=2.0), checkpoint.spec, source.model, source.coupling)
    scaling = Scaling(base, knobs, budget)
    shapes = {
        "width": (scaling.widest(), None),
        "depth": (None, scaling.deepest()),
        "both": scaling.balanced() or (None, None),
    }
    proposals, refused = [], {}
    for axis, (width, depths) in shapes.items():
        if (width, depths) == (None, None):
            refused[axis] = _nothing_fits(axis, scaling)
            continue
        try:
            proposals.append(_propose(axis, checkpoint, source, scaling, width, depths))
        except PlanError as error:
            refused[axis] = "; ".join(error.problems)
    assert scaling.source is not None
    return Advice(scaling.source, tuple(proposals), refused)


def _nothing_fits(axis: str, scaling: Scaling) -> str:
    lacking = [
        what
        for what, found in (("width", scaling.width_factors), ("depth", scaling.depths))
        if axis in (what, "both") and not found
    ]
    if lacking:
        return f"no argument of the constructor scales its {' or '.join(lacking)}"
    return "the least growth is beyond the budget"


def _propose(
    axis: str,
    checkpoint: Checkpoint,
    source: Traced,
    scaling: Scaling,
    width: float | None,
    depths: tuple[int, ...] | None,
) -> Proposal:
    """The plan with the first operators that keep the function.

    Raises:
        PlanError: no operator can grow it so.
    """
    scale: dict[str, Any] = {"width": width} if width else {}
    scale |= {"depth": list(depths)} if depths else {}
    target = traced_target(Plan.model_validate({"target": {"scale": scale}}).target, source)
    lossy: Proposal | None = None
    refusal: PlanError | None = None
    for sections in _operators(width, depths):
        plan = {"target": {"scale": scale}, **sections}
        try:
            recipe = resolve(Plan.model_validate(plan), checkpoint, traced=(source, target))
        except PlanError as error:
            refusal = refusal or error
            continue
        size = scaling.size(width or 1.0, depths or scaling.unchanged)
        assert size is not None, "a plan that resolves has a target"
        found = Proposal(axis, plan, size, recipe.promise.kind, recipe.promise.reasons, GUIDELINES[axis])
        if found.promise != "lossy":
            return found
        lossy = lossy or found
    if lossy is None:
        assert refusal is not None, "there are operators to try"
        raise refusal
    return lossy


def _operators(width: float | None, depths: tuple[int, ...] | None) -> Iterator[dict[str, Any]]:
    for wider in WIDTH_OPERATORS if width else (None,):
        for deeper in DEPTH_OPERATORS if depths else (None,):
            sections: dict[str, Any] = {"width": {"operator": wider}} if wider else {}
            yield sections | ({"depth": {"operator": deeper}} if deeper else {})
