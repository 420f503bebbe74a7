"""Whether the copies that growth makes of a unit can ever become different from each other.

Copies stay alike if exchanging them leaves every weight as it is, since their gradients are then equal for ever. Else
training makes them different. Which exchanges leave a tensor as it is: those of the copies in `each` of its sets of
channels on its own (plain copies of rows, equal shares of columns), those in its rows and columns `together`
(`[[W, 0], [0, W]]`), or `none`. Tensors of the second kind tie their sets of channels to each other. One tensor without
any exchange then makes the copies of all tied sets different.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from growtool.algebra.expansion import Expansion
from growtool.operators.width import mixture
from growtool.plan.width import Mixture
from growtool.recipe.recipe import Recipe, TensorRecipe
from growtool.trace import GroupPair, channels_of, in_words
from growtool.trace.pairing.pair import count_as_one, representative

Exchange = Literal["each", "together", "none"]


def stay_alike(recipe: Recipe) -> str | None:
    """Return which copies have equal gradients for ever, why, and what to do, in a sentence; None if all can differ."""
    copied = {growth for growth, expansion in recipe.expansions.items() if _has_copies(expansion)}
    tied: dict[GroupPair, GroupPair] = {}  # set of channels -> another one that it is tied to
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
                count_as_one(sets[0], growth, tied)
    different = {representative(growth, tied) for growth in apart}
    alike = [growth for growth in carriers if representative(growth, tied) not in different]
    if not alike:
        return None
    words = channels_of(recipe.matching.target.trace)
    why = _why(recipe, [tensor for growth in alike for tensor in carriers[growth]])
    return f"copies: those of {in_words(words[g.target] for g in alike)} stay alike and add nothing: {why}"


def _has_copies(expansion: Expansion) -> bool:
    """Return whether some channel has more than one copy."""
    return not expansion.is_identity and bool((expansion.counts[~expansion.blank] > 1).any())


def _exchange(recipe: Recipe, tensor: TensorRecipe) -> Exchange:
    """Return which copies may be exchanged in a tensor without changing it."""
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
    """Return how many templates a tensor is made of, and into how many blocks it is cut; (0, 1) without templates."""
    templated = recipe.templates.form.tensors.get(tensor.source or "")
    if templated is None:
        return 0, 1
    return recipe.templates.bank(templated.bank).count, templated.rows.blocks * templated.columns.blocks


def _why(recipe: Recipe, tensors: Iterable[TensorRecipe]) -> str:
    """Return why copies stay alike in these tensors, and what to do, in a clause."""
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
