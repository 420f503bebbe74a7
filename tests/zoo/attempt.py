"""One growth of one model of the zoo: asked for, promised, measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from growtool.errors import GrowtoolError
from growtool.plan import Plan
from growtool.recipe import Recipe, resolve

from .proofs import TOLERANCE, InMemory, growth_proof

Verdict = Literal[
    "exact", "exact up to eps", "lossy", "refused", "needless lossy", "FALSE PROMISE", "unmeasured", "crash"
]

_UP_TO_EPS = 1e-5  # largest difference that the eps of norms may make, as in growtool's own proof
_LARGEST = 220_000_000  # parameters of a target that is still built, in float64
_REASONS = 3
_SHOWN = 400  # characters of a reason
_BEST_FIRST = ("FALSE PROMISE", "crash", "exact", "exact up to eps", "needless lossy", "lossy", "unmeasured", "refused")


@dataclass
class Attempt:
    """One growth that was asked for, and what came of it.

    Attributes:
        how: `scale`, `arguments` or `sibling`.
        operator: of the width or the depth.
        verdict: see the legend of docs/zoo.md.
        target: architecture that was reached.
        args: constructor arguments that differ from the source's.
        native: whether timm loads the result as it is.
        promise: `exact`, `exact up to eps` or `lossy`, as said before anything was made.
        reasons: why it is lossy, or why it was refused.
        error: relative difference of the outputs in float64.
        spoilt: the same with one grown tensor slightly off: shows that the proof can fail.
        growth: parameters of the target over those of the source.
        seconds: of the whole attempt.
    """

    how: str
    operator: str
    verdict: Verdict = "refused"
    target: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    native: bool = True
    promise: str = ""
    reasons: list[str] = field(default_factory=list)
    error: float | None = None
    spoilt: float | None = None
    growth: float | None = None
    seconds: float = 0.0


def attempt(
    how: str, target: Mapping[str, Any], operators: Mapping[str, str], source: InMemory, model: nn.Module
) -> Attempt:
    """Resolve the plan, and if it is not refused, grow in memory and compare.

    Args:
        how: for the record.
        target: the plan's `target`.
        operators: `width` and `depth` to the operator's name.
        source: the model as a checkpoint.
        model: the same model.
    """
    made = Attempt(how, " and ".join(operators.values()))
    started = time.perf_counter()
    sections = {axis: _section(name) for axis, name in operators.items()}
    try:
        recipe = resolve(Plan.model_validate({"target": dict(target), **sections}), source)
        _describe(made, recipe)
        _prove(made, recipe, model)
    except GrowtoolError as error:
        made.reasons = [line[:_SHOWN] for line in error.problems[:_REASONS]]
    except (TimeoutError, MemoryError):
        raise
    except Exception as error:  # a growth that was promised and then failed is a finding, not the end of the sweep
        made.verdict = "crash"
        made.reasons = [f"{type(error).__name__}: {error}"[:_SHOWN]]
    made.seconds = round(time.perf_counter() - started, 1)
    return made


def best(attempts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The attempt that counts: what is wrong before what is right, exact before lossy before refused."""
    return min(attempts, key=lambda a: _BEST_FIRST.index(a["verdict"]), default=None)


def _section(operator: str) -> dict[str, Any]:
    splits = operator in ("tile", "net2net")
    return {"operator": operator, "split": "equal"} if splits else {"operator": operator}


def _describe(made: Attempt, recipe: Recipe) -> None:
    source, target = recipe.source.spec, recipe.target
    made.target = target.architecture
    made.args = {k: v for k, v in target.model_args.items() if source.model_args.get(k) != v}
    made.native = recipe.needed_import is None
    made.promise = recipe.promise.kind
    made.reasons = [reason[:_SHOWN] for reason in recipe.promise.reasons[:_REASONS]]
    after = sum(info.numel for info in recipe.infos.values())
    made.growth = round(after / sum(info.numel for info in recipe.source.tensors.values()), 4)


def _prove(made: Attempt, recipe: Recipe, model: nn.Module) -> None:
    if sum(info.numel for info in recipe.infos.values()) > _LARGEST:
        made.verdict, made.reasons = "unmeasured", ["too large for this sweep"]
        return
    growth = growth_proof(model, recipe)
    made.error, made.spoilt = growth.error, growth.spoilt
    equal = growth.error < TOLERANCE
    if equal and growth.spoilt < TOLERANCE:
        made.verdict = "unmeasured"
        made.reasons = ["the outputs do not depend on what has grown: equal, whatever is in it"]
    elif made.promise == "exact":
        made.verdict = "exact" if equal else "FALSE PROMISE"
    elif made.promise == "exact up to eps":
        kept = growth.told < TOLERANCE and growth.error < _UP_TO_EPS
        made.verdict = "exact up to eps" if kept else "FALSE PROMISE"
    else:
        made.verdict = "needless lossy" if equal else "lossy"
