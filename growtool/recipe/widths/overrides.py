"""Which width operator makes which tensor: the plan's, or that of an override whose pattern matches.

How channels grow is decided for whole groups, so that everything that carries a group agrees; an override may only
choose another way of filling in weights: other options of the same operator, or one that copies channels alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial

from growtool.errors import PlanError
from growtool.operators.base import generator_for
from growtool.operators.table import OPERATORS
from growtool.plan.schema import Override, Plan
from growtool.plan.width import Width
from growtool.recipe.matching import Matching
from growtool.recipe.widths.expand import Widths
from growtool.trace import GroupPair, channels_of

_OF_THE_WHOLE_MODEL = ("eps", "bank", "parts")


def width_sections(plan: Plan, matching: Matching, widths: Widths) -> Mapping[str, Width]:
    """The section of the plan that says how a tensor grows, for tensors with an override; the last match counts.

    Raises:
        PlanError: a pattern matches no tensor that grows, or an override would grow channels otherwise than the plan.
    """
    growing = {
        name: {growth for axis in axes for growth in axis.growths() if not widths.expansions[growth].is_identity}
        for name, axes in matching.paired.items()
    }
    found: dict[str, Width] = {}
    problems = []
    for place, override in enumerate(plan.overrides):
        where = f"overrides[{place}]"
        matched = [name for name in growing if fnmatchcase(name, override.match)]
        changed = [name for name in matched if growing[name]]
        problem = (
            _unmatched(override, matched, list(growing))
            if not changed
            else _inconsistent(
                override, plan, widths, {growth for name in changed for growth in growing[name]}, matching
            )
        )
        if problem:
            problems.append(f"{where}.{problem}")
        found |= dict.fromkeys(changed, override.width)
    if problems:
        raise PlanError(problems)
    return found


def _unmatched(override: Override, matched: list[str], names: list[str]) -> str:
    if matched:
        return f"match: {override.match!r} matches {len(matched)} tensors, none of which grows; drop the override"
    near = difflib.get_close_matches(override.match, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"match: {override.match!r} matches no tensor of the target, expected a pattern such as 'head.*'{hint}"


def _inconsistent(
    override: Override, plan: Plan, widths: Widths, grown: set[GroupPair], matching: Matching
) -> str | None:
    base, own = plan.width, override.width
    assert base is not None, "channels grow by a width operator"
    for option in filter(partial(hasattr, own), _OF_THE_WHOLE_MODEL):
        first = next(section for section in plan.widths if hasattr(section, option))
        if getattr(own, option) != getattr(first, option):
            where = "under `width` alone" if first is base else "alike in every override"
            return f"width.{option}: holds for the whole model; set it {where}"
    if own.operator == base.operator:
        return None
    names = matching.target.trace.names
    operator, abilities = OPERATORS[own.operator].implementation(), OPERATORS[own.operator].abilities()
    elsewhere = abilities.every_tensor or abilities.always_blank
    for growth in grown:
        generator = generator_for(plan.seed, f"expansion of {names[growth.target]}")
        try:
            alike = operator.expand(own, *growth.sizes, generator).index.equal(widths.expansions[growth].index)
        except ValueError:
            alike = False
        if not alike or elsewhere:
            channels = channels_of(matching.target.trace)[growth.target]
            return (
                f"width.operator: {own.operator} grows {channels} otherwise than {base.operator} does, and "
                "whatever carries the same channels has to agree; choose other options of "
                f"{base.operator}, or one operator for the whole model"
            )
    return None
