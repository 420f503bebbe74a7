"""YAML with places: plain values, where each of them stands, and everything that is wrong with them at once."""

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


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as something else; writes everything out, as aliases are refused."""

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


_UNFIT = re.compile(r"[\0\ud800-\udfff]")  # what an escape can write and no system call, no UTF-8 takes


@dataclass
class Document:
    """The plain values of a composed file, where each of them stands, and what is wrong with them.

    Attributes:
        path: the file.
        optional: keys below which `null` is a value like any other.
        keys, values: places by location.
        problems: place, location and text of each finding.
        seen: nodes met so far, by identity.
    """

    path: Path
    optional: frozenset[str] = frozenset()
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
        if kind == "null" and not self.optional & set(loc):
            self.problems.append((_place(node), loc, "found nothing, expected a value; give one or drop the key"))
        self._is_fit(node, loc)
        try:
            return _SCALARS[kind](node.value)
        except ValueError:
            self.problems.append((_place(node), loc, f"found {node.value[:20]!r}, expected a number that can be read"))
            return None

    def _is_fit(self, node: yaml.Node, loc: Loc) -> bool:
        unfit = _UNFIT.search(node.value) if isinstance(node, yaml.ScalarNode) else None
        if unfit is not None:
            self.problems.append(
                (_place(node), loc, f"found the character {unfit[0]!a}, which no name and no path holds; take it out")
            )
        return unfit is None

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, child in node.value:
            inner = (*loc, str(key.value))
            if not self._is_fit(key, loc):
                continue
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

    def note(self, loc: Loc, text: str, *, at_key: bool = False) -> None:
        """A finding about `loc`, placed there or at the nearest place around it."""
        places = self.keys if at_key else self.values
        around = next((loc[:size] for size in range(len(loc), -1, -1) if loc[:size] in places), ())
        self.problems.append((places.get(around) or self.values[()], loc, text))

    def place(self, *loc: str | int) -> str:
        """How a line about the key at `loc` begins: `plan.yaml:7:3 width.operator`."""
        line, column = self.keys[loc]
        return f"{self.path}:{line}:{column} {dotted(loc).removesuffix(': ')}"

    def lines(self) -> list[str]:
        """Every problem as `plan.yaml:7:5 width.operator: text`, in the order of the file."""
        return [
            f"{self.path}:{place.line}:{place.column} {dotted(loc)}{text}"
            for place, loc, text in sorted(self.problems, key=lambda item: item[0])
        ]


def read_document(
    path: Path, *, what: str, need: str, optional: frozenset[str] = frozenset()
) -> tuple[Document, Any, str]:
    """Read `path`.

    Args:
        path: the file.
        what: what it should be, `a plan in YAML`.
        need: what its mapping must hold, `a mapping with at least `target:``.
        optional: keys below which `null` is allowed.

    Returns:
        The places, the values, and the text.

    Raises:
        PlanError: the file cannot be read, is not YAML, or not a mapping. Other findings are in `Document.problems`.
    """
    return parse_document(path, _read_text(path, what), need=need, optional=optional)


def parse_document(
    path: Path, text: str, *, need: str, optional: frozenset[str] = frozenset()
) -> tuple[Document, Any, str]:
    """Read a text as if it were that of the file `path`; see `read_document`."""
    document = Document(path, optional)
    root = _compose(path, text)
    if not isinstance(root, yaml.MappingNode):
        found = "nothing" if root is None else "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        place = Place(1, 1) if root is None else _place(root)
        raise PlanError(f"{path}:{place.line}:{place.column} found {found}, expected {need}")
    return document, document.value(root, ()), text


def write_document(content: Mapping[str, Any]) -> str:
    """The text that `read_document` reads as `content`: a line for each key whose value holds no further mappings."""
    flow = None if any(isinstance(value, dict | list) for value in content.values()) else False
    return yaml.dump(
        dict(content), Dumper=_Dumper, sort_keys=False, default_flow_style=flow, allow_unicode=True, width=120
    )


def parse_word(text: str) -> tuple[Any, list[str]]:
    """One value as it would be read from a file, and what is wrong with it; text that is no YAML stands for itself."""
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
    """`width.operator: ` for a location; nothing for the whole file."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return f"{text.removeprefix('.')}: " if text else ""
