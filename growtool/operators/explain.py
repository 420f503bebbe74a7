"""All about one operator: its chapter of docs/operators.md, its options, its example, and what was measured of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic.fields import FieldInfo

from growtool.operators.table import OPERATORS, OperatorInfo
from growtool.plan.depth import DEPTH_OPERATORS
from growtool.plan.json_schema import meanings
from growtool.plan.section import Section
from growtool.plan.width import WIDTH_OPERATORS

MEASURED = "measured.json"  # written by `python -m tests.support.golden_widths`
_SECTIONS: dict[str, type[Section]] = {**WIDTH_OPERATORS, **DEPTH_OPERATORS}
_EXAMPLE = re.compile(r"\n\n```yaml\n(.*?)```\n", re.DOTALL)
_ROUNDING = 1e-9  # relative differences of logits below this are none
_KEPT = {"refused": "not applicable", "exact up to eps": "up to eps"}


@dataclass(frozen=True, slots=True)
class Option:
    """A key of the plan's section; `default` as the plan spells it, None for a key that must be given."""

    name: str
    default: str | None
    meaning: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that `growtool explain` shows of an operator.

    Attributes:
        info: the operator's line in the table of operators.
        prose: paragraphs of Markdown.
        options: the other keys of the plan's section.
        example: a plan.
        measured: family -> what the operator kept of a tiny model of it, in words; empty for depth operators.
    """

    info: OperatorInfo
    prose: str
    options: tuple[Option, ...]
    example: str
    measured: Mapping[str, str]


def explain(name: str) -> Explanation:
    """Return all about the operator of this name, which has to be in the table."""
    text = files("growtool.operators").joinpath("text", f"{name}.md").read_text("utf-8")
    (example,) = _EXAMPLE.findall(text)
    measured = {family: _kept(found) for family, found in _measured().get(name, {}).items()}
    return Explanation(OPERATORS[name], _EXAMPLE.sub("", text), _options(_SECTIONS[name]), example, measured)


@cache
def _measured() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(files("growtool.operators").joinpath(MEASURED).read_text("utf-8"))
    return found


def _kept(found: Mapping[str, Any]) -> str:
    """Return the promise in words, and for a lossy one how far the logits moved."""
    promise: str = found["promise"]
    if promise != "lossy":
        return _KEPT.get(promise, promise)
    return f"lossy, {found['difference']:.2g}" if found["difference"] > _ROUNDING else "lossy in general, 0 here"


def _options(section: type[Section]) -> tuple[Option, ...]:
    described = meanings(section)
    fields = {name: field for name, field in section.model_fields.items() if name != "operator"}
    return tuple(Option(name, _default(field), described[name]) for name, field in fields.items())


def _default(field: FieldInfo) -> str | None:
    """Return the default as YAML spells it."""
    if field.is_required():
        return None
    if field.default is None:
        return "null"
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
