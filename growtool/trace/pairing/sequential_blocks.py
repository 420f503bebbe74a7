"""Layers in line: where depth may grow in an `nn.Sequential` of plain layers, such as a VGG, without block modules.

A unit is a layer with a matrix or kernel, with the layers after it up to the next one: its norm, its activation. A run
is made of consecutive units that are alike, sizes included. The last unit of a run may have further layers, its tail:
a pooling layer, say. The target is the source grown deeper if it has the same runs, some with more units.

That the layers run one after the other is certain: the container's forward is that of `nn.Sequential`, and the trace
saw it call each of them once, in order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from growtool.trace.axes import axis_size
from growtool.trace.pairing.stretches import Stretch, sequences, work_of
from growtool.trace.result import Trace

_Sizes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class InLine(Stretch):
    """A stretch of layers in line; its blocks are units, named by the index of their first layer.

    Attributes:
        bodies: for source and target, index of a unit's first layer -> the indices of its layers, without the tail of
            its run.
        rest: index in the target of each layer before the first unit, or in a tail -> its index in the source.
    """

    bodies: tuple[Mapping[int, tuple[int, ...]], Mapping[int, tuple[int, ...]]]
    rest: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Layer:
    index: int = field(compare=False)
    sizes: _Sizes  # of each of its tensors
    kind: object  # names and numbers of dimensions of its tensors, and its operations; equal for layers of one kind


_Unit = tuple[_Layer, ...]


def layers_in_line(source: tuple[nn.Module, Trace], target: tuple[nn.Module, Trace]) -> list[InLine]:
    """Return the lines of layers in which the target has longer runs than the source, and no other difference.

    Args:
        source: the small model and its trace.
        target: the large model and its trace.
    """
    of_blocks = {*sequences(source[1].tensors), *sequences(target[1].tensors)}
    old, new = _lines(*source), _lines(*target)
    prefixes = sorted((old.keys() & new.keys()) - of_blocks)
    matched = (_matched(prefix, old[prefix], new[prefix]) for prefix in prefixes)
    return [line for line in matched if line is not None]


def _lines(model: nn.Module, trace: Trace) -> dict[str, list[_Layer]]:
    """Return the layers of every container that runs them one after the other, by the prefix of their paths."""
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
    path = f"{prefix}{index}"
    tensors = {name.removeprefix(f"{path}."): trace.tensors[name] for name in trace.tensors_in(path)}
    sizes = tuple((name, tuple(map(axis_size, axes))) for name, axes in sorted(tensors.items()))
    dimensions = tuple((name, len(shape)) for name, shape in sizes)
    return _Layer(index, sizes, (dimensions, work_of(trace, path)))


def _units(layers: Sequence[_Layer]) -> tuple[list[_Layer], list[_Unit]]:
    """Return the layers before the first unit, and the units."""
    heads = [i for i, layer in enumerate(layers) if any(len(shape) > 1 for _, shape in layer.sizes)]
    if not heads:
        return list(layers), []
    return list(layers[: heads[0]]), [tuple(layers[a:b]) for a, b in itertools.pairwise([*heads, len(layers)])]


def _matched(prefix: str, old: Sequence[_Layer], new: Sequence[_Layer]) -> InLine | None:
    """Return how the target's line comes from the source's, by longer runs; None if it does not."""
    (old_head, remaining), (new_head, units) = _units(old), _units(new)
    if len(units) <= len(remaining) or _kinds(old_head) != _kinds(new_head):
        return None
    rest = {b.index: a.index for a, b in zip(old_head, new_head, strict=True)}
    old_bodies: dict[int, tuple[int, ...]] = {}
    new_bodies: dict[int, tuple[int, ...]] = {}
    alike: dict[int, tuple[int, ...]] = {}
    for run in _runs(units):
        length = len(run[0])  # of each unit without the tail
        taken = _taken(remaining, run)
        if not taken:
            return None
        remaining = remaining[len(taken) :]
        old_bodies |= {unit[0].index: tuple(layer.index for layer in unit[:length]) for unit in taken}
        new_bodies |= {unit[0].index: tuple(layer.index for layer in unit[:length]) for unit in run}
        rest |= {b.index: a.index for a, b in zip(taken[-1][length:], run[-1][length:], strict=True)}
        alike |= {unit[0].index: tuple(old_unit[0].index for old_unit in taken) for unit in run}
    if remaining:
        return None
    return InLine(prefix, tuple(old_bodies), tuple(new_bodies), alike, (old_bodies, new_bodies), rest)


def _runs(units: Sequence[_Unit]) -> list[list[_Unit]]:
    """Return the units in runs: all units of a run start with the layers of its first, and the last may have a tail."""
    runs: list[list[_Unit]] = []
    for unit in units:
        last = runs[-1] if runs else None
        if last and _kinds(last[-1]) == _kinds(last[0]) and unit[: len(last[0])] == last[0]:
            last.append(unit)
        else:
            runs.append([unit])
    return runs


def _taken(units: Sequence[_Unit], run: Sequence[_Unit]) -> list[_Unit]:
    """Return the first units of the source, as far as a run of the target is made from them; empty if it is not.

    Args:
        units: the source's units that no run is made from yet.
        run: a run of the target.
    """
    taken: list[_Unit] = []
    for unit in units[: len(run)]:
        if taken and unit[: len(run[0])] != taken[0]:  # the first is not the last of its run, and so has no tail
            break
        taken.append(unit)
        if _kinds(unit) != _kinds(run[0]):  # has a tail, or is of another kind: its run ends here
            break
    is_whole = taken and _kinds(taken[-1]) == _kinds(run[-1])
    return taken if is_whole else []


def _kinds(unit: Sequence[_Layer]) -> list[object]:
    return [layer.kind for layer in unit]
