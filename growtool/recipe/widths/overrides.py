"""Which width section of a plan makes which tensor: the plan's own, or that of an override whose pattern matches.

How channels grow is decided for whole groups, so that all tensors that carry a group agree. An override may only choose
another way of filling in weights: other options of the same operator, or an operator that copies the same channels.
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

_OF_THE_WHOLE_MODEL = ("eps", "bank", "parts")  # options that may not differ between tensors


def width_sections(plan: Plan, matching: Matching, widths: Widths) -> Mapping[str, Width]:
    """Return tensor -> the section that says how it grows, for tensors with an override; the last match counts.

    Raises:
        PlanError: a pattern matches no tensor that grows, or an override would grow channels otherwise than the plan.
    """
    growing = {
        name: {growth for axis in axes for growth in axis.growths() if not widths.expansions[growth].is_identity}
        for name, axes in matching.paired.items()
    }
    sections: dict[str, Width] = {}
    problems = []
    for place, override in enumerate(plan.overrides):
        matched = [name for name in growing if fnmatchcase(name, override.match)]
        changed = [name for name in matched if growing[name]]
        if changed:
            grown = {growth for name in changed for growth in growing[name]}
            problem = _inconsistent(override, plan, widths, grown, matching)
        else:
            problem = _unmatched(override, matched, list(growing))
        if problem:
            problems.append(f"overrides[{place}].{problem}")
        sections |= dict.fromkeys(changed, override.width)
    if problems:
        raise PlanError(problems)
    return sections


def _unmatched(override: Override, matched: list[str], names: list[str]) -> str:
    """Return why an override makes no tensor: its pattern matches none, or none that grows."""
    if matched:
        return f"match: {override.match!r} matches {len(matched)} tensors, none of which grows; drop the override"
    nearest = difflib.get_close_matches(override.match, names, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"match: {override.match!r} matches no tensor of the target, expected a pattern such as 'head.*'{hint}"


def _inconsistent(
    override: Override, plan: Plan, widths: Widths, grown: set[GroupPair], matching: Matching
) -> str | None:
    """Return why an override does not go with the rest of the plan, or None if it does.

    Args:
        override: what the plan says.
        plan: all of it.
        widths: how channels grow.
        grown: the sets of channels of the tensors that the override makes.
        matching: source and target side by side.
    """
    base, width = plan.width, override.width
    assert base is not None, "channels grow by a width operator"
    for option in filter(partial(hasattr, width), _OF_THE_WHOLE_MODEL):
        first = next(section for section in plan.widths if hasattr(section, option))
        if getattr(width, option) != getattr(first, option):
            where = "under `width` alone" if first is base else "alike in every override"
            return f"width.{option}: holds for the whole model; set it {where}"
    if width.operator == base.operator:
        return None
    names = matching.target.trace.names
    operator, abilities = OPERATORS[width.operator].implementation(), OPERATORS[width.operator].abilities()
    beyond_copies = abilities.every_tensor or abilities.always_blank
    for growth in grown:
        # the same generator as the plan's operator had: operators that draw channels draw the same ones from it
        generator = generator_for(plan.seed, f"expansion of {names[growth.target]}")
        try:
            alike = operator.expand(*growth.sizes, generator).index.equal(widths.expansions[growth].index)
        except ValueError:
            alike = False
        if not alike or beyond_copies:
            channels = channels_of(matching.target.trace)[growth.target]
            return (
                f"width.operator: {width.operator} grows {channels} otherwise than {base.operator} does, and "
                "whatever carries the same channels has to agree; choose other options of "
                f"{base.operator}, or one operator for the whole model"
            )
    return None
