"""Reading a plan from YAML: every problem at once, each with its line and column; and writing one that changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from growtool.errors import PlanError
from growtool.plan.document import Place, dotted, read_document, write_document
from growtool.plan.explain import add_invalid
from growtool.plan.schema import SECTIONS, Plan


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan and the text it came from.

    Attributes:
        plan: what was asked.
        text: the file as it stands, for the copy beside the output.
        path: the file.
        content: what the text says, as plain values.
        places: where each key stands in the file, by its dotted name.
    """

    plan: Plan
    text: str
    path: Path
    content: Mapping[str, Any]
    places: Mapping[str, Place] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Mapping[str, Any], path: Path) -> LoadedPlan:
        """A plan that no file holds as it is.

        Args:
            content: its plain values.
            path: what messages call it.

        Raises:
            ValidationError: it is none.
        """
        return cls(Plan.model_validate(content), write_document(content), path, content)

    def saying(self, plan: Plan, comments: Sequence[str] = ()) -> LoadedPlan:
        """`plan`, with a text that says it: this text where it does, else one with other values for some of its keys.

        Args:
            plan: this one with other values.
            comments: lines to begin a changed text with.
        """
        changed = [name for name in Plan.model_fields if getattr(plan, name) != getattr(self.plan, name)]
        if not changed:
            return self
        content = {key: value for key, value in self.content.items() if key not in changed}
        content |= {name: as_written(getattr(plan, name)) for name in changed if not _is_default(plan, name)}
        if "target" in changed:
            content.pop("scale", None)
        heading = "".join(f"# {comment}\n" for comment in comments)
        return LoadedPlan(plan, heading + write_document(content), self.path, content, self.places)

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


def as_written(value: Any) -> Any:
    """A value of a plan as a file says it, in short where it can."""
    if isinstance(value, BaseModel):
        operator = getattr(value, "operator", None)
        options = value.model_dump(mode="json", exclude_defaults=True)
        options = {key: as_written(getattr(value, key)) if key == "width" else said for key, said in options.items()}
        if operator is None:
            return options
        options.pop("operator", None)
        return {"operator": operator, **options} if options else operator
    if isinstance(value, tuple):
        return [as_written(item) for item in value]
    return False if value is None else value


def _is_default(plan: Plan, name: str) -> bool:
    field_info = Plan.model_fields[name]
    return not field_info.is_required() and getattr(plan, name) == field_info.get_default(call_default_factory=True)


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
        add_invalid(document, error, SECTIONS)
    if document.problems or plan is None:
        raise PlanError(document.lines())
    places = {dotted(loc).removesuffix(": "): place for loc, place in document.keys.items()}
    short = {f"target.{key}": place for key, place in places.items() if key.partition(".")[0] in Plan.SHORT}
    short |= {key.removesuffix(".scale"): place for key, place in short.items() if key == "target.scale"}
    return LoadedPlan(plan, text, path, content, places | short)
