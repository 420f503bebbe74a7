"""Reading a plan from YAML: every problem at once, each with its line and column; and writing one that changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from growtool.errors import PlanError
from growtool.hub.names import named, spelled
from growtool.plan.document import Document, Place, dotted, parse_document, read_document, write_document
from growtool.plan.explain import validated
from growtool.plan.schema import MIRROR, Plan

_NEED = "a mapping with at least `target:`"
_OPTIONAL = frozenset({"model_args"})
_UNNAMED = Path("plan")  # what stands in for the file of a plan that has none
_PLACE = re.compile(r"^plan:\d+:\d+ ")


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan and the text it came from.

    Attributes:
        plan: what was asked.
        text: the file as it stands, for the copy beside the output.
        path: the file.
        content: what the text says, as plain values.
        places: where each key stands in the file, by its dotted name.
        options: what messages call a key that an option of the command said.
    """

    plan: Plan
    text: str = field(repr=False)
    path: Path
    content: Mapping[str, Any] = field(repr=False)
    places: Mapping[str, Place] = field(default_factory=dict, repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, content: Mapping[str, Any], path: Path, options: Mapping[str, str] | None = None) -> LoadedPlan:
        """A plan that no file holds as it is.

        Args:
            content: its plain values.
            path: what messages call it.
            options: what messages call its keys.

        Raises:
            ValidationError: it is none.
        """
        return cls(Plan.model_validate(content), write_document(content), path, content, options=options or {})

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
        return LoadedPlan(plan, heading + write_document(content), self.path, content, self.places, self.options)

    @property
    def sha256(self) -> str:
        """Hex digest of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @contextmanager
    def located(self) -> Iterator[None]:
        """While open, a problem of a PlanError that begins with a key of the plan tells its place in the file, too.

        Where the plan was said by options, these stand in place of the key.
        """
        try:
            yield
        except PlanError as error:
            raise PlanError([self._located(problem) for problem in error.problems]) from error

    def _located(self, problem: str) -> str:
        key, _, rest = problem.partition(": ")
        if key in self.options:
            return f"{self.options[key]}: {rest}"
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


def load_plan(path: str | Path) -> LoadedPlan:
    """Read the plan in `path`.

    Raises:
        PlanError: the file cannot be read, is not YAML, or is not a plan; one line for each problem, in their order.
    """
    path = Path(path)
    document, content, text = read_document(path, what="a plan in YAML", need=_NEED, optional=_OPTIONAL)
    return _validated(document, content, text)


def loaded_plan(plan: Plan | Mapping[str, Any]) -> LoadedPlan:
    """A plan that was put together in Python, as if it had been read.

    Raises:
        PlanError: the mapping is not a plan; one line for each problem.
    """
    if isinstance(plan, Plan):
        content = {name: as_written(getattr(plan, name)) for name in Plan.model_fields if not _is_default(plan, name)}
        return LoadedPlan(plan, write_document(content), _UNNAMED, content)
    try:
        text = write_document(dict(plan))
    except yaml.YAMLError as error:
        raise PlanError(f"plan: {error}; expected mappings, lists, strings, numbers and truth values alone") from error
    document, content, text = parse_document(_UNNAMED, text, need=_NEED, optional=_OPTIONAL)
    try:
        return replace(_validated(document, content, text), places={})
    except PlanError as error:
        raise PlanError([_PLACE.sub("", problem) for problem in error.problems]) from error


def _validated(document: Document, content: Any, text: str) -> LoadedPlan:
    plan = validated(document, content, Plan)
    if document.problems or plan is None:
        raise PlanError(document.lines())
    places = {dotted(loc).removesuffix(": "): place for loc, place in document.keys.items()}
    short = {f"target.{key}": place for key, place in places.items() if key.partition(".")[0] in Plan.SHORT}
    short |= {key.removesuffix(".scale"): place for key, place in short.items() if key == "target.scale"}
    return LoadedPlan(plan, text, document.path, content, places | short)


def placed(text: str, base: Path) -> Path:
    """A path as it stands in a file of the folder `base`."""
    path = Path(text.removeprefix("local-dir:")).expanduser()
    return path if path.is_absolute() else base / path


def placed_checkpoint(text: str, base: Path) -> str:
    """The same for a checkpoint: a name is the same in every folder, and no path reads as one."""
    return text if named(text, base) else spelled(placed(text, base))


def placed_plan(plan: Plan, base: Path) -> Plan:
    """The plan with its second source and its images placed, where it has some."""
    changes: dict[str, object] = {}
    if plan.second not in (None, MIRROR):
        changes["second"] = placed_checkpoint(str(plan.second), base)
    if plan.data is not None:
        changes["data"] = plan.data.model_copy(update={"path": str(placed(plan.data.path, base))})
    return plan.model_copy(update=changes)
