"""What pydantic finds wrong with a file, in the words of growtool and at its place in the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from growtool.plan.document import Document, Loc
from growtool.plan.section import Section

Sections = Mapping[tuple[str, ...], type[Section]]
_OWN = "plan"  # findings of growtool's own, whose text says all; see `growtool.plan.section.problem`


def add_invalid(document: Document, error: ValidationError, sections: Sections, at: Loc = ()) -> None:
    """Take in the findings of pydantic, but those about what was found wanting before.

    Args:
        document: where the values were read from.
        error: what pydantic found.
        sections: the mappings of what was validated.
        at: where in the document that stands.
    """
    for details in error.errors(include_url=False):
        _add(document, details, sections, at)


def _add(document: Document, details: ErrorDetails, sections: Sections, at: Loc) -> None:
    loc = _as_written(document, at, (*at, *_without_operator(details["loc"])))
    text = explain(details, sections)
    if details["type"] in ("union_tag_not_found", "union_tag_invalid"):
        loc = (*loc, "operator")
    place = document.keys.get(loc) if details["type"] == "extra_forbidden" else document.values.get(loc)
    if place is None:
        place = document.values[loc[:-1]]
    if not any(other[: len(loc)] == loc for _, other, _ in document.problems):
        document.problems.append((place, loc, text))


def _as_written(document: Document, at: Loc, loc: Loc) -> Loc:
    """`scale` at the top of a plan stands for one in its target."""
    short = loc[: len(at) + 2] == (*at, "target", "scale") and (*at, "target") not in document.values
    return (*at, *loc[len(at) + 1 :]) if short else loc


def _without_operator(loc: Loc) -> Loc:
    """Pydantic names the operator after `width` and `depth`; the file does not."""
    if loc[:1] == ("overrides",) and len(loc) > 2:
        return (*loc[:2], *_without_operator(loc[2:]))
    return (loc[0], *loc[2:]) if loc and loc[0] in ("width", "depth") else loc


def _section(loc: Loc, sections: Sections) -> type[Section]:
    """The section at a place as pydantic names it."""
    if loc[:1] == ("overrides",):
        loc = loc[2:] or ("overrides",)
    return sections[tuple(str(part) for part in loc)]


_EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}


def explain(details: ErrorDetails, sections: Sections) -> str:
    """What is wrong, what was expected and what to do, without the place."""
    kind, found, context = details["type"], details["input"], details.get("ctx", {})
    loc = details["loc"]
    if kind == "extra_forbidden":
        section = _section(loc[:-1], sections)
        return f"unknown key, expected one of {_choices(str(loc[-1]), [*section.model_fields, *section.SHORT])}"
    if kind == "missing":
        return f"missing, expected {_section(loc[:-1], sections).model_fields[str(loc[-1])].description}"
    if kind == "union_tag_not_found":
        operators = [name for section, *rest in filter(None, sections) if section == loc[-1] for name in rest]
        return f"missing, expected one of {', '.join(operators)}"
    if kind == "union_tag_invalid":
        choices = _choices(context["tag"], _quoted(context["expected_tags"]))
        return f"found {_shown(found['operator'])}, expected one of {choices}"
    if kind == "literal_error":
        return f"found {_shown(found)}, expected one of {_choices(str(found), _quoted(context['expected']))}"
    if kind == "greater_than_equal":
        return f"found {found!r}, expected at least {context['ge']:g}"
    if kind == "greater_than":
        return f"found {found!r}, expected more than {context['gt']:g}"
    if kind in _EXPECTED:
        return f"found {_shown(found)}, expected {_EXPECTED[kind]}"
    return details["msg"] if kind == _OWN else f"found {_shown(found)}, {details['msg'][0].lower()}{details['msg'][1:]}"


def _shown(value: object) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _choices(found: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(found, choices, n=1)
    return ", ".join(choices) + (f"; did you mean {near[0]!r}?" if near else "")
