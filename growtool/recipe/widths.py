"""How every set of channels grows, by the plan's width operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType

from growtool.algebra.expansion import Expansion, padded
from growtool.algebra.passage import Passage, passage
from growtool.algebra.promise import uneven_mixings
from growtool.coupling import Atom, Growth
from growtool.errors import PlanError
from growtool.operators.base import generator_for
from growtool.operators.table import OPERATORS
from growtool.plan.schema import Plan
from growtool.recipe.matching import Matching, some
from growtool.recipe.recipe import WidthChange


@dataclass(frozen=True)
class Widths:
    """Attributes:

    expansions: how each set of channels grows.
    changes: the groups that grow.
    passages: what the blank channels of a set go through; sets without blanks are absent.
    every_tensor: whether the operator makes tensors that do not grow, too.
    in_pairs: whether new units that nothing reads yet come in pairs.
    """

    expansions: Mapping[Growth, Expansion]
    changes: tuple[WidthChange, ...]
    passages: Mapping[Atom, Passage]
    every_tensor: bool = False
    in_pairs: bool = False

    @property
    def of_target(self) -> dict[Atom, Expansion]:
        """How each set of channels of the target came about."""
        return {growth.target: expansion for growth, expansion in self.expansions.items()}


def expand_widths(plan: Plan, matching: Matching, zeroed: frozenset[str]) -> Widths:
    """The expansion of each set of channels, and the list of those that change.

    Args:
        plan: says the operator.
        matching: source and target side by side.
        zeroed: tensors that end the branches of new blocks.

    Raises:
        PlanError: something grows and the plan has no `width`, or the operator cannot grow it so far.
    """
    tensors: dict[Growth, set[str]] = defaultdict(set)
    for growth, name in matching.carried():
        tensors[growth].add(name)
    names = {group.atom: group.name for group in matching.target.coupling.groups}
    expansions: dict[Growth, Expansion] = {}
    changes, problems = [], dict[str, list[str]]()
    for growth, carriers in tensors.items():
        before, after = growth.sizes
        name = names[growth.target]
        if before == after:
            expansions[growth] = Expansion.identity(before)
            continue
        changes.append(WidthChange(name, before, after, len(carriers)))
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
            why = (
                f"{plan.width.operator} takes whole multiples ({error}); use net2net (BatchNorm networks), centre_zero "
                "(pre-LayerNorm networks), or other widths"
            )
            problems.setdefault(why, []).append(name)
    if problems:
        raise PlanError([f"{some(groups)}: {why}" for why, groups in problems.items()])
    widths = Widths(expansions, tuple(changes), {})
    if plan.width is None or not changes:
        return widths
    operator = OPERATORS[plan.width.operator].implementation()
    widths = replace(widths, every_tensor=hasattr(operator, "EVERY_TENSOR"), in_pairs=hasattr(operator, "IN_PAIRS"))
    return _with_blanks(widths, matching, operator, zeroed) if hasattr(operator, "BLANKS") else widths


def _with_blanks(widths: Widths, matching: Matching, operator: ModuleType, zeroed: frozenset[str]) -> Widths:
    """Blanks in place of copies where the operator wants them and every operation on the way lets them pass."""
    coupling = matching.target.coupling
    chosen = widths
    for growth, copied in widths.expansions.items():
        even = not uneven_mixings(coupling, {growth.target: copied}, matching.blocks.is_new)
        if copied.is_identity or (even and not operator.ALWAYS):
            continue
        blanks = padded(*growth.sizes, copies=1 if operator.ALWAYS else None)
        tried = replace(chosen, expansions={**chosen.expansions, growth: blanks})
        for kind in operator.BLANKS:
            found = passage(coupling, growth.target, kind, tried.of_target, zeroed)
            if all(matching.ignored(module) for module, _ in found.reasons) and not (found.nearly and even):
                chosen = replace(tried, passages={**chosen.passages, growth.target: found})
                break
    # what passes beside copies may not pass beside the blanks of other sets
    final = {
        atom: passage(coupling, atom, found.blank, chosen.of_target, zeroed) for atom, found in chosen.passages.items()
    }
    return replace(chosen, passages=final)
