"""What is measured of one model of the zoo: trace, permutation, growth in width and in depth."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from unittest import mock

import timm
from torch import nn

from growtool.checkpoint import ModelSpec, build, input_size
from growtool.checkpoint.reach import opened
from growtool.coupling import Coupling, atoms, trace_model
from growtool.errors import GrowtoolError
from growtool.plan import Plan
from growtool.recipe import Recipe, resolve
from growtool.recipe import target as target_module
from growtool.recipe.knobs import Knobs, find_knobs
from growtool.recipe.siblings import larger_siblings

from .models import Example
from .proofs import TOLERANCE, InMemory, free_groups, growth_proof, permutation_proof, source_model

Verdict = Literal["exact", "lossy", "refused", "needless lossy", "FALSE PROMISE", "unmeasured", "crash"]
Axis = Literal["width", "depth"]

_OUTSIDE = ("a kernel position", "the input image", "the model's output")  # axes that growth is not about
_LARGEST = 220_000_000  # parameters of a target that is still built, in float64
_SIBLINGS = 3
_STAGES = 4
_REASONS = 3
_SHOWN = 400  # characters of a reason
_BEST_FIRST = ("FALSE PROMISE", "crash", "exact", "needless lossy", "lossy", "unmeasured", "refused")


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
        promise: `exact` or `lossy`, as said before anything was made.
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


def measure(example: Example, record: dict[str, Any], save: Callable[[], None]) -> None:
    """Fill in the record of one model, saving after each part, so that nothing is lost where time runs out."""
    started = time.perf_counter()

    def saved(**found: Any) -> None:
        record.update(found, seconds=round(time.perf_counter() - started, 1))
        save()

    skeleton = build(example.spec)
    before = time.perf_counter()
    coupling = trace_model(skeleton, input_size(skeleton))
    saved(trace=_trace_facts(skeleton, coupling, time.perf_counter() - before))
    model = source_model(example.spec)
    saved(permutation=asdict(permutation_proof(model, coupling)))
    with _remembering_knobs():
        for axis in ("width", "depth"):
            attempts: list[Attempt] = []
            for attempt in _attempts(axis, example, skeleton, coupling, model):
                attempts.append(attempt)
                saved(**{axis: [asdict(a) for a in attempts]})
                if attempt.verdict in ("exact", "FALSE PROMISE"):
                    break
    saved(complete=True)


def best(attempts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The attempt that counts: what is wrong before what is right, exact before lossy before refused."""
    return min(attempts, key=lambda a: _BEST_FIRST.index(a["verdict"]), default=None)


def _trace_facts(model: nn.Module, coupling: Coupling, seconds: float) -> dict[str, Any]:
    total = growable = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        held = [a.fixed for axis in coupling.tensors[name] for a in atoms(axis)]
        growable += parameter.numel() * all(reason is None or reason in _OUTSIDE for reason in held)
    return {
        "seconds": round(seconds, 2),
        "unknown": dict(coupling.unknown),
        "groups": len(coupling.groups),
        "free": len(free_groups(model, coupling)),
        "parameters": total,
        "growable": round(growable / max(total, 1), 4),
    }


def _attempts(
    axis: Axis, example: Example, skeleton: nn.Module, coupling: Coupling, model: nn.Module
) -> Iterator[Attempt]:
    """Growths by two, then by whatever else the constructor or the registry offers; the caller stops at a success."""
    spec = example.spec
    source = InMemory.of(spec, model)
    names = timm.list_models(module=example.family)
    if axis == "width":
        yield from _widened("scale", {"scale": {"width": 2.0}}, source, model)
        for name in larger_siblings(spec, skeleton, names)[:_SIBLINGS]:
            yield from _widened("sibling", {"model": name}, source, model)
        return
    zero_out = {"depth": "zero_out"}
    yield _attempt("scale", {"scale": {"depth": 2.0}}, zero_out, source, model)
    knobs = target_module.find_knobs(spec, skeleton, coupling).depth
    for name, value in (knobs or target_module.find_knobs(opened(spec), skeleton, coupling).depth).items():
        for more in _one_more(value):
            yield _attempt("arguments", {"model_args": {name: more}}, zero_out, source, model)
    for name in _deeper_siblings(spec, skeleton, names)[:_SIBLINGS]:
        yield _attempt("sibling", {"model": name}, {"width": "tile", **zero_out}, source, model)


