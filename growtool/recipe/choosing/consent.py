"""Consent to a loss: a plan whose operators keep the function elsewhere, but not here, has to allow it."""

from __future__ import annotations

from growtool.errors import PlanError
from growtool.plan.document import write_document
from growtool.recipe.choosing.nearest import nearest_exact
from growtool.recipe.recipe import Recipe

_SHOWN = 3  # reasons at most
_CONSENT = "or consent to the loss: `allow_lossy: true` in the plan, or --allow-lossy"


def require_consent(recipe: Recipe) -> None:
    """Check that a recipe may be carried out.

    Raises:
        PlanError: the recipe loses the function although its operators keep it elsewhere, and its plan does not allow
            that; with the reasons and the nearest plan that keeps the function.
    """
    if recipe.promise.accidents and not recipe.plan.allow_lossy:
        raise PlanError(_refusal(recipe))


def _refusal(recipe: Recipe) -> str:
    """Return what to say of a loss without consent: the reasons, the nearest plan without it, and how to consent."""
    accidents = recipe.promise.accidents
    key = accidents[0][0]
    sections = {"width": recipe.plan.width, "depth": recipe.plan.depth}
    if section := sections.get(key):
        lines = [f"{key}: {section.operator} keeps the function of other models, but not of this one at this target:"]
    else:
        operators = " and ".join(section.operator for section in sections.values() if section) or "growth"
        lines = [f"{key}: computes otherwise than the source, so that {operators} cannot keep the function:"]
    lines += [f"  {reason}" for _, reason in accidents[:_SHOWN]]
    if len(accidents) > _SHOWN:
        lines.append(f"  and {len(accidents) - _SHOWN} more reasons, which a dry run shows")
    nearest = nearest_exact(recipe)
    if nearest is None:
        lines.append("no plan near this one was found to keep it; choose another target (growtool advise),")
    else:
        replaced = ", ".join(f"`{name}`" for name in nearest.replaced)
        lines.append(f"the nearest plan that keeps it has, in place of {replaced}:")
        lines += [f"  {line}" for line in write_document(nearest.content).splitlines()]
    return "\n".join([*lines, _CONSENT])
