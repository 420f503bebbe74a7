"""Whether the copies that growth makes of a unit can ever become different from each other.

Training tells copies apart unless exchanging them leaves every weight as it is, since then their gradients are equal
for ever. A tensor may allow the copies of each set of channels on its own to be exchanged (plain copies of rows, equal
shares of columns), those of its rows and columns together (`[[W, 0], [0, W]]`), or no exchange at all. So sets that
such tensors tie together have their copies told apart by any one tensor of them, and stay alike without.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from growtool.algebra.expansion import Expansion
from growtool.operators.width import mixture
from growtool.plan.width import Mixture
from growtool.recipe.recipe import Recipe, TensorRecipe
from growtool.trace import GroupPair, channels_of, told

Exchange = Literal["each", "together", "none"]


def stay_alike(recipe: Recipe) -> str | None:
    """Which copies would get equal gradients for ever and add nothing, why, and what to do; None where all differ."""
    copied = {growth for growth, expansion in recipe.expansions.items() if _has_copies(expansion)}
    ties: dict[GroupPair, GroupPair] = {}
    apart: set[GroupPair] = set()
    carriers: dict[GroupPair, list[TensorRecipe]] = {}
    for tensor in recipe.tensors.values():
        sets = [g for axis in recipe.matching.paired.get(tensor.name, ()) for g in axis.growths() if g in copied]
        exchange = _exchange(recipe, tensor)
        for growth in sets:
            carriers.setdefault(growth, []).append(tensor)
            if exchange == "none":
                apart.add(growth)
            elif exchange == "together":
                ties[_first(ties, growth)] = _first(ties, sets[0])
    different = {_first(ties, growth) for growth in apart}
    alike = [growth for growth in carriers if _first(ties, growth) not in different]
    if not alike:
        return None
    words = channels_of(recipe.matching.target.trace)
    why = _why(recipe, [tensor for growth in alike for tensor in carriers[growth]])
    return f"copies: those of {told(words[g.target] for g in alike)} stay alike and add nothing: {why}"


def _has_copies(expansion: Expansion) -> bool:
    """Whether some channel has more than one copy."""
    return not expansion.is_identity and bool((expansion.counts[~expansion.blank] > 1).any())


def _first(ties: dict[GroupPair, GroupPair], growth: GroupPair) -> GroupPair:
    """The set that stands for all that are tied to this one."""
    while ties.get(growth, growth) != growth:
        growth = ties[growth]
    return growth


def _exchange(recipe: Recipe, tensor: TensorRecipe) -> Exchange:
    width = tensor.width
    if tensor.zero:
        return "each"
    if isinstance(width, Mixture):
        if not mixture.is_grid(tensor.maps):
            return "each"
        return "none" if mixture.tells_apart(width, *_templates_of(recipe, tensor)) else "together"
    reads = any(axis.consumes and not axis.is_identity for axis in tensor.maps)
    split = getattr(width, "split", None)
    return "each" if split == "equal" or (split is not None and not reads) else "none"


def _templates_of(recipe: Recipe, tensor: TensorRecipe) -> tuple[int, int]:
    """How many templates a tensor's blocks are made of, and how many blocks it has; (0, 1) for one that has none."""
    templated = recipe.templates.form.tensors.get(tensor.source or "")
    if templated is None:
        return 0, 1
    return recipe.templates.templates(templated.bank), templated.rows.blocks * templated.columns.blocks


def _why(recipe: Recipe, tensors: Iterable[TensorRecipe]) -> str:
    grids = [t for t in tensors if isinstance(t.width, Mixture) and mixture.is_grid(t.maps)]
    mixed = [t.width for t in tensors if isinstance(t.width, Mixture)]
    if not mixed:
        return "an equal split gives them equal gradients; split: random_projection keeps the function without that"
    if not grids:
        return "a mixture puts new blocks where rows and columns grow alone; the operator tile keeps the function too"
    if all(not w.gain or w.coefficients in ("zero", "copy") for w in mixed):
        return (
            "gain 0 and the coefficients zero and copy make all copies the same; a gain with other coefficients, or "
            "the operator tile, keeps the function too"
        )
    if any(_templates_of(recipe, tensor)[0] for tensor in grids):
        return (
            "their templates leave one direction for all new blocks; compensate: true, or bank: sub_block, which cuts "
            "layers, tells them apart"
        )
    return (
        "no layer has others of its shape in its stage to be mixed with; bank: sub_block, which cuts layers, or the "
        "operator tile keeps the function too"
    )
