"""Plans read from YAML, every problem at once with its line and column; and the text of a plan that changed."""

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
from growtool.hub.names import LOCAL, named, spelled
from growtool.plan.document import Document, Place, dotted, parse_document, read_document, write_document
from growtool.plan.explain import require_valid
from growtool.plan.schema import MIRROR, Override, Plan

_NEED = "a mapping with at least `target:`"
_OPTIONAL = frozenset({"model_args"})  # an argument may be null, which takes the constructor's default
_UNNAMED = Path("plan")  # in place of the file for a plan that comes from Python
_PLACE = re.compile(r"^plan:\d+:\d+ ")  # line and column in that file, which say nothing to the user


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan and the text it came from.

    Attributes:
        plan: the plan.
        text: the text of the file as it stands, for the copy beside the output.
        path: the file.
        content: the plain values of the text.
        places: dotted name of a key -> its place in the file.
        options: dotted name of a key that an option of the command set -> what messages call it.
    """

    plan: Plan
    text: str = field(repr=False)
    path: Path
    content: Mapping[str, Any] = field(repr=False)
    places: Mapping[str, Place] = field(default_factory=dict, repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, content: Mapping[str, Any], path: Path, options: Mapping[str, str] | None = None) -> LoadedPlan:
        """Return a plan made of plain values that were not read from a file.

        Raises:
            ValidationError: the values are no plan.
        """
        return cls(Plan.model_validate(content), write_document(content), path, content, options=options or {})

    def with_plan(self, plan: Plan, comments: Sequence[str] = ()) -> LoadedPlan:
        """Return a changed plan with a text that says it; this very object if nothing changed.

        The new text has the keys of this one, as short as they were, but for those that changed.

        Args:
            plan: this plan with other values.
            comments: lines at the top of the new text.
        """
        changed = [name for name in Plan.model_fields if getattr(plan, name) != getattr(self.plan, name)]
        if not changed:
            return self
        content = {key: value for key, value in self.content.items() if key not in changed}
        content |= {name: as_written(getattr(plan, name)) for name in changed if not _is_default(plan, name)}
        if "target" in changed:
            content.pop("scale", None)  # its short form
        heading = "".join(f"# {comment}\n" for comment in comments)
        return LoadedPlan(plan, heading + write_document(content), self.path, content, self.places, self.options)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the text in UTF-8, as hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @contextmanager
    def placing_problems(self) -> Iterator[None]:
        """While open, put the place in the file before each problem of a PlanError that begins with a key of the plan.

        If an option of the command set the key, the option stands in place of the key.
        """
        try:
            yield
        except PlanError as error:
            raise PlanError([self._located(problem) for problem in error.problems]) from error

    def _located(self, problem: str) -> str:
        key, _, rest = problem.partition(": ")
        if key in self.options:
            return f"{self.options[key]}: {rest}"
        while key not in self.places:  # else the key around it that the file has
            key, dot, _ = key.rpartition(".")
            if not dot:
                return problem
        return f"{self.path}:{self.places[key]} {problem}"


def as_written(value: Any) -> Any:
    """Return a value of a plan as plain values for a file, in its short form if it has one.

    None is `false`: it differs from the default, and so is written, for `verify` alone.
    """
    if isinstance(value, BaseModel):
        options = value.model_dump(mode="json", exclude_defaults=True)
        if isinstance(value, Override):
            options["width"] = as_written(value.width)
        operator = getattr(value, "operator", None)
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
    """Read a plan from a file in YAML.

    Raises:
        PlanError: the file cannot be read, is not YAML, or is not a plan; one line for each problem, in their order.
    """
    path = Path(path)
    return _loaded(read_document(path, what="a plan in YAML", need=_NEED, optional=_OPTIONAL))


def loaded_plan(plan: LoadedPlan | Plan | Mapping[str, Any] | str | Path) -> LoadedPlan:
    """Return a plan as read from its file; one that was put together in Python as if it had been read from a file.

    Raises:
        PlanError: the file cannot be read, or the plan is none; one line for each problem.
    """
    if isinstance(plan, LoadedPlan):
        return plan
    if isinstance(plan, str | Path):
        return load_plan(plan)
    if isinstance(plan, Plan):
        content = {name: as_written(getattr(plan, name)) for name in Plan.model_fields if not _is_default(plan, name)}
        return LoadedPlan(plan, write_document(content), _UNNAMED, content)
    if not isinstance(plan, Mapping):
        raise PlanError(f"plan: found {plan!r}, expected {_NEED}, such as {{'target': {{'scale': 2}}}}, or a path")
    try:
        text = write_document(dict(plan))
    except RecursionError:
        raise PlanError("plan: found a mapping or list that holds itself, expected values that end") from None
    except yaml.YAMLError as error:
        raise PlanError(f"plan: {error}; expected mappings, lists, strings, numbers and truth values alone") from error
    document = parse_document(_UNNAMED, text, need=_NEED, optional=_OPTIONAL)
    try:
        return replace(_loaded(document), places={})
    except PlanError as error:
        raise PlanError([_PLACE.sub("", problem) for problem in error.problems]) from error


def _loaded(document: Document) -> LoadedPlan:
    """Return the plan in a document, with the places of its keys, also under the long names of short forms."""
    plan = require_valid(document, Plan)
    places = {dotted(loc): place for loc, place in document.keys.items()}
    # `scale.width` at the top is found as `target.scale.width`, and `scale` as `target` as well
    long = {f"target.{key}": place for key, place in places.items() if key.partition(".")[0] in Plan.SHORT}
    if "target.scale" in long:
        long["target"] = long["target.scale"]
    return LoadedPlan(plan, document.text, document.path, document.content, places | long)


def path_in(text: str, base: Path) -> Path:
    """Return the path that a text in a file means: relative ones start from the file's folder, `base`."""
    path = Path(text.removeprefix(LOCAL)).expanduser()
    return path if path.is_absolute() else base / path


def checkpoint_in(text: str, base: Path) -> str:
    """Return a checkpoint that a file names, its path placed as `path_in` does; names in the hub stay as they are."""
    return text if named(text, base) else spelled(path_in(text, base))


def plan_in(plan: Plan, base: Path) -> Plan:
    """Return the plan with the paths of its second source and its images placed, if it has them; see `path_in`."""
    changes: dict[str, object] = {}
    if plan.second not in (None, MIRROR):
        changes["second"] = checkpoint_in(str(plan.second), base)
    if plan.data is not None:
        changes["data"] = plan.data.model_copy(update={"path": str(path_in(plan.data.path, base))})
    return plan.model_copy(update=changes)
