"""Reading a plan from YAML: every problem at once, each with its line and column."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from growtool.errors import PlanError
from growtool.plan.schema import SECTIONS, Plan

Loc = tuple[str | int, ...]


class Place(NamedTuple):
    """Line and column, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan and the text it came from.

    Attributes:
        plan: what was asked.
        text: the file as it stands, for the copy beside the output.
        path: the file.
    """

    plan: Plan
    text: str
    path: Path

    @property
    def sha256(self) -> str:
        """Hex digest of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_plan(path: Path) -> LoadedPlan:
    """Read the plan in `path`.

    Raises:
        PlanError: the file cannot be read, is not YAML, or is not a plan; one line for each problem, in their order.
    """
    text = _read_text(path)
    document = _Document(path)
    root = _compose(path, text)
    if not isinstance(root, yaml.MappingNode):
        found = "nothing" if root is None else "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        place = Place(1, 1) if root is None else _place(root)
        raise PlanError(f"{path}:{place.line}:{place.column} found {found}, expected a mapping with at least `target:`")
    content = document.value(root, ())
    plan: Plan | None = None
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            document.add_invalid(details)
    if document.problems or plan is None:
        raise PlanError(document.lines())
    return LoadedPlan(plan, text, path)


class _Loader(yaml.SafeLoader):
    """Plain scalars by YAML 1.2's core rules: `1e-4` is a number; `no`, `on`, dates and `1:30` are strings."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (yaml's own attribute)


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"(?=.*[.eE])[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)

_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: text == "true",
    "null": lambda _: None,
}


@dataclass
class _Document:
    """The plain values of a composed file, where each of them stands, and what is wrong with them."""

    path: Path
    keys: dict[Loc, Place] = field(default_factory=dict)
    values: dict[Loc, Place] = field(default_factory=dict)
    problems: list[tuple[Place, Loc, str]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        """The node as dicts, lists and scalars."""
        place = self.values[loc] = _place(node)
        if id(node) in self.seen:
            self.problems.append(
                (self.keys.get(loc, place), loc, "found an alias, expected the value itself; write it out again")
            )
            return None
        self.seen.add(id(node))
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            return self._scalar(node, kind, loc)
        self.problems.append((place, loc, f"found the tag {node.tag!r}, expected a plain value"))
        return None

    def _scalar(self, node: yaml.ScalarNode, kind: str, loc: Loc) -> Any:
        if kind == "null" and "model_args" not in loc:
            self.problems.append((_place(node), loc, "found nothing, expected a value; give one or drop the key"))
        try:
            return _SCALARS[kind](node.value)
        except ValueError:
            self.problems.append((_place(node), loc, f"found {node.value[:20]!r}, expected a number that can be read"))
            return None

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, child in node.value:
            inner = (*loc, str(key.value))
            if key.tag != "tag:yaml.org,2002:str":
                shown = f"the key {key.value!r}" if isinstance(key, yaml.ScalarNode) else "a collection as key"
                self.problems.append((_place(key), loc, f"found {shown}, expected a word"))
            elif inner in self.keys:
                first = self.keys[inner]
                self.problems.append(
                    (_place(key), inner, f"found again, first at {first.line}:{first.column}; keep one")
                )
            else:
                self.keys[inner] = _place(key)
                content[key.value] = self.value(child, inner)
        return content

    def add_invalid(self, details: ErrorDetails) -> None:
        """Take in one finding of pydantic, unless what it is about was found wanting before."""
        loc = _without_operator(details["loc"])
        text = _explain(details)
        if details["type"] in ("union_tag_not_found", "union_tag_invalid"):
            loc = (*loc, "operator")
        place = self.keys.get(loc) if details["type"] == "extra_forbidden" else self.values.get(loc)
        if place is None:
            place = self.values[loc[:-1]]
        if not any(other[: len(loc)] == loc for _, other, _ in self.problems):
            self.problems.append((place, loc, text))

    def lines(self) -> list[str]:
        """Every problem as `plan.yaml:7:5 width.operator: text`, in the order of the file."""
        return [
            f"{self.path}:{place.line}:{place.column} {_dotted(loc)}{text}"
            for place, loc, text in sorted(self.problems, key=lambda item: item[0])
        ]


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such file, expected a plan in YAML") from error
    except IsADirectoryError as error:
        raise PlanError(f"{path}: found a folder, expected a plan in YAML") from error
    except UnicodeDecodeError as error:
        raise PlanError(
            f"{path}: not UTF-8 at byte {error.start}, expected a plan in YAML; is it another file?"
        ) from error


def _compose(path: Path, text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise PlanError(f"{path}{place} not YAML: {said}; mend the syntax") from error
    except yaml.reader.ReaderError as error:
        raise PlanError(
            f"{path}: not YAML: {error.reason} at character {error.position}; is it another file?"
        ) from error


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _without_operator(loc: Loc) -> Loc:
    """Pydantic names the operator after `width` and `depth`; the file does not."""
    return (loc[0], *loc[2:]) if loc and loc[0] in ("width", "depth") else loc


def _dotted(loc: Loc) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return f"{text.removeprefix('.')}: " if text else ""


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
        section = SECTIONS[tuple(str(part) for part in loc[:-1])]
        return f"unknown key, expected one of {_choices(str(loc[-1]), list(section.model_fields))}"
    if kind == "missing":
        return f"missing, expected {Plan.model_fields[str(loc[-1])].description}"
    if kind == "union_tag_not_found":
        operators = [name for section, *rest in filter(None, SECTIONS) if section == loc[0] for name in rest]
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
