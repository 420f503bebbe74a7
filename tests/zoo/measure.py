"""What is measured of one model of the zoo: trace, permutation, growth in width, in depth, and by each argument."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any
from unittest import mock

import timm
from torch import nn

from growtool.checkpoint import ModelSpec, build
from growtool.errors import GrowtoolError
from growtool.library import library_of
from growtool.library.timm.families import larger_siblings
from growtool.library.timm.reach import with_open_arguments
from growtool.library.values import as_lists, numbers_in, scaled_at
from growtool.recipe.target import spec as target_module
from growtool.recipe.target.size_arguments import AXES, SizeArguments, find_size_arguments
from growtool.recipe.traced_model import TracedModel
from growtool.trace import Trace, groups_on, trace_built

from .attempt import Attempt, attempt
from .models import Example
from .proofs import InMemory, free_groups, permutation_proof, source_model

_OUTSIDE = ("a kernel position", "the input image", "the model's output")  # axes that growth is not about
_SIBLINGS = 3
_STAGES = 4
_ZERO_OUT = {"depth": "zero_out"}
TILED_AND_CLOSED = {"width": "tile", **_ZERO_OUT}


def measure(example: Example, record: dict[str, Any], save: Callable[[], None], *, singly: float) -> None:
    """Fill in the record of one model, saving after each part, so that nothing is lost where time runs out.

    Args:
        example: the model.
        record: to be filled in.
        save: called after each part.
        singly: seconds of processor time for the arguments one by one.
    """
    started = time.perf_counter()

    def saved(**found: Any) -> None:
        record.update(found, seconds=round(time.perf_counter() - started, 1))
        save()

    skeleton = build(example.spec)
    before = time.process_time()  # of one core, whatever else the machine is doing
    trace = trace_built(example.spec, skeleton)
    saved(trace=_trace_facts(skeleton, trace, time.process_time() - before))
    model = source_model(example.spec)
    saved(permutation=asdict(permutation_proof(model, trace)))
    source = InMemory.of(example.spec, model)
    with _remembering_size_arguments():
        for axis, tried in (("width", _widened), ("depth", _deepened)):
            attempts: list[Attempt] = []
            for made in tried(example, skeleton, trace, source, model):
                attempts.append(made)
                saved(**{axis: [asdict(a) for a in attempts]})
                if made.verdict in ("exact", "FALSE PROMISE"):
                    break
        saved(singly=[])
        for made in _singly(example.spec, skeleton, source, model, singly):
            saved(singly=[*record["singly"], asdict(made)])
    saved(complete=True)


def _trace_facts(model: nn.Module, trace: Trace, seconds: float) -> dict[str, Any]:
    total = growable = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        held = [a.fixed for axis in trace.tensors[name] for a in groups_on(axis)]
        growable += parameter.numel() * all(reason is None or reason in _OUTSIDE for reason in held)
    return {
        "seconds": round(seconds, 2),
        "unknown": dict(trace.unknown),
        "groups": len(trace.groups),
        "free": len(free_groups(model, trace)),
        "parameters": total,
        "growable": round(growable / max(total, 1), 4),
    }


def _widened(
    example: Example, skeleton: nn.Module, trace: Trace, source: InMemory, model: nn.Module
) -> Iterator[Attempt]:
    """By two, then by the example's own arguments, then to registered models; the caller stops at a success."""
    yield from _copied("scale", {"scale": {"width": 2.0}}, source, model)
    if example.wider:
        yield from _copied("arguments", {"model_args": dict(example.wider)}, source, model)
    for name in larger_siblings(example.spec, skeleton, timm.list_models(module=example.family), build)[:_SIBLINGS]:
        yield from _copied("sibling", {"model": name}, source, model)


def _copied(how: str, target: Mapping[str, Any], source: InMemory, model: nn.Module) -> Iterator[Attempt]:
    """By `tile`; where it cannot, since a width is no whole multiple, by `net2net`, else by `mixture`."""
    tiled = attempt(how, target, {"width": "tile"}, source, model)
    yield tiled
    if tiled.verdict == "refused" and any("takes whole multiples" in reason for reason in tiled.reasons):
        yield attempt(how, target, {"width": "net2net"}, source, model)
        yield attempt(how, target, {"width": "mixture"}, source, model)


