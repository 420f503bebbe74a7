"""What every model card of a checkpoint says, whatever else is in it."""

from __future__ import annotations

_SECTION = "\n## Template form\n"
_NOTE = (
    "The weights are stored as templates and coefficients. `growtool export` writes the folder that "
    "`timm.create_model` loads.\n"
)


def plain_card(architecture: str) -> str:
    """The least a model hub wants to know."""
    return f"---\nlibrary_name: timm\n---\n# {architecture}\n"


def card_of_form(card: str, *, in_templates: bool) -> str:
    """The card with a section on how the weights are stored, or without it, whichever it had."""
    text = card.split(_SECTION)[0].rstrip("\n") + "\n"
    return f"{text}{_SECTION}\n{_NOTE}" if in_templates else text
