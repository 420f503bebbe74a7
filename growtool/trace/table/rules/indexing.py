"""Rules for operations that pick, move or drop positions: rolls, triangles, padding, indexing.

Axes whose positions are told apart by number keep their size and order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from growtool.trace.axes import LOOKED_UP, Unsolvable, fix, new_axes, new_axis, resolve
from growtool.trace.call import Axes, Call, Observer
from growtool.trace.table.rules.views import listed, replaced


def roll(tape: Observer, call: Call) -> Sequence[Axes]:
    return _fixed_along(tape, call, listed(call.arg(2, "dims", ())), "a roll")


def flip(tape: Observer, call: Call) -> Sequence[Axes]:
    return _fixed_along(tape, call, listed(call.arg(1, "dims")), "a flip")


def triangle(tape: Observer, call: Call) -> Sequence[Axes]:
    return _fixed_along(tape, call, (-2, -1), "a triangle")


def pad(tape: Observer, call: Call) -> Sequence[Axes]:
    """Add free axes at both ends of a padded dimension; a negative padding crops, which fixes the dimension.

    `pad` has two numbers for each dimension, beginning with the last.
    """
    axes, pads = list(tape.axes(call.args[0])), call.arg(1, "pad")
    for i in range(len(pads) // 2):
        dim, (left, right) = len(axes) - 1 - i, pads[2 * i : 2 * i + 2]
        if min(left, right) < 0:
            axes[dim] = replaced(axes[dim], call.outs[0].shape[dim], "cropping")
        elif left or right:
            axes[dim] = resolve((new_axis(left) if left else ()) + axes[dim] + (new_axis(right) if right else ()))
    return [tuple(axes)]


def index(tape: Observer, call: Call) -> Sequence[Axes]:
    """Fix the dimensions that are indexed by tensors, and the dimensions of these tensors."""
    source, indices = call.args[0], call.args[1]
    indexed = [dim for dim, tensor in enumerate(indices) if tensor is not None]
    if any(indices[dim].dtype in (torch.bool, torch.uint8) for dim in indexed):
        raise Unsolvable("indexing by a mask")
    axes = tape.axes(source)
    for dim in indexed:
        fix(axes[dim], LOOKED_UP)
        for axis in tape.axes(indices[dim]):
            fix(axis, LOOKED_UP)
    # torch puts the dimensions of the indices, broadcast, in place of adjacent indexed ones, else in front
    count = max(indices[dim].ndim for dim in indexed)
    at = indexed[0] if indexed == list(range(indexed[0], indexed[-1] + 1)) else 0
    rest = tuple(axis for dim, axis in enumerate(axes) if dim not in indexed)
    looked_up = new_axes(call.outs[0].shape[at : at + count], LOOKED_UP)
    return [rest[:at] + looked_up + rest[at:]]


def index_select(tape: Observer, call: Call) -> Sequence[Axes]:
    return _fixed_along(tape, call, [call.arg(1, "dim")], LOOKED_UP)


def embedding(tape: Observer, call: Call) -> Sequence[Axes]:
    """Fix the rows of a table [rows, channels] and the positions that look them up; the channels may grow."""
    table, positions = tape.axes(call.args[0]), tape.axes(call.args[1])
    for axis in (table[0], *positions):
        fix(axis, LOOKED_UP)
    return [(*new_axes(call.outs[0].shape[:-1], LOOKED_UP), table[1])]


def _fixed_along(tape: Observer, call: Call, dims: Sequence[int], why: str) -> Sequence[Axes]:
    """Fix some dimensions, all if none are given, and leave the others as they are."""
    source, out = call.args[0], call.outs[0]
    axes = list(tape.axes(source))
    for dim in dims or range(len(axes)):
        axes[dim] = replaced(axes[dim], out.shape[dim], why)
    return [tuple(axes)]
