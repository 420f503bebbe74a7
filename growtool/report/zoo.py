"""What has been proven on timm's and transformers' model families, in files that are packaged with growtool.

The facts are measured by `make zoo` on randomised models in float64; this module only reads them. docs/zoo.md and
docs/transformers.md show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter

FACTS, TEXT_FACTS = "zoo.json", "transformers.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A growth that was tried.

    Attributes:
        verdict: `exact` and `exact up to eps` (promised and measured), `lossy` (said before anything is written, with
            the reason), `refused` (with the reason), `unmeasured` (too large, or out of time); anything else is a bug
            of growtool.
        operator: the operator that grew the model.
        how: `scale` (by a factor), `arguments` or `sibling` (a larger registered model).
        target: architecture of the grown model.
        args: constructor arguments that changed.
        native: whether timm loads the result as it is, without growtool.
        error: relative difference of the outputs in float64.
        growth: parameters after over parameters before.
        reason: why it is not exact.
    """

    verdict: str
    operator: str = ""
    how: str = ""
    target: str = ""
    args: tuple[str, ...] = ()
    native: bool = True
    error: float | None = None
    growth: float | None = None
    reason: str = ""

    @property
    def reached(self) -> str:
        """What made the model larger: argument names, or the name of a registered model; empty if it was refused."""
        if self.verdict == "refused":
            return ""
        return self.target if self.how == "sibling" else ", ".join(a for a in self.args if a != "base")


@dataclass(frozen=True, slots=True)
class Proof:
    """What was measured on one model.

    Attributes:
        family: timm's model file.
        architecture: the registered model.
        model: the architecture with the arguments that made it small enough.
        parameters: number of its parameters.
        trace_seconds: time of one trace on one core.
        unknown: operations without a rule in the trace.
        groups: channel groups, those included that may not grow.
        free: groups that may grow.
        growable: share of the parameters whose axes may all grow, 0 to 1.
        permutation: relative difference of the outputs after all free groups were permuted; None if that did not run.
        lone_tried: groups of which one member was permuted alone.
        lone_detected: of these, how many then changed the outputs.
        width: growth in width.
        depth: growth in depth.
        singly: each number of the constructor doubled alone, if that grows the model: verdict -> how often.
        seconds: time of all measurements on the model.
        problem: what kept the measurements from their end, or "".
    """

    family: str
    architecture: str
    model: str
    parameters: int
    trace_seconds: float
    unknown: tuple[str, ...]
    groups: int
    free: int
    growable: float
    permutation: float | None
    lone_tried: int
    lone_detected: int
    width: Outcome
    depth: Outcome
    singly: Mapping[str, int]
    seconds: float
    problem: str


@dataclass(frozen=True, slots=True)
class Zoo:
    """Every proof, with the circumstances.

    Attributes:
        families: one proof for each of timm's model files.
        variants: further models of the most used families.
        circumstances: date, machine and versions, in words.
        comparison: the same models in other programs: program -> counts.
    """

    families: tuple[Proof, ...]
    variants: tuple[Proof, ...]
    circumstances: Mapping[str, str]
    comparison: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TextFamily:
    """What was measured on a small model of a family of transformers, grown by two in width, and by two in depth."""

    family: str
    architecture: str
    width: Outcome
    depth: Outcome


def read_text_families() -> tuple[TextFamily, ...]:
    """Return the facts about families of transformers."""
    text = files("growtool.report").joinpath(TEXT_FACTS).read_text("utf-8")
    return TypeAdapter(tuple[TextFamily, ...]).validate_json(text)


def read_zoo() -> Zoo:
    """Return the facts about timm's families."""
    return TypeAdapter(Zoo).validate_json(files("growtool.report").joinpath(FACTS).read_text("utf-8"))
