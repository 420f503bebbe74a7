"""Plans that grow a checkpoint within a budget and keep its function: wider, deeper, and both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from growtool.checkpoint import Checkpoint
from growtool.checkpoint.match import matched
from growtool.errors import GrowtoolError, PlanError
from growtool.plan.depth import Depth, Interleave, Net2Deeper, ZeroOut
from growtool.plan.schema import Plan
from growtool.plan.target import Scale
from growtool.prove.obstacle import Obstacle, Why
from growtool.recipe.choosing.operators import WIDTHS, attempts
from growtool.recipe.matching import Matching
from growtool.recipe.recipe import Recipe
from growtool.recipe.resolve import recipe_of, require_digits
from growtool.recipe.target.spec import scalable
from growtool.recipe.target.trials import Built
from growtool.recipe.traced_model import TracedModel
from growtool.workflows.advise.budget import AXES, GUIDELINES, SizeBudget
from growtool.workflows.advise.sizes import Scaling, Shape, Size, scale_of, size_of

_DEPTHS: tuple[Depth, ...] = (ZeroOut(), Net2Deeper(), Interleave())  # the last one is lossy by its name


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed plan.

    Attributes:
        axis: `width`, `depth` or `both`.
        plan: the content of the plan file, as plain data.
        size: of the grown model.
        promise: `exact` or `exact up to eps`; `lossy` only if no operator can keep the function at this size.
        reasons: why it is lossy.
        guideline: what was measured about this way of growing, or where its shape comes from.
    """

    axis: str
    plan: Mapping[str, Any]
    size: Size
    promise: str
    reasons: tuple[str, ...]
    guideline: str

    def text(self, heading: str, of: Mapping[str, Any]) -> str:
        """Return the text of the plan file, with a heading; `of` are `model` and `model_args` of a lone file."""
        return f"# {heading}\n{yaml.safe_dump({**of, **self.plan}, sort_keys=False, default_flow_style=None)}"


@dataclass(frozen=True, slots=True)
class Advice:
    """The plans that fit a budget, and why there are no more.

    Attributes:
        source: the size of the checkpoint.
        proposals: one for each axis that can grow within the budget and keep the function.
        beyond: for each other axis, the smallest growth beyond the budget that keeps the function, if there is one.
        refused: axis -> why there is no proposal.
    """

    source: Size
    proposals: tuple[Proposal, ...]
    beyond: tuple[Proposal, ...]
    refused: Mapping[str, str]


def advise(checkpoint: Checkpoint, budget: SizeBudget) -> Advice:
    """Find the largest plan for each axis that keeps the function within the budget; no weight is read.

    Raises:
        CheckpointError: the checkpoint's model cannot be built or run.
    """
    source = TracedModel.of(checkpoint.spec, where=checkpoint.name)
    checkpoint = matched(checkpoint, source.model)
    scalings = _scalings(source, budget)
    proposals, beyond, refused = [], [], {}
    for axis in AXES:
        search = _Search(axis, checkpoint, source, scalings[axis])
        within, further = scalings[axis].shapes(axis)
        if found := search.first(within):
            proposals.append(found)
        elif found := search.first(further):
            beyond.append(found)
            refused[axis] = "no growth that keeps the function is within the budget"
        else:
            refused[axis] = search.why()
    return Advice(scalings["both"].source, tuple(proposals), tuple(beyond), refused)


def _scalings(source: TracedModel, budget: SizeBudget) -> dict[str, Scaling]:
    """Return what scales each axis, as a plan for this axis alone would find it."""
    built: Built = {}
    size = size_of(source.spec, source.model)

    def of(**axes: float) -> Scaling:
        base, size_arguments = scalable(Scale(**axes), source, built)
        return Scaling(base, size, size_arguments, budget)

    both = of(width=2.0, depth=2.0)
    # If the arguments of the public constructor suffice for both axes, they suffice for each of them.
    if source.library.with_open_arguments(both.base.spec) != both.base.spec:
        return dict.fromkeys(AXES, both)
    return {"width": of(width=2.0), "depth": of(depth=2.0), "both": both}