def _deepened(
    example: Example, skeleton: nn.Module, trace: Trace, source: InMemory, model: nn.Module
) -> Iterator[Attempt]:
    """Twice as deep, then one more block in each stage or in one of them, then registered models.

    Where nothing is residual, by blocks that pass on what they receive.
    """
    spec = example.spec
    zeroed = attempt("scale", {"scale": {"depth": 2.0}}, _ZERO_OUT, source, model)
    yield zeroed
    if any("net2deeper" in reason for reason in zeroed.reasons):
        yield attempt("scale", {"scale": {"depth": 2.0}}, {"depth": "net2deeper"}, source, model)
    if example.deeper:
        yield attempt("arguments", {"model_args": dict(example.deeper)}, _ZERO_OUT, source, model)
    plain, opened = (TracedModel(s, skeleton, trace) for s in (spec, with_open_arguments(spec)))
    size_arguments = target_module.find_size_arguments(plain, ["depth"]).depth
    for name, value in (size_arguments or target_module.find_size_arguments(opened, ["depth"]).depth).items():
        for more in _one_more(value):
            yield attempt("arguments", {"model_args": {name: more}}, _ZERO_OUT, source, model)
    for name in _deeper_siblings(spec, skeleton, timm.list_models(module=example.family))[:_SIBLINGS]:
        yield attempt("sibling", {"model": name}, TILED_AND_CLOSED, source, model)


def _one_more(value: Any) -> list[Any]:
    """A depth plus one; of several, each plus one, then the last ones alone, where most models have most blocks."""
    if not isinstance(value, tuple):
        return [value + 1]
    single = [[v + (i == at) for i, v in enumerate(value)] for at in reversed(range(len(value)))]
    return [[v + 1 for v in value], *single[:_STAGES]]


def _deeper_siblings(spec: ModelSpec, model: nn.Module, names: list[str]) -> list[str]:
    """Registered models that hold every tensor of this one and more, smallest first."""
    own = model.state_dict().keys()
    found = []
    for name in names:
        if name == spec.architecture or len(found) >= _SIBLINGS or not _alike(name, spec.architecture):
            continue
        with contextlib.suppress(GrowtoolError):
            tensors = build(ModelSpec(name, spec.model_args)).state_dict().keys()
            if own < tensors:
                found.append((len(tensors), name))
    return [name for _, name in sorted(found)]


def _alike(name: str, other: str) -> bool:
    return name.split("_")[0].rstrip("0123456789") == other.split("_")[0].rstrip("0123456789")


def _singly(
    spec: ModelSpec, skeleton: nn.Module, source: InMemory, model: nn.Module, seconds: float
) -> Iterator[Attempt]:
    """What comes of changes of single arguments, but for those that are refused and numbers that change no tensor."""
    started = time.process_time()
    for changed in single_changes(spec, skeleton):
        if time.process_time() - started > seconds:
            return
        made = attempt("arguments", {"model_args": changed}, TILED_AND_CLOSED, source, model)
        turned = all(isinstance(value, bool) for value in changed.values())
        if made.verdict != "refused" and (made.growth != 1 or turned):
            yield made


def single_changes(spec: ModelSpec, skeleton: nn.Module) -> Iterator[dict[str, Any]]:
    """Every number of the constructor doubled, every switch turned, each on its own."""
    arguments = library_of(spec).arguments(spec, skeleton)
    for name, value in numbers_in(arguments).items():
        yield {name: as_lists(scaled_at(value, 2))}
    for name, switch in arguments.items():
        if isinstance(switch, bool) and name != "pretrained":
            yield {name: not switch}


@contextlib.contextmanager
def _remembering_size_arguments() -> Iterator[None]:
    """While open, the search for arguments runs once for each model: it does not depend on the growth."""
    found: dict[str, SizeArguments] = {}

    def remembered(source: TracedModel, axes: Collection[str] = AXES, *_: object) -> SizeArguments:
        key = f"{source.spec.architecture} {dict(source.spec.model_args)} {axes}"
        if key not in found:
            found[key] = find_size_arguments(source, axes)
        return found[key]

    with mock.patch.object(target_module, "find_size_arguments", remembered):
        yield
