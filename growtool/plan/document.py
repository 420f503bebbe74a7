"""YAML read with places: plain values, line and column of each, and all problems found at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from growtool.errors import PlanError

Loc = tuple[str | int, ...]


class Place(NamedTuple):
    """Line and column, both counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class _Loader(yaml.SafeLoader):
    """Reads plain scalars by YAML 1.2's core rules: `1e-4` is a number; `no`, `on`, dates and `1:30` are strings.

    PyYAML's own rules are those of YAML 1.1, by which it is the other way round.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (yaml's own attribute)


# Of each type, the pattern of its scalars and the characters they may begin with, by which PyYAML looks rules up.
for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"(?=.*[.eE])[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back: quotes strings that look like other types, and writes no aliases."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: text == "true",
    "null": lambda _: None,
}


_UNFIT = re.compile(r"[\0\ud800-\udfff]")  # escapes in a string can write them, but no path and no UTF-8 holds them


@dataclass
class Document:
    """A file that was read: its text and values, the places of these, and the problems that were found.

    A location is the path of keys and indices to a value, `("overrides", 0, "match")`.

    Attributes:
        path: the file.
        text: its text.
        optional: keys below which `null` is a value like any other.
        content: the values.
        keys: location -> place of its key.
        values: location -> place of its value.
        problems: place, location and text of each.
        seen: `id` of each node that was read; PyYAML puts one node in all places of an alias.
    """

    path: Path
    text: str = ""
    optional: frozenset[str] = frozenset()
    content: dict[str, Any] = field(default_factory=dict)
    keys: dict[Loc, Place] = field(default_factory=dict)
    values: dict[Loc, Place] = field(default_factory=dict)
    problems: list[tuple[Place, Loc, str]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        """Return a node as dicts, lists and scalars, and note its places and problems."""
        place = self.values[loc] = _place(node)
        if id(node) in self.seen:
            where = self.keys.get(loc, place)
            self.problems.append((where, loc, "found an alias, expected the value itself; write it out again"))
            return None
        self.seen.add(id(node))
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            return self._scalar(node, kind, loc)
        self._found(node, loc, f"found the tag {node.tag!r}, expected a plain value")
        return None

    def _scalar(self, node: yaml.ScalarNode, kind: str, loc: Loc) -> Any:
        if kind == "null" and not self.optional & set(loc):
            self._found(node, loc, "found nothing, expected a value; give one or drop the key")
        self._has_fit_characters(node, loc)
        try:
            return _SCALARS[kind](node.value)
        except ValueError:  # a tag in the file (`!!int one`), or an integer of more digits than Python reads
            self._found(node, loc, f"found {node.value[:20]!r}, expected a number that can be read")
            return None

    def _has_fit_characters(self, node: yaml.Node, loc: Loc) -> bool:
        """Return whether all characters of a scalar are fit; note a problem if not."""
        unfit = _UNFIT.search(node.value) if isinstance(node, yaml.ScalarNode) else None
        if unfit is not None:
            self._found(node, loc, f"found the character {unfit[0]!a}, which no name and no path holds; take it out")
        return unfit is None

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, child in node.value:
            inner = (*loc, str(key.value))
            if not self._has_fit_characters(key, loc):
                continue
            if key.tag != "tag:yaml.org,2002:str":
                shown = f"the key {key.value!r}" if isinstance(key, yaml.ScalarNode) else "a collection as key"
                self._found(key, loc, f"found {shown}, expected a word")
            elif inner in self.keys:
                self._found(key, inner, f"found again, first at {self.keys[inner]}; keep one")
            else:
                self.keys[inner] = _place(key)
                content[key.value] = self.value(child, inner)
        return content

    def _found(self, node: yaml.Node, loc: Loc, text: str) -> None:
        self.problems.append((_place(node), loc, text))

    def note(self, loc: Loc, text: str, *, at_key: bool = False) -> None:
        """Note a problem of `loc`, placed at its value or its key, or else at the innermost one around it."""
        places = self.keys if at_key else self.values
        around = next((loc[:size] for size in range(len(loc), -1, -1) if loc[:size] in places), ())
        self.problems.append((places.get(around) or self.values[()], loc, text))

    def place(self, *loc: str | int) -> str:
        """Return how a message about the key at `loc` begins: `plan.yaml:7:3 width.operator`."""
        return f"{self.path}:{self.keys[loc]} {dotted(loc)}"

    def lines(self) -> list[str]:
        """Return every problem as `plan.yaml:7:5 width.operator: text`, in the order of the file."""
        return [
            f"{self.path}:{place} {f'{dotted(loc)}: ' if loc else ''}{text}"
            for place, loc, text in sorted(self.problems, key=lambda item: item[0])
        ]


def read_document(path: Path, *, what: str, need: str, optional: frozenset[str] = frozenset()) -> Document:
    """Read a file in YAML.

    Args:
        path: the file.
        what: what it should be, for messages: `a plan in YAML`.
        need: what it must hold, for messages: `a mapping with at least `target:``.
        optional: keys below which `null` is allowed.

    Raises:
        PlanError: the file cannot be read, is not YAML, or not a mapping. Other problems are in `Document.problems`.
    """
    return parse_document(path, _read_text(path, what), need=need, optional=optional)


def parse_document(path: Path, text: str, *, need: str, optional: frozenset[str] = frozenset()) -> Document:
    """Read a text as if it were that of the file `path`; see `read_document`."""
    document = Document(path, text, optional)
    root = _compose(path, text)
    if not isinstance(root, yaml.MappingNode):
        found = "nothing" if root is None else "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        place = Place(1, 1) if root is None else _place(root)
        raise PlanError(f"{path}:{place} found {found}, expected {need}")
    document.content = document.value(root, ())
    return document


def write_document(content: Mapping[str, Any]) -> str:
    """Return the text that `read_document` reads as `content`; a value with no further collections is on one line."""
    # None puts the innermost collections on one line, which would be the whole document if it held no others.
    flow = None if any(isinstance(value, dict | list) for value in content.values()) else False
    return yaml.dump(
        dict(content), Dumper=_Dumper, sort_keys=False, default_flow_style=flow, allow_unicode=True, width=120
    )


def parse_word(text: str) -> tuple[Any, list[str]]:
    """Return one value as it would be read from a file, and its problems; text that is not YAML is a string."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        return text, []
    if node is None:
        return None, []
    document = Document(Path(), optional=frozenset({""}))
    value = document.value(node, ("",))
    return value, [found for _, _, found in document.problems]


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such file, expected {what}") from error
    except IsADirectoryError as error:
        raise PlanError(f"{path}: found a folder, expected {what}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: not UTF-8 at byte {error.start}, expected {what}; is it another file?") from error


def _compose(path: Path, text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except RecursionError as error:
        raise PlanError(f"{path}: nested too deeply to be read, expected a plan as people write it") from error
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


def dotted(loc: Loc) -> str:
    """Return a location as `width.operator`, empty for the whole file."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