def _widened(how: str, target: Mapping[str, Any], source: InMemory, model: nn.Module) -> Iterator[Attempt]:
    """By `tile`; where it cannot, since a width is no whole multiple, by `net2net`."""
    tiled = _attempt(how, target, {"width": "tile"}, source, model)
    yield tiled
    if tiled.verdict == "refused" and any("net2net" in reason for reason in tiled.reasons):
        yield _attempt(how, target, {"width": "net2net"}, source, model)


@contextlib.contextmanager
def _remembering_knobs() -> Iterator[None]:
    """While open, the search for arguments runs once for each model: it does not depend on the growth."""
    found: dict[str, Knobs] = {}

    def remembered(spec: ModelSpec, model: nn.Module, coupling: Coupling) -> Knobs:
        key = f"{spec.architecture} {dict(spec.model_args)}"
        if key not in found:
            found[key] = find_knobs(spec, model, coupling)
        return found[key]

    with mock.patch.object(target_module, "find_knobs", remembered):
        yield


def _one_more(value: Any) -> list[Any]:
    """A depth plus one; of several, each plus one, then the last ones alone, where most models have most blocks."""
    if not isinstance(value, tuple):
        return [value + 1]
    single = [[v + (i == at) for i, v in enumerate(value)] for at in reversed(range(len(value)))]
    return [[v + 1 for v in value], *single[:_STAGES]]


def _deeper_siblings(spec: ModelSpec, model: nn.Module, names: list[str]) -> list[str]:
    """Registered models that hold every tensor of this one, some of them in the same shape, and more."""
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = []
    for name in names:
        if name == spec.architecture or len(found) >= _SIBLINGS or not _alike(name, spec.architecture):
            continue
        try:
            shapes = {n: t.shape for n, t in build(ModelSpec(name, spec.model_args)).state_dict().items()}
        except GrowtoolError:
            continue
        if own.keys() < shapes.keys():
            found.append((len(shapes), name))
    return [name for _, name in sorted(found)]


def _alike(name: str, other: str) -> bool:
    return name.split("_")[0].rstrip("0123456789") == other.split("_")[0].rstrip("0123456789")


def _attempt(
    how: str, target: Mapping[str, Any], operators: Mapping[str, str], source: InMemory, model: nn.Module
) -> Attempt:
    attempt = Attempt(how, " and ".join(operators.values()))
    started = time.perf_counter()
    sections = {axis: _section(name) for axis, name in operators.items()}
    try:
        recipe = resolve(Plan.model_validate({"target": dict(target), **sections}), source)
        _describe(attempt, recipe)
        _prove(attempt, recipe, model)
    except GrowtoolError as error:
        attempt.reasons = [line[:_SHOWN] for line in error.problems[:_REASONS]]
    except (TimeoutError, MemoryError):
        raise
    except Exception as error:  # a growth that was promised and then failed is a finding, not the end of the sweep
        attempt.verdict = "crash"
        attempt.reasons = [f"{type(error).__name__}: {error}"[:_SHOWN]]
    attempt.seconds = round(time.perf_counter() - started, 1)
    return attempt


def _section(operator: str) -> dict[str, Any]:
    return {"operator": operator} if operator == "zero_out" else {"operator": operator, "split": "equal"}


def _describe(attempt: Attempt, recipe: Recipe) -> None:
    source, target = recipe.source.spec, recipe.target
    attempt.target = target.architecture
    attempt.args = {k: v for k, v in target.model_args.items() if source.model_args.get(k) != v}
    attempt.native = not target.architecture.startswith("growtool_")
    attempt.promise = recipe.promise.kind
    attempt.reasons = [reason[:_SHOWN] for reason in recipe.promise.reasons[:_REASONS]]
    after = sum(info.numel for info in recipe.infos.values())
    attempt.growth = round(after / sum(info.numel for info in recipe.source.tensors.values()), 2)


def _prove(attempt: Attempt, recipe: Recipe, model: nn.Module) -> None:
    if sum(info.numel for info in recipe.infos.values()) > _LARGEST:
        attempt.verdict = "unmeasured"
        return
    growth = growth_proof(model, recipe)
    attempt.error, attempt.spoilt = growth.error, growth.spoilt
    equal = growth.error < TOLERANCE
    if equal and growth.spoilt < TOLERANCE:
        attempt.verdict = "unmeasured"
        attempt.reasons = ["the outputs do not depend on what has grown: equal, whatever is in it"]
        return
    if attempt.promise == "exact":
        attempt.verdict = "exact" if equal else "FALSE PROMISE"
    else:
        attempt.verdict = "needless lossy" if equal else "lossy"
