"""Axes through operations that rearrange a tensor: reshape, permute, split, concatenate."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from growtool.trace.axes import ONE, Axis, ChannelGroup, Unsolvable, axis_size, cut, fix, new_axis, resolve
from growtool.trace.call import Axes, Call, Observer
from growtool.trace.unify import factor_out, unify


def same(tape: Observer, call: Call) -> Sequence[Axes]:
    """The result has the axes of the first operand."""
    return [tape.axes(call.ins[0])] * len(call.outs)


def reshape(tape: Observer, call: Call) -> Sequence[Axes]:
    source = call.ins[0]
    return [reshaped(tape.axes(source), list(source.shape), list(call.outs[0].shape))]


def reshaped(axes: Axes, sizes: list[int], shape: list[int]) -> Axes:
    """Axes of a row-major view: runs of dimensions of equal product are flattened and split again, innermost first."""
    result: list[Axis] = []
    for (a, b), (c, d) in _runs(sizes, shape):
        group, wanted = axes[a:b], shape[c:d]
        kept = [axis for axis in group if axis_size(axis) > 1]
        if [axis_size(axis) for axis in kept] == [n for n in wanted if n > 1]:
            rest = iter(kept)
            result += [next(rest) if n > 1 else ONE for n in wanted]
        else:
            result += _split_flat(resolve((tuple(group),)), wanted, group)
    return tuple(result)


def _split_flat(flat: Axis, wanted: list[int], group: Axes) -> list[Axis]:
    parts: list[Axis] = []
    try:
        for n in reversed(wanted):
            flat, inner = factor_out(flat, n)
            parts.insert(0, inner)
    except Unsolvable as reason:
        why = f"a view that cuts across its layout ({reason})"
        for axis in group:
            fix(axis, why)
        return [new_axis(n, why) for n in wanted]
    return parts


def _runs(sizes: list[int], shape: list[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The shortest runs of old and new dimensions whose products agree, in order."""
    runs, i, j = [], 0, 0
    while i < len(sizes) or j < len(shape):
        start, old, new = (i, j), 1, 1
        while (i, j) == start or old != new:
            if (old <= new and i < len(sizes)) or j == len(shape):
                old *= sizes[i]
                i += 1
            else:
                new *= shape[j]
                j += 1
        while j < len(shape) and shape[j] == 1:
            j += 1
        runs.append(((start[0], i), (start[1], j)))
    return runs


def permute(tape: Observer, call: Call) -> Sequence[Axes]:
    axes = tape.axes(call.args[0])
    return [tuple(axes[i] for i in call.arg(1, "dims"))]


def transpose(tape: Observer, call: Call) -> Sequence[Axes]:
    axes = list(tape.axes(call.args[0]))
    i, j = call.arg(1, "dim0"), call.arg(2, "dim1")
    axes[i], axes[j] = axes[j], axes[i]
    return [tuple(axes)]


def matrix_transpose(tape: Observer, call: Call) -> Sequence[Axes]:
    return [tape.axes(call.args[0])[::-1]]


def unsqueeze(tape: Observer, call: Call) -> Sequence[Axes]:
    axes = list(tape.axes(call.args[0]))
    axes.insert(call.arg(1, "dim") % call.outs[0].ndim, ONE)
    return [tuple(axes)]


def squeeze(tape: Observer, call: Call) -> Sequence[Axes]:
    source = call.args[0]
    dims = call.arg(1, "dim")
    dims = range(source.ndim) if dims is None else [d % source.ndim for d in listed(dims)]
    return [tuple(a for i, a in enumerate(tape.axes(source)) if not (i in dims and source.shape[i] == 1))]


def expand(tape: Observer, call: Call) -> Sequence[Axes]:
    source, out = call.args[0], call.outs[0]
    axes, lead = tape.axes(source), out.ndim - source.ndim
    return [
        tuple(
            new_axis(n) if i < lead or source.shape[i - lead] != n else axes[i - lead] for i, n in enumerate(out.shape)
        )
    ]


def repeat(tape: Observer, call: Call) -> Sequence[Axes]:
    axes = (ONE,) * (call.outs[0].ndim - call.args[0].ndim) + tape.axes(call.args[0])
    times = call.arg(1, "repeats")
    return [tuple(a if n == 1 else resolve(((ChannelGroup(n), a),)) for a, n in zip(axes, times, strict=True))]


