"""Choosing the operators that a plan leaves open, and others where its own cannot grow the models so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from growtool.errors import PlanError
from growtool.plan.depth import CancelOut, Depth, Net2Deeper, ZeroOut
from growtool.plan.schema import Plan
from growtool.plan.width import CentreZero, Mixture, Net2Net, Width
from growtool.recipe.analysis import Analysis
from growtool.recipe.matching import Matching, is_deeper, match
from growtool.recipe.promising import promise_of
from growtool.recipe.recipe import Recipe
from growtool.recipe.symmetry import stay_alike
from growtool.recipe.traced_model import TracedModel
from growtool.recipe.widths.expand import CannotWidenError

# Operators in the order in which they are tried.
WIDTHS: tuple[Width, ...] = (Mixture(), Mixture(bank="sub_block"), CentreZero(), Net2Net())
DEPTHS: tuple[Depth, ...] = (ZeroOut(), CancelOut(), Net2Deeper())
_ALIKE = "would leave copies alike"


@dataclass(frozen=True, slots=True)
class Tried:
    """A choice of operators that was tried.

    Attributes:
        width, depth: the operators.
        outcome: the recipe, or why there is none.
        lacks: what another choice may do better, in a clause; None: nothing.
    """

    width: Width | None
    depth: Depth | None
    outcome: Recipe | PlanError
    lacks: str | None

    @property
    def accidents(self) -> int:
        return len(self.outcome.promise.accidents) if isinstance(self.outcome, Recipe) else -1


def chosen(plan: Plan, source: TracedModel, target: TracedModel, make: Callable[[Plan, Matching], Recipe]) -> Recipe:
    """Return the recipe with the first operators that lose nothing by accident, else with those that lose least.

    Args:
        plan: may leave `width` or `depth` open where the target needs one.
        source, target: both models.
        make: returns the recipe of a plan that leaves nothing open.

    Raises:
        PlanError: no operator can do it; tells what stops the first.
    """
    plan = plan.completed
    tried: list[Tried] = []
    for attempt in attempts(plan, source, target, make):
        tried.append(attempt)
        if attempt.lacks is None:
            break
    best = min(tried, key=lambda one: (isinstance(one.outcome, PlanError), one.accidents, one.lacks is not None))
    if isinstance(best.outcome, PlanError):
        raise best.outcome
    choices = []
    if best.depth is not None and best.depth is not plan.depth:
        before = {_name(one.depth): one.lacks for one in tried if one.depth and one.width is tried[0].width}
        choices.append(_sentence("depth", best.depth, best.outcome, before))
    if best.width is not None and best.width is not plan.width:
        before = {_name(one.width): one.lacks for one in tried if one.width and one.depth is best.depth}
        choices.append(_sentence("width", best.width, best.outcome, before))
    return replace(best.outcome, choices=tuple(choices)) if choices else best.outcome


def attempts(
    plan: Plan,
    source: TracedModel,
    target: TracedModel,
    make: Callable[[Plan, Matching], Recipe],
    *,
    widths: Sequence[Width | None] = WIDTHS,
    depths: Sequence[Depth | None] = DEPTHS,
) -> Iterator[Tried]:
    """Try every choice of `widths` and `depths` for what the plan leaves open; for the other arguments see `chosen`."""
    for depth in depths if plan.depth is None and is_deeper(source, target) else (plan.depth,):
        try:
            matching = match(source, target, depth)
        except PlanError as error:
            yield Tried(plan.width, depth, error, "cannot")
            continue
        open_width = plan.width is None and matching.is_wider
        lacks: str | None = _ALIKE
        for width in widths if open_width else (plan.width,):
            if lacks != _ALIKE and getattr(width, "bank", None) and open_width:
                continue  # another bank tells copies apart; it keeps no function that the first does not
            outcome = _made(plan.model_copy(update={"width": width, "depth": depth}), matching, make)
            lacks = _lacks(outcome, open_width=open_width)
            yield Tried(width, depth, outcome, lacks)


def _made(plan: Plan, matching: Matching, make: Callable[[Plan, Matching], Recipe]) -> Recipe | PlanError:
    try:
        return make(plan, matching)
    except PlanError as error:
        return error


def _lacks(outcome: Recipe | PlanError, *, open_width: bool) -> str | None:
    """Return a clause on why another operator may be better, or None if none can be."""
    if isinstance(outcome, PlanError):
        return "cannot"
    if outcome.promise.accidents:
        return "would lose the function"
    return _ALIKE if open_width and stay_alike(outcome) else None


def _sentence(axis: str, section: Width | Depth, recipe: Recipe, lacks: dict[str, str | None]) -> str:
    """Return a sentence on which operator was chosen, and why not those that were tried before it."""
    name = _name(section)
    lost = any(key in (axis, "target") for key, _ in recipe.promise.accidents)
    kept = f"{recipe.promise.kind} here" if recipe.promise.kind != "lossy" else "it loses nothing by itself"
    kept = "no operator keeps the function here" if lost else kept
    before = "".join(f"; {other} {why}" for other, why in _before(name, lacks))
    return f"{axis}: {name} is chosen, as the plan names none: {kept}{before}"


def _before(name: str, lacks: dict[str, str | None]) -> Iterable[tuple[str, str]]:
    for other, why in lacks.items():
        if other == name:
            return
        yield other, why or "fits less"


def _name(section: Width | Depth) -> str:
    """Return the name of an operator, with its bank where the section gives one."""
    bank = getattr(section, "bank", None)
    return f"{section.operator} (bank: {bank})" if bank else section.operator


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
