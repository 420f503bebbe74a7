"""Layers in line: where depth may grow in an `nn.Sequential` of plain layers, which has no modules for its blocks.

A unit is a layer with a matrix or kernel and what follows up to the next one: its norm, its activation. Units that
follow each other and are alike, sizes included, form a run; what comes after the last of them alone (a pooling layer)
is the run's tail. A target with more units in some runs is such a network grown.

That the layers run one after the other is known: the container's forward is `nn.Sequential`'s own, and the trace saw it
call each of them once, in order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from growtool.trace.axes import axis_size
from growtool.trace.pairing.stretches import Stretch, sequences, work_of
from growtool.trace.result import Trace

_Sizes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class InLine(Stretch):
    """A stretch of layers in line; blocks are named by the index of the layer that they start with.

    Attributes:
        bodies: index that a unit starts with, in the source and in the target -> the indices of its layers.
        rest: target index of each layer outside of units that may be repeated -> its index in the source.
    """

    bodies: tuple[Mapping[int, tuple[int, ...]], Mapping[int, tuple[int, ...]]]
    rest: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Layer:
    index: int
    sizes: _Sizes
    kind: object  # names and numbers of dimensions of its tensors, and what it computes


_Unit = tuple[_Layer, ...]


def layers_in_line(source: tuple[nn.Module, Trace], target: tuple[nn.Module, Trace]) -> list[InLine]:
    """The lines of layers in which the target has more units than the source, alike but for longer runs.

    Args:
        source: the small model and its trace.
        target: the large one.
    """
    numbered = {*sequences(source[1].tensors), *sequences(target[1].tensors)}
    old, new = _lines(*source), _lines(*target)
    found = (
        _matched(prefix, old[prefix], new[prefix])
        for prefix in sorted(old.keys() & new.keys())
        if prefix not in numbered
    )
    return [stretch for stretch in found if stretch is not None]


def _lines(model: nn.Module, trace: Trace) -> dict[str, list[_Layer]]:
    lines = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
            continue
        prefix = f"{path}." if path else ""
        names = [str(i) for i in range(len(module))]
        calls = tuple(("call", f"{prefix}{name}") for name in names)
        if list(module._modules) == names and trace.signatures.get(path) == calls:
            lines[prefix] = [_layer(trace, prefix, index) for index in range(len(module))]
    return lines


def _layer(trace: Trace, prefix: str, index: int) -> _Layer:
    inside = f"{prefix}{index}."
    own = {name.removeprefix(inside): trace.tensors[name] for name in trace.tensors_in(f"{prefix}{index}")}
    sizes = tuple((name, tuple(map(axis_size, axes))) for name, axes in sorted(own.items()))
    dimensions = tuple((name, len(shape)) for name, shape in sizes)
    return _Layer(index, sizes, (dimensions, work_of(trace, f"{prefix}{index}")))


def _units(layers: Sequence[_Layer]) -> tuple[list[_Layer], list[_Unit]]:
    """The layers before the first unit, and the units."""
    heads = [i for i, layer in enumerate(layers) if any(len(shape) > 1 for _, shape in layer.sizes)]
    if not heads:
        return list(layers), []
    return list(layers[: heads[0]]), [tuple(layers[a:b]) for a, b in itertools.pairwise([*heads, len(layers)])]


def _matched(prefix: str, old: Sequence[_Layer], new: Sequence[_Layer]) -> InLine | None:
    """The target's line as the source's with longer runs, None if it is no such thing."""
    (before, remaining), (first, units) = _units(old), _units(new)
    if len(units) <= len(remaining) or _kinds(before) != _kinds(first):
        return None
    rest = {b.index: a.index for a, b in zip(before, first, strict=True)}
    bodies: tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]] = ({}, {})
    alike: dict[int, tuple[int, ...]] = {}
    for run in _runs(units):
        body = len(run[0])
        taken = _taken(remaining, run)
        if not taken:
            return None
        remaining = remaining[len(taken) :]
        for held, own in zip(bodies, (taken, run), strict=True):
            held.update({unit[0].index: tuple(layer.index for layer in unit[:body]) for unit in own})
        rest |= {b.index: a.index for a, b in zip(taken[-1][body:], run[-1][body:], strict=True)}
        alike |= {unit[0].index: tuple(other[0].index for other in taken) for unit in run}
    if remaining:
        return None
    return InLine(prefix, tuple(bodies[0]), tuple(bodies[1]), alike, bodies, rest)


def _runs(units: Sequence[_Unit]) -> list[list[_Unit]]:
    """Units in runs; all of a run but the last are like the first, which the last one may go beyond."""
    runs: list[list[_Unit]] = []
    for unit in units:
        last = runs[-1] if runs else None
        if last and _kinds(last[-1]) == _kinds(last[0]) and _starts_like(unit, last[0]):
            last.append(unit)
        else:
            runs.append([unit])
    return runs


def _taken(units: Sequence[_Unit], run: Sequence[_Unit]) -> list[_Unit]:
    """The first of the source's units that the run of the target is made from, none if they are not such."""
    taken: list[_Unit] = []
    for unit in units[: len(run)]:
        if taken and not _starts_like(unit, taken[0], len(run[0])):
            break
        taken.append(unit)
        if _kinds(unit) != _kinds(run[0]):
            break
    sound = taken and _kinds(taken[-1]) == _kinds(run[-1])
    return taken if sound else []


def _starts_like(unit: _Unit, first: _Unit, length: int | None = None) -> bool:
    body = first[:length]
    return [(a.kind, a.sizes) for a in unit[: len(body)]] == [(b.kind, b.sizes) for b in body]


def _kinds(unit: Sequence[_Layer]) -> list[object]:
    return [layer.kind for layer in unit]