class _Search:
    """A search for the first size to which some operators grow and keep the function."""

    def __init__(self, axis: str, checkpoint: Checkpoint, source: TracedModel, scaling: Scaling) -> None:
        self._axis, self._checkpoint, self._source, self._scaling = axis, checkpoint, source, scaling
        # of the latest size, an entry for each choice of operators that loses the function there, or cannot grow to it
        self._obstacles: list[tuple[Obstacle, ...]] = []
        self._refusals: list[tuple[str, ...]] = []

    def first(self, shapes: Iterable[Shape]) -> Proposal | None:
        """Return a proposal for the first size that works, in the order given; None if none does.

        Once all operators that apply fail because some channels have more copies than others, only whole factors of the
        width are tried. The search ends when two sizes in a row are refused for the same reasons.
        """
        for shape in shapes:
            uneven = [any(o.why in (Why.UNEVEN, Why.MEAN) for o in found) for found in self._obstacles]
            if uneven and all(uneven) and shape[0] is not None and shape[0].denominator != 1:
                continue
            before = self._refusals
            recipe = self._recipe(shape)
            if recipe is not None:
                size, promise = self._scaling.size(*shape), recipe.promise
                assert size is not None, "what has a recipe has a size"
                plan = _as_data(recipe.plan, shape)
                return Proposal(self._axis, plan, size, promise.kind, promise.reasons, GUIDELINES[self._axis])
            if self._refusals and not self._obstacles and self._refusals == before:
                break
        return None

    def _recipe(self, shape: Shape) -> Recipe | None:
        """Return the recipe with the first operators that keep the function at a size; None if none does."""
        self._obstacles, self._refusals = [], []
        scale = scale_of(shape)
        try:
            where = f"{self._checkpoint.name}, scaled by {scale}"
            target = TracedModel.of(self._scaling.spec(*shape), where=where)
        except GrowtoolError as error:
            self._refusals.append(error.problems)
            return None
        plan = Plan.model_validate({"target": {"scale": scale}})
        widths, depths = WIDTHS if shape[0] else (None,), _DEPTHS if shape[1] else (None,)
        for attempt in attempts(plan, self._source, target, self._made, widths=widths, depths=depths):
            if isinstance(attempt.outcome, PlanError):
                self._refusals.append(attempt.outcome.problems)
                continue
            promise = attempt.outcome.promise
            if promise.kind == "lossy" and any(obstacle.why is not Why.BY_NAME for obstacle in promise.obstacles):
                self._obstacles.append(promise.obstacles)
            elif attempt.lacks is None:
                return attempt.outcome
        return None

    def _made(self, plan: Plan, matching: Matching) -> Recipe:
        require_digits(plan, self._checkpoint)
        return recipe_of(plan, self._checkpoint, matching)

    def why(self) -> str:
        """Return why there is no proposal."""
        lacking = [
            what
            for what, found in (("width", self._scaling.width_factors), ("depth", self._scaling.depths))
            if self._axis in (what, "both") and not found
        ]
        if lacking:
            return f"no argument of the constructor scales its {' or '.join(lacking)}"
        found = [*([obstacle.text for obstacle in lost] for lost in self._obstacles), *self._refusals]
        return "; ".join(found[0]) if found else "no operator tells the copies of its channels apart"


def _as_data(plan: Plan, shape: Shape) -> Mapping[str, Any]:
    """Return a plan for a size as plain data: its scale, and its operators with the options that they were given."""
    sections = {
        axis: {"operator": section.operator, **section.model_dump(mode="json", exclude_defaults=True)}
        for axis, section in (("width", plan.width), ("depth", plan.depth))
        if section
    }
    return {"target": {"scale": scale_of(shape)}, **sections}
