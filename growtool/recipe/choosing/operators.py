"""The operators that a plan leaves open: the first ones that keep the function of this model at this target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from growtool.errors import PlanError
from growtool.plan.depth import CancelOut, Depth, Net2Deeper, ZeroOut
from growtool.plan.schema import Plan
from growtool.plan.width import CentreZero, Mixture, Net2Net, Width
from growtool.recipe.matching import Matching, is_deeper, match
from growtool.recipe.recipe import Recipe
from growtool.recipe.symmetry import stay_alike
from growtool.recipe.traced_model import TracedModel

# In the order in which they are tried.
WIDTHS: tuple[Width, ...] = (Mixture(), Mixture(bank="sub_block"), CentreZero(), Net2Net())
DEPTHS: tuple[Depth, ...] = (ZeroOut(), CancelOut(), Net2Deeper())
_ALIKE = "would leave copies alike"


@dataclass(frozen=True, slots=True)
class _Tried:
    """A plan that leaves nothing open, what came of it, and what another choice may do better."""

    width: Width | None
    depth: Depth | None
    found: Recipe | PlanError
    lacks: str | None

    @property
    def accidents(self) -> int:
        return len(self.found.promise.accidents) if isinstance(self.found, Recipe) else -1


def chosen(plan: Plan, source: TracedModel, target: TracedModel, make: Callable[[Plan, Matching], Recipe]) -> Recipe:
    """The recipe with the first operators that lose nothing by accident, else with those that lose in fewest places.

    Args:
        plan: may leave `width` or `depth` open where the target needs one.
        source, target: traced.
        make: the recipe of a plan that leaves nothing open.

    Raises:
        PlanError: no operator can do it; what stops the first.
    """
    plan = plan.completed
    tried: list[_Tried] = []
    for one in _tried(plan, source, target, make):
        tried.append(one)
        if one.lacks is None:
            break
    best = min(tried, key=lambda one: (isinstance(one.found, PlanError), one.accidents, one.lacks is not None))
    if isinstance(best.found, PlanError):
        raise best.found
    choices = []
    if best.depth is not None and best.depth is not plan.depth:
        before = {_name(one.depth): one.lacks for one in tried if one.depth and one.width is tried[0].width}
        choices.append(_sentence("depth", best.depth, best.found, before))
    if best.width is not None and best.width is not plan.width:
        before = {_name(one.width): one.lacks for one in tried if one.width and one.depth is best.depth}
        choices.append(_sentence("width", best.width, best.found, before))
    return replace(best.found, choices=tuple(choices)) if choices else best.found


def _tried(
    plan: Plan, source: TracedModel, target: TracedModel, make: Callable[[Plan, Matching], Recipe]
) -> Iterator[_Tried]:
    for depth in DEPTHS if plan.depth is None and is_deeper(source, target) else (plan.depth,):
        try:
            matching = match(source, target, depth)
        except PlanError as error:
            yield _Tried(plan.width, depth, error, "cannot")
            continue
        open_width = plan.width is None and matching.is_wider
        lacks: str | None = _ALIKE
        for width in WIDTHS if open_width else (plan.width,):
            if lacks != _ALIKE and getattr(width, "bank", None) and open_width:
                continue  # another bank tells copies apart; it keeps no function that the first does not
            found = _made(plan.model_copy(update={"width": width, "depth": depth}), matching, make)
            lacks = _lacks(found, open_width=open_width)
            yield _Tried(width, depth, found, lacks)


def _made(plan: Plan, matching: Matching, make: Callable[[Plan, Matching], Recipe]) -> Recipe | PlanError:
    try:
        return make(plan, matching)
    except PlanError as error:
        return error


def _lacks(found: Recipe | PlanError, *, open_width: bool) -> str | None:
    """Why another operator may be better, in a clause."""
    if isinstance(found, PlanError):
        return "cannot"
    if found.promise.accidents:
        return "would lose the function"
    return _ALIKE if open_width and stay_alike(found) else None


def _sentence(axis: str, section: Width | Depth, recipe: Recipe, lacks: dict[str, str | None]) -> str:
    """Which operator was chosen, and why not those before it."""
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
    """An operator, and its bank where that is said."""
    bank = getattr(section, "bank", None)
    return f"{section.operator} (bank: {bank})" if bank else section.operator
