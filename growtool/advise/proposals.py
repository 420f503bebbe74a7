"""Plans that grow a checkpoint within a budget: wider, deeper, and both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import yaml

from growtool.advise.budget import SizeBudget
from growtool.advise.guidelines import GUIDELINES
from growtool.advise.sizes import Scaling, Size
from growtool.checkpoint import Checkpoint
from growtool.checkpoint.reach import OPEN
from growtool.errors import GrowtoolError, PlanError
from growtool.plan.schema import Plan
from growtool.plan.target import Scale, factor_text
from growtool.recipe import resolve
from growtool.recipe.alike import stay_alike
from growtool.recipe.target import scalable
from growtool.recipe.traced import Traced

# Tried in this order; the first whose promise is not lossy is proposed, else the first that applies at all. What would
# leave copies that stay alike is not proposed.
WIDTHS: tuple[Mapping[str, Any], ...] = (
    {"operator": "mixture"},
    {"operator": "mixture", "bank": "sub_block"},
    {"operator": "centre_zero"},
    {"operator": "net2net"},
)
DEPTHS: tuple[Mapping[str, Any], ...] = (
    {"operator": "zero_out"},
    {"operator": "net2deeper"},
    {"operator": "interleave"},
)

AXES = ("width", "depth", "both")


@dataclass(frozen=True, slots=True)
class Proposal:
    """One plan within the budget.

    Attributes:
        axis: `width`, `depth` or `both`.
        plan: what the file says, as plain data.
        size: of the grown model.
        promise: `exact` or `lossy`.
        reasons: why it is lossy.
        guideline: what has been published and measured about growing so, with its limits.
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


def advise(checkpoint: Checkpoint, budget: SizeBudget) -> Advice:
    """The largest plan of each axis within the budget; no weight is read.

    Raises:
        CheckpointError: the checkpoint's model cannot be built or run.
    """
    source = Traced.of(checkpoint.spec, where=checkpoint.name)
    scalings = _scalings(source, budget)
    shapes = {
        "width": (scalings["width"].widest(), None),
        "depth": (None, scalings["depth"].deepest()),
        "both": scalings["both"].balanced() or (None, None),
    }
    proposals, refused = [], {}
    for axis, (width, depths) in shapes.items():
        if (width, depths) == (None, None):
            refused[axis] = _nothing_fits(axis, scalings[axis])
            continue
        try:
            proposals.append(_propose(axis, checkpoint, source, scalings[axis], width, depths))
        except GrowtoolError as error:
            refused[axis] = "; ".join(error.problems)
    return Advice(scalings["both"].source, tuple(proposals), refused)


def _scalings(source: Traced, budget: SizeBudget) -> dict[str, Scaling]:
    """What each axis can be scaled by, as a plan that scales it alone finds it."""

    def of(**axes: float) -> Scaling:
        base, knobs = scalable(Scale(**axes), source.spec, source.model, source.coupling)
        return Scaling(base, source.model, knobs, budget)

    both = of(width=2.0, depth=2.0)
    if both.base.architecture != OPEN:  # then neither axis has arguments of its own beyond the constructor's
        return dict.fromkeys(AXES, both)
    return {"width": of(width=2.0), "depth": of(depth=2.0), "both": both}


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
    width: Fraction | None,
    depths: tuple[int, ...] | None,
) -> Proposal:
    """The plan with the first operators that keep the function.

    Raises:
        PlanError: no operator can grow it so.
        CheckpointError: it does not run.
    """
    scale: dict[str, Any] = {"width": _as_written(width)} if width else {}
    scale |= {"depth": list(depths)} if depths else {}
    target = Traced.of(scaling.spec(width, depths), where=f"{checkpoint.name}, scaled by {scale}")
    size = scaling.size(width, depths)
    assert size is not None, "what was traced has a size"
    lossy: Proposal | None = None
    refusal: PlanError | None = None
    for sections in _operators(width, depths):
        plan = {"target": {"scale": scale}, **sections}
        try:
            recipe = resolve(Plan.model_validate(plan), checkpoint, source=source, target=target)
        except PlanError as error:
            refusal = refusal or error
            continue
        if stay_alike(recipe):
            continue
        found = Proposal(axis, plan, size, recipe.promise.kind, recipe.promise.reasons, GUIDELINES[axis])
        if found.promise != "lossy":
            return found
        lossy = lossy or found
    if lossy is None:
        assert refusal is not None, "there are operators to try"
        raise refusal
    return lossy


def _as_written(factor: Fraction) -> int | float | str:
    text = factor_text(factor)
    return text if "/" in text else int(text) if text.isdecimal() else float(text)


def _operators(width: Fraction | None, depths: tuple[int, ...] | None) -> Iterator[dict[str, Any]]:
    for wider in WIDTHS if width else (None,):
        for deeper in DEPTHS if depths else (None,):
            sections: dict[str, Any] = {"width": dict(wider)} if wider else {}
            yield sections | ({"depth": dict(deeper)} if deeper else {})
