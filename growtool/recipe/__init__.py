"""From a plan to what every tensor is made of, and what the whole promises."""

from growtool.recipe.recipe import Recipe, TensorRecipe
from growtool.recipe.resolve import resolve
from growtool.recipe.widths.changes import WidthChange

__all__ = ["Recipe", "TensorRecipe", "WidthChange", "resolve"]
