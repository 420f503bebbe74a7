"""How every set of channels grows, by the plan's width operator."""

from __future__ import annotations

from collections import defaultdict

from growtool.algebra.expansion import Expansion
from growtool.coupling import Growth
from growtool.errors import PlanError
from growtool.operators.base import generator_for
from growtool.operators.table import OPERATORS
from growtool.plan.schema import Plan
from growtool.recipe.matching import Matching, some
from growtool.recipe.recipe import WidthChange


def expand_widths(plan: Plan, matching: Matching) -> tuple[dict[Growth, Expansion], tuple[WidthChange, ...]]:
    """The expansion of each set of channels, and the list of those that change.

    Raises:
        PlanError: something grows and the plan has no `width`, or the operator cannot grow it so far.
    """
    tensors: dict[Growth, set[str]] = defaultdict(set)
    for growth, name in matching.carried():
        tensors[growth].add(name)
    names = {group.atom: group.name for group in matching.target.coupling.groups}
    expansions: dict[Growth, Expansion] = {}
    widths, problems = [], dict[str, list[str]]()
    for growth, carriers in tensors.items():
        before, after = growth.sizes
        name = names[growth.target]
        if before == after:
            expansions[growth] = Expansion.identity(before)
            continue
        widths.append(WidthChange(name, before, after, len(carriers)))
        if plan.width is None:
            why = "the plan has no `width`; add `width: {operator: tile}`"
            problems.setdefault(why, []).append(f"{name} ({before} -> {after})")
            continue
        operator = OPERATORS[plan.width.operator].implementation()
        try:
            expansions[growth] = operator.expand(
                plan.width, before, after, generator_for(plan.seed, f"expansion of {name}")
            )
        except ValueError as error:
            why = f"{plan.width.operator} takes whole multiples ({error}); use net2net, or other widths"
            problems.setdefault(why, []).append(name)
    if problems:
        raise PlanError([f"{some(groups)}: {why}" for why, groups in problems.items()])
    return expansions, tuple(widths)
