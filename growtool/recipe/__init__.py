"""From a plan and a checkpoint to the recipe: how every target tensor is made, and what the growth promises to keep."""

from growtool.recipe.recipe import Recipe, TensorRecipe
from growtool.recipe.resolve import resolve
from growtool.recipe.widths.changes import WidthChange

__all__ = ["Recipe", "TensorRecipe", "WidthChange", "resolve"]
