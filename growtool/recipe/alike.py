"""Whether the copies that growth makes of a unit can ever become different from each other."""

from __future__ import annotations

from growtool.operators.mixture import tells_apart
from growtool.plan.width import Mixture
from growtool.recipe.recipe import Recipe, TensorRecipe


def stay_alike(recipe: Recipe) -> str | None:
    """Why copies would get equal gradients for ever and add nothing, and what to do; None where they do not.

    A split into equal shares makes the copies of one set of channels exchangeable, whatever else grows. Zeros between
    them make those of all sets exchangeable together, until a single weight of the model tells them apart.
    """
    grown = [t for t in recipe.tensors.values() if not all(axis.is_identity for axis in t.maps)]
    if any(getattr(tensor.width, "split", None) == "equal" for tensor in grown):
        return (
            "copies: an equal split gives the copies of a unit equal gradients, so they stay alike and add nothing; "
            "split: random_projection keeps the same function without that"
        )
    mixtures = [tensor.width for tensor in grown if isinstance(tensor.width, Mixture)]
    if not grown or len(mixtures) < len(grown) or any(_tells_apart(recipe, tensor) for tensor in grown):
        return None
    why = (
        "no layer has others of its shape in its stage to be mixed with; bank: sub_block, which cuts layers, or the"
        if any(width.gain and width.coefficients in ("orthogonal", "random") for width in mixtures)
        else "gain 0, coefficients zero and copy make every copy the same; a gain, other coefficients, or the"
    )
    return f"copies: {why} operator tile, keeps the same function without copies that stay alike and add nothing"


def _tells_apart(recipe: Recipe, tensor: TensorRecipe) -> bool:
    width = tensor.width
    return (
        isinstance(width, Mixture)
        and tells_apart(width, tensor.maps)
        and tensor.source in recipe.templates.form.tensors
    )
