"""Rules for arithmetic: elementwise operations, creations, reductions, matrix products, attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from growtool.trace.axes import ONE, VARYING, Axis, fix, new_axes, new_axis
from growtool.trace.call import Axes, Call, Observer
from growtool.trace.table.kinds import Kind, reduced_dims
from growtool.trace.table.rules.views import same
from growtool.trace.unify import unify


def pointwise(tape: Observer, call: Call) -> Sequence[Axes]:
    """Unify the axes of operands that are broadcast against each other."""
    return [_broadcast(tape, call.ins, out) for out in call.outs]


def _broadcast(tape: Observer, operands: Sequence[Tensor], out: Tensor) -> Axes:
    result: list[Axis] = []
    for dim, size in enumerate(out.shape):
        axis: Axis | None = None
        for tensor in operands:
            tensor_dim = dim - (out.ndim - tensor.ndim)
            if tensor_dim < 0 or tensor.shape[tensor_dim] != size:
                continue
            if axis is None:
                axis = tape.axes(tensor)[tensor_dim]
            else:
                unify(axis, tape.axes(tensor)[tensor_dim])
        result.append(axis if axis is not None else new_axis(size))
    return tuple(result)


def created(tape: Observer, call: Call) -> Sequence[Axes]:
    """Return free axes: all values are alike."""
    return [new_axes(out.shape) for out in call.outs]


def created_uneven(tape: Observer, call: Call) -> Sequence[Axes]:
    """Return fixed axes: values differ along them."""
    return [new_axes(out.shape, VARYING) for out in call.outs]


def reduction(tape: Observer, call: Call) -> Sequence[Axes]:
    """Drop the reduced axes, or keep one position of each; fix them if a result is a position along them."""
    source = call.ins[0]
    axes = tape.axes(source)
    dims = reduced_dims(call, source.ndim)
    # max and min along a dimension return positions as well, as their second result
    gives_position = call.op.kind is Kind.POSITION or (call.op.kind is Kind.REDUCE and len(call.outs) == 2)
    for dim in dims if gives_position else ():
        fix(axes[dim], "a position among the channels")
    results = []
    for out in call.outs:
        keepdim = out.ndim == source.ndim
        results.append(tuple(ONE if i in dims else a for i, a in enumerate(axes) if keepdim or i not in dims))
    return results


def cumulative(tape: Observer, call: Call) -> Sequence[Axes]:
    fix(tape.axes(call.args[0])[call.arg(1, "dim")], "a running sum")
    return same(tape, call)


def matrix_product(tape: Observer, call: Call) -> Sequence[Axes]:
    return [_product(tape, call.args[0], call.args[1])]


def added_matrix_product(tape: Observer, call: Call) -> Sequence[Axes]:
    """Do as a matrix product, and unify the result with a bias that is broadcast to it."""
    result, bias = _product(tape, call.args[1], call.args[2]), call.args[0]
    for i in range(1, bias.ndim + 1):
        if bias.shape[-i] == call.outs[0].shape[-i]:
            unify(result[-i], tape.axes(bias)[-i])
    return [result]


def _product(tape: Observer, left: Tensor, right: Tensor) -> Axes:
    """Contract the last axis of one tensor with the last but one of another, or with the only one of a vector."""
    a, b = tape.axes(left), tape.axes(right)
    for x, y in zip(a[:-2], b[:-2], strict=True):
        unify(x, y)
    tape.contract(left, a[-1], right, b[-2] if len(b) > 1 else b[0])
    return a[:-1] + b[-1:] if len(b) > 1 else a[:-1]


def attention(tape: Observer, call: Call) -> Sequence[Axes]:
    """Unify the axes of softmax(q k^T) v, with tensors [..., tokens, channels]."""
    query, key, value = (tape.axes(tensor) for tensor in call.args[:3])
    for q, k, v in zip(query[:-2], key[:-2], value[:-2], strict=True):
        unify(q, k)
        unify(q, v)
    unify(key[-2], value[-2])
    tape.contract(call.args[0], query[-1], call.args[1], key[-1])
    auxiliary = [new_axes(out.shape, "bookkeeping of attention") for out in call.outs[1:]]
    return [(*query[:-1], value[-1]), *auxiliary]
