"""Reading a plan from YAML: every problem at once, each with its line and column."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from growtool.errors import PlanError
from growtool.plan.document import Document, Loc, Place, dotted, read_document
from growtool.plan.schema import SECTIONS, Plan
from growtool.plan.section import Section


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan and the text it came from.

    Attributes:
        plan: what was asked.
        text: the file as it stands, for the copy beside the output.
        path: the file.
        places: where each key stands in the file, by its dotted name.
    """

    plan: Plan
    text: str
    path: Path
    places: Mapping[str, Place] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hex digest of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @contextmanager
    def located(self) -> Iterator[None]:
        """While open, a problem of a PlanError that begins with a key of the plan also tells its place in the file."""
        try:
            yield
        except PlanError as error:
            raise PlanError([self._located(problem) for problem in error.problems]) from error

    def _located(self, problem: str) -> str:
        key = problem.partition(": ")[0]
        while key not in self.places:
            key, dot, _ = key.rpartition(".")
            if not dot:
                return problem
        place = self.places[key]
        return f"{self.path}:{place.line}:{place.column} {problem}"


def load_plan(path: Path) -> LoadedPlan:
    """Read the plan in `path`.

    Raises:
        PlanError: the file cannot be read, is not YAML, or is not a plan; one line for each problem, in their order.
    """
    document, content, text = read_document(
        path, what="a plan in YAML", need="a mapping with at least `target:`", optional=frozenset({"model_args"})
    )
    plan: Plan | None = None
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            _add_invalid(document, details)
    if document.problems or plan is None:
        raise PlanError(document.lines())
    places = {dotted(loc).removesuffix(": "): place for loc, place in document.keys.items()}
    return LoadedPlan(plan, text, path, places)


def _add_invalid(document: Document, details: ErrorDetails) -> None:
    """Take in one finding of pydantic, unless what it is about was found wanting before."""
    loc = _without_operator(details["loc"])
    text = _explain(details)
    if details["type"] in ("union_tag_not_found", "union_tag_invalid"):
        loc = (*loc, "operator")
    place = document.keys.get(loc) if details["type"] == "extra_forbidden" else document.values.get(loc)
    if place is None:
        place = document.values[loc[:-1]]
    if not any(other[: len(loc)] == loc for _, other, _ in document.problems):
        document.problems.append((place, loc, text))


def _without_operator(loc: Loc) -> Loc:
    """Pydantic names the operator after `width` and `depth`; the file does not."""
    if loc[:1] == ("overrides",) and len(loc) > 2:
        return (*loc[:2], *_without_operator(loc[2:]))
    return (loc[0], *loc[2:]) if loc and loc[0] in ("width", "depth") else loc


def _section(loc: Loc) -> type[Section]:
    """The section of the plan at a place as pydantic names it."""
    if loc[:1] == ("overrides",):
        loc = loc[2:] or ("overrides",)
    return SECTIONS[tuple(str(part) for part in loc)]


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


def _explain(details: ErrorDetails) -> str:
    kind, found, context = details["type"], details["input"], details.get("ctx", {})
    loc = details["loc"]
    if kind == "extra_forbidden":
        return f"unknown key, expected one of {_choices(str(loc[-1]), list(_section(loc[:-1]).model_fields))}"
    if kind == "missing":
        return f"missing, expected {_section(loc[:-1]).model_fields[str(loc[-1])].description}"
    if kind == "union_tag_not_found":
        operators = [name for section, *rest in filter(None, SECTIONS) if section == loc[-1] for name in rest]
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
    return details["msg"]


def _shown(value: object) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _choices(found: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(found, choices, n=1)
    return ", ".join(choices) + (f"; did you mean {near[0]!r}?" if near else "")
