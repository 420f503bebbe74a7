"""Rules for operations that rearrange a tensor: reshape, permute, split, concatenate."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from growtool.trace.axes import ONE, Axis, ChannelGroup, Unsolvable, axis_size, cut, fix, new_axes, new_axis, resolve
from growtool.trace.call import Axes, Call, Observer
from growtool.trace.unify import factor_out, unify


def same(tape: Observer, call: Call) -> Sequence[Axes]:
    """Return the axes of the first operand for each result."""
    return [tape.axes(call.ins[0])] * len(call.outs)


def reshape(tape: Observer, call: Call) -> Sequence[Axes]:
    source = call.ins[0]
    return [reshaped(tape.axes(source), list(source.shape), list(call.outs[0].shape))]


def reshaped(axes: Axes, sizes: list[int], shape: list[int]) -> Axes:
    """Return the axes of a row-major view.

    Runs of old and new dimensions with equal products are matched; the old axes of a run are flattened, and the flat
    axis is split into the new ones.

    Args:
        axes: axes of the tensor.
        sizes: sizes of its dimensions.
        shape: sizes of the dimensions of the view.
    """
    result: list[Axis] = []
    for (a, b), (c, d) in _runs(sizes, shape):
        old, new_sizes = axes[a:b], shape[c:d]
        kept = [axis for axis in old if axis_size(axis) > 1]
        if [axis_size(axis) for axis in kept] == [n for n in new_sizes if n > 1]:
            # only dimensions of size 1 come or go, and the axes stay whole
            remaining = iter(kept)
            result += [next(remaining) if n > 1 else ONE for n in new_sizes]
        else:
            result += _split_flat(old, new_sizes)
    return tuple(result)


def _split_flat(axes: Axes, sizes: list[int]) -> list[Axis]:
    """Flatten axes and split the result into axes of other sizes; fix all of them if their layouts do not allow it."""
    flat = resolve((tuple(axes),))
    parts: list[Axis] = []
    try:
        for n in reversed(sizes):
            flat, inner = factor_out(flat, n)
            parts.insert(0, inner)
    except Unsolvable as error:
        reason = f"a view that cuts across its layout ({error})"
        for axis in axes:
            fix(axis, reason)
        return list(new_axes(sizes, reason))
    return parts


def _runs(sizes: list[int], shape: list[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the shortest runs of old and new dimensions with equal products, in order, as ranges of indices.

    [2, 3, 4] and [6, 2, 2] are 2 x 3 against 6, and 4 against 2 x 2: ((0, 2), (0, 1)) and ((2, 3), (1, 3)).
    """
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
        while j < len(shape) and shape[j] == 1:  # joins this run, as no old dimension may be left for it
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
    """Give dimensions that are new or repeated a free axis: the same values stand at each of its positions."""
    source, out = call.args[0], call.outs[0]
    axes, lead = tape.axes(source), out.ndim - source.ndim
    return [
        tuple(
            new_axis(n) if i < lead or source.shape[i - lead] != n else axes[i - lead] for i, n in enumerate(out.shape)
        )
    ]


def repeat(tape: Observer, call: Call) -> Sequence[Axes]:
    """Make each repeated axis a product of the repetitions, which may grow, times the axis itself."""
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
    """Make a position that is read alone one of its own; the channels before it and behind it become two groups."""
    try:
        cut(cut(axis, position)[1], 1)
    except Unsolvable as reason:
        fix(axis, str(reason))


def unbind(tape: Observer, call: Call) -> Sequence[Axes]:
    """Cut the axis into single positions, which keep their number: the model handles each on its own."""
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
    if step != 1:
        axes[dim] = _strided(axes[dim], step, out.shape[dim])
    elif (start, stop) != (0, size):
        axes[dim] = cut(cut(axes[dim], start)[1], max(stop - start, 0))[0]
    return [tuple(axes)]


def _strided(axis: Axis, step: int, taken: int) -> Axis:
    """Return the axis of every step-th position: the outer one of a product with `step` inner positions.

    An axis that is no such product (windows of 7 by steps of 2) is fixed, and has a new one in its place.
    """
    if axis_size(axis) == taken * step:
        with contextlib.suppress(Unsolvable):
            outer, inner = factor_out(axis, step)
            fix(inner, "a strided slice")
            return outer
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
    tensors = [t for t in call.args[0] if t.shape != (0,)]  # torch.cat skips an empty vector, whatever the others are
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
    stacked = ONE * len(axes)  # a segment of size 1 for each tensor: their number stays
    return [(*axes[0][:dim], stacked, *axes[0][dim:])]


def as_strided(tape: Observer, call: Call) -> Sequence[Axes]:
    """Let a view pass that is laid out as its operand is; refuse any other."""
    before, after = ((t.shape, t.stride(), t.storage_offset()) for t in (call.args[0], call.outs[0]))
    if before != after:
        raise Unsolvable("a strided view")
    return same(tape, call)


def replaced(axis: Axis, size: int, why: str) -> Axis:
    """Fix an axis whose positions are picked, moved or dropped; return a fixed axis of `size` for the result."""
    fix(axis, why)
    return new_axis(size, why)


def listed(value: int | Sequence[int]) -> list[int]:
    """Return one dimension or several as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]  # type: ignore[list-item]
