"""Reading a plan from YAML: every problem at once, each with its line and column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from growtool.errors import PlanError
from growtool.plan.document import Place, dotted, read_document
from growtool.plan.explain import add_invalid
from growtool.plan.schema import SECTIONS, Plan


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
        add_invalid(document, error, SECTIONS)
    if document.problems or plan is None:
        raise PlanError(document.lines())
    places = {dotted(loc).removesuffix(": "): place for loc, place in document.keys.items()}
    return LoadedPlan(plan, text, path, places)
