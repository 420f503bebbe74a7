"""The nearest plan that keeps the function, for one that loses it: other operators, else another factor."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import Any

from growtool.errors import GrowtoolError
from growtool.plan.load import as_written
from growtool.plan.schema import Plan
from growtool.plan.target import Scale, Target, factor_as_written
from growtool.recipe.recipe import Recipe
from growtool.recipe.resolve import resolve
from growtool.recipe.symmetry import stay_alike
from growtool.recipe.target.spec import scalable, scaled_spec
from growtool.recipe.traced_model import TracedModel

_FINE, _COARSE = 16, 4  # factors are tried in sixteenths nearby, further off in quarters
_NEARBY = 3  # steps of a sixteenth on either side
_KEYS = ("target", "width", "depth", "overrides", "second", "recalibrate")


@dataclass(frozen=True, slots=True)
class Nearest:
    """A change of a plan after which it keeps the function.

    Attributes:
        replaced: keys of the plan that are replaced.
        content: what stands in their place, as in a file.
    """

    replaced: tuple[str, ...]
    content: Mapping[str, Any]


def nearest_exact(recipe: Recipe) -> Nearest | None:
    """Return the nearest plan to that of `recipe` that keeps the function of its source, or None if none was found.

    Other operators for the same target are tried first, then other factors of all widths, the nearest first. A plan
    whose copies could never become different is no better, and is passed over.
    """
    for candidate in _recipes(recipe):
        if candidate.promise.kind != "lossy" and stay_alike(candidate) is None:
            return _told(recipe.plan, candidate.plan)
    return None


def _recipes(recipe: Recipe) -> Iterator[Recipe]:
    """Yield the recipes of the plans to try, nearest first; plans that do not resolve are left out."""
    source, plan = recipe.matching.source, _opened(recipe)
    for scale, target in _targets(recipe, plan.target):
        asked = plan if scale is None else plan.model_copy(update={"target": Target(scale=scale)})
        with contextlib.suppress(GrowtoolError):
            candidate = resolve(asked, recipe.source, source=source, target=target)
            yield candidate


def _targets(recipe: Recipe, asked: Target) -> Iterator[tuple[Scale | None, TracedModel]]:
    """Yield the target that was asked for, without a scale, then those of other factors that can be built."""
    source = recipe.matching.source
    yield None, recipe.matching.target
    if not recipe.widths:
        return
    asked_scale = asked.scale or Scale(width=1.0)
    doubled = asked_scale.model_copy(update={"width": 2.0})  # any factor above 1 has the search look for widths
    base, size_arguments = scalable(doubled, source)
    for factor in _factors(recipe):
        scale = asked_scale.model_copy(update={"width": float(factor)})
        with contextlib.suppress(GrowtoolError):
            spec, _ = scaled_spec(scale, base, size_arguments)
            yield scale, TracedModel.of(spec, where="target")


def _opened(recipe: Recipe) -> Plan:
    """Return the plan without operators that lose the function here or anywhere, and without what depends on them."""
    plan, lost = recipe.plan, {key for key, _ in recipe.promise.accidents}
    changes: dict[str, Any] = {"recalibrate": False, "allow_lossy": False}
    if plan.width and ("width" in lost or plan.width.loss):
        changes |= {"width": None, "overrides": (), "second": None}
    if plan.depth and ("depth" in lost or plan.depth.loss):
        changes["depth"] = None
    return plan.model_copy(update=changes)


def _factors(recipe: Recipe) -> list[Fraction]:
    """Return width factors about that of the target, the nearest first."""
    scale = recipe.plan.target.scale
    given = scale.width if scale else None
    asked = given or median(change.after / change.before for change in recipe.widths)
    factors = {Fraction(round(asked * _FINE) + step, _FINE) for step in range(-_NEARBY, _NEARBY + 1)}
    factors |= {Fraction(round(asked * _COARSE) + step, _COARSE) for step in (-2, -1, 0, 1, 2)}
    factors |= {Fraction(2), Fraction(math.floor(asked)), Fraction(math.ceil(asked))}
    untried = [factor for factor in factors if factor > 1 and float(factor) != given]
    return sorted(untried, key=lambda factor: abs(math.log(factor / asked)))


def _told(plan: Plan, nearest: Plan) -> Nearest:
    """Return what differs between two plans, as a file would say it."""
    changed = [key for key in _KEYS if getattr(nearest, key) != getattr(plan, key)]
    content: dict[str, Any] = {}
    for key in changed:
        value = getattr(nearest, key)
        if key == "target" and value.scale is not None:
            content["scale"] = _scale(value.scale)
        elif value not in (None, (), False):
            content[key] = as_written(value)
    return Nearest(tuple(changed), content)


def _scale(scale: Scale) -> Any:
    depth = list(scale.depth) if isinstance(scale.depth, tuple) else scale.depth and factor_as_written(scale.depth)
    width = factor_as_written(scale.width or 1)
    return width if depth is None else {"width": width, "depth": depth}