def select(tape: Observer, call: Call) -> Sequence[Axes]:
    source, dim, index = call.args[0], call.arg(1, "dim"), call.arg(2, "index")
    dim %= source.ndim
    axes = tape.axes(source)
    tape.when_read(call.outs[0], partial(_set_apart, axes[dim], index % source.shape[dim]))
    return [axes[:dim] + axes[dim + 1 :]]


def _set_apart(axis: Axis, position: int) -> None:
    """Growth keeps a position that is read alone: the channels before and behind it grow as two."""
    try:
        cut(cut(axis, position)[1], 1)
    except Unsolvable as reason:
        fix(axis, str(reason))


def unbind(tape: Observer, call: Call) -> Sequence[Axes]:
    source = call.args[0]
    dim = call.arg(1, "dim", 0) % source.ndim
    axes = tape.axes(source)
    rest = axes[dim]
    while rest:
        rest = cut(rest, 1)[1]
    return [axes[:dim] + axes[dim + 1 :]] * len(call.outs)


def take_slice(tape: Observer, call: Call) -> Sequence[Axes]:
    source, out = call.args[0], call.outs[0]
    dim = call.arg(1, "dim", 0) % source.ndim
    size = source.shape[dim]
    start, stop, step = call.arg(2, "start") or 0, call.arg(3, "end"), call.arg(4, "step", 1)
    start, stop, step = slice(start, stop, step).indices(size)
    axes = list(tape.axes(source))
    if step == 1:
        axes[dim] = cut(cut(axes[dim], start)[1], max(stop - start, 0))[0] if (start, stop) != (0, size) else axes[dim]
    else:
        axes[dim] = _strided(axes[dim], step, out.shape[dim])
    return [tuple(axes)]


def _strided(axis: Axis, step: int, taken: int) -> Axis:
    """The axis of every step-th position; one that is laid out otherwise (windows of 7 by steps of 2) is replaced."""
    if axis_size(axis) == taken * step:
        with contextlib.suppress(Unsolvable):
            rest, position = factor_out(axis, step)
            fix(position, "a strided slice")
            return rest
    return replaced(axis, taken, "a strided slice")


def split(tape: Observer, call: Call) -> Sequence[Axes]:
    source = call.args[0]
    dim = call.arg(2, "dim", 0) % source.ndim
    axes = tape.axes(source)
    rest, parts = axes[dim], []
    for out in call.outs:
        part, rest = cut(rest, out.shape[dim])
        parts.append((*axes[:dim], part, *axes[dim + 1 :]))
    return parts


def concatenate(tape: Observer, call: Call) -> Sequence[Axes]:
    tensors = [t for t in call.args[0] if t.shape != (0,)]
    dim = call.arg(1, "dim", 0) % call.outs[0].ndim
    result = list(tape.axes(tensors[0]))
    for tensor in tensors[1:]:
        for i, axis in enumerate(tape.axes(tensor)):
            if i != dim:
                unify(result[i], axis)
    result[dim] = resolve(tuple(segment for tensor in tensors for segment in tape.axes(tensor)[dim]))
    return [tuple(result)]


def stack(tape: Observer, call: Call) -> Sequence[Axes]:
    dim = call.arg(1, "dim", 0) % call.outs[0].ndim
    axes = [tape.axes(tensor) for tensor in call.args[0]]
    for other in axes[1:]:
        for a, b in zip(axes[0], other, strict=True):
            unify(a, b)
    return [(*axes[0][:dim], ((),) * len(axes), *axes[0][dim:])]


def as_strided(tape: Observer, call: Call) -> Sequence[Axes]:
    before, after = call.args[0], call.outs[0]
    kept = [(t.shape, t.stride(), t.storage_offset()) for t in (before, after)]
    if kept[0] != kept[1]:
        raise Unsolvable("a strided view")
    return same(tape, call)


def replaced(axis: Axis, size: int, why: str) -> Axis:
    """Fix an axis whose positions are picked, moved or dropped; the axis of what comes out."""
    fix(axis, why)
    return new_axis(size, why)


def listed(value: int | Sequence[int]) -> list[int]:
    """A dimension or several, as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]  # type: ignore[list-item]
