"""Errors of pydantic in the words of growtool, each at its place in the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from growtool.errors import PlanError, did_you_mean
from growtool.plan.document import Document, Loc
from growtool.plan.nesting import follow, section_at
from growtool.plan.section import Section

SectionT = TypeVar("SectionT", bound=Section)
_OWN = "plan"  # type of errors with a text of growtool's own, which says all; see `growtool.plan.section.problem`


def require_valid(document: Document, root: type[SectionT]) -> SectionT:
    """Return the content of a document as a section; raise PlanError with every problem of the document if it has any.

    See `validated`.
    """
    section = validated(document, root)
    if document.problems or section is None:
        raise PlanError(document.lines())
    return section


def validated(document: Document, root: type[SectionT]) -> SectionT | None:
    """Return the content of a document as a section; None if it is not valid, with the reasons added to the document.

    A reason is left out if the document has a problem at that place already, of which it is a consequence.
    """
    try:
        return root.model_validate(document.content)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            _add(document, details, root)
        return None


def _add(document: Document, details: ErrorDetails, root: type[Section]) -> None:
    """Add an error of pydantic to the problems of a document, at its place."""
    loc = _as_written(document, follow(root, details["loc"])[0])
    if details["type"] in ("union_tag_not_found", "union_tag_invalid"):
        loc = (*loc, "operator")
    if not any(other[: len(loc)] == loc for _, other, _ in document.problems):
        document.note(loc, explain(details, root), at_key=details["type"] == "extra_forbidden")


def _as_written(document: Document, loc: Loc) -> Loc:
    """Return the location that is in the file for `target.scale`, which a plan may write as `scale` at its top."""
    for end in range(1, len(loc)):
        if loc[end - 1 : end + 1] == ("target", "scale") and loc[:end] not in document.values:
            return (*loc[: end - 1], *loc[end:])
    return loc


_EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
    "tuple_type": "a list",
    "list_type": "a list",
    "is_instance_of": "a path",  # the one class of values that is no type of YAML
}
_BOUNDS = {
    "greater_than_equal": "at least",
    "greater_than": "more than",
    "less_than_equal": "at most",
    "less_than": "less than",
}


def explain(details: ErrorDetails, root: type[Section]) -> str:
    """Return what was found, what was expected and what to do, without the place.

    Args:
        details: an error of pydantic.
        root: the section that was validated, at the top of the file.
    """
    kind, found, context = details["type"], details["input"], details.get("ctx", {})
    loc = details["loc"]
    if kind == "extra_forbidden":
        section = section_at(root, loc[:-1])
        known = [*section.model_fields, *section.SHORT]
        hint = did_you_mean(str(loc[-1]), known)
        if section.KEYS:
            return f"unknown key{hint or f', expected {section.KEYS}'}"
        return f"unknown key, expected one of {', '.join(known)}{hint}"
    if kind == "missing":
        return f"missing, expected {section_at(root, loc[:-1]).model_fields[str(loc[-1])].description}"
    if kind == "union_tag_not_found":
        operators = [kind.tag for kind in follow(root, loc)[1] if kind.tag is not None]
        return f"missing, expected one of {', '.join(operators)}"
    if kind == "union_tag_invalid":
        choices = _choices(context["tag"], _quoted(context["expected_tags"]))
        return f"found {_shown(found['operator'])}, expected one of {choices}"
    if kind == "literal_error":
        return f"found {_shown(found)}, expected one of {_choices(str(found), _quoted(context['expected']))}"
    if kind in _BOUNDS:
        bound, (limit,) = _BOUNDS[kind], context.values()  # such as {"ge": 1}
        return f"found {found!r}, expected {bound} {limit:g}"
    if kind in _EXPECTED:
        return f"found {_shown(found)}, expected {_EXPECTED[kind]}"
    return details["msg"] if kind == _OWN else f"found {_shown(found)}, {details['msg'][0].lower()}{details['msg'][1:]}"


def _shown(value: object) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)


def _quoted(text: str) -> list[str]:
    """Return the words that pydantic lists as `'a', 'b' or 'c'`."""
    return re.findall(r"'([^']*)'", text)


def _choices(found: str, choices: Sequence[str]) -> str:
    """Return the choices, and which of them may have been meant."""
    return ", ".join(choices) + did_you_mean(found, choices)
