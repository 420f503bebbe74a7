"""What an operation passes on besides axes: the parameters that a tensor is made of, and its flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from growtool.trace.call import Call, Observer
from growtool.trace.flow.flow import (
    Base,
    Flow,
    Normed,
    Params,
    activated,
    added,
    joined,
    normed_again,
    passed,
    rearranged,
    sliced,
)
from growtool.trace.flow.identity_layers import identity_layer
from growtool.trace.flow.layout import Layout, permuted, reshaped
from growtool.trace.steps import is_finite_at_zero
from growtool.trace.table.kinds import Kind, gain_and_shift, is_linear_per_channel, keeps_zero
from growtool.trace.table.signature import scalars

_ZERO_OF_ZEROS = (Kind.SUM, Kind.VARIANCE)  # over whole dimensions: sums, lengths and deviations


def params_after(tape: Observer, call: Call) -> Params | None:
    """Return the parameters that the result is made of; None if it depends on the input.

    A product that sums over parameters with parameters counts as an activation.
    """
    made_of = [tape.value(tensor).params for tensor in call.ins]
    if call.op.kind is Kind.CREATE:
        return frozenset()
    if any(params is None for params in made_of):
        return None
    if call.op.sums_products and sum(map(bool, made_of)) > 1:
        return None
    return frozenset().union(*(params for params in made_of if params))


def flow_after(tape: Observer, call: Call) -> Flow:
    """Return the flow of the result; a fresh one where nothing is known for certain."""
    activations = [value.flow for value in map(tape.value, call.ins) if value.params is None]
    result = _without_lost(tape, call, activations)
    here = f"{call.name} in {tape.module or 'the model itself'}"
    lost = {token: where for flow in reversed(activations) for token, where in flow.lost.items()}
    lost |= {token: here for flow in activations for token in (*flow.bases, flow.token)}
    ended = {token: where for token, where in lost.items() if token not in result.bases}
    return replace(result, lost=ended) if ended or result.lost else result


def _without_lost(tape: Observer, call: Call, activations: Sequence[Flow]) -> Flow:
    """Return the flow of the result, but for `lost`; `activations` are the flows of operands that are activations."""
    if not activations:
        return Flow(zeroed_by=_zeroed_by(tape, call))
    first, shape = activations[0], call.ins[0].shape
    if call.name == "add" and len(activations) == 2 and call.ins[0].shape == call.ins[1].shape:
        return added(first, activations[1], shape) if call.arg(2, "alpha", 1) == 1 else Flow()
    if call.op.keeps_all and len(activations) == 1:
        return rearranged(first, shape, lambda layout: _moved(layout, call))
    if call.op.idempotent and keeps_zero(call):
        return activated(first, shape, f"{call.name}{scalars(call)}")
    if call.name == "slice" and len(call.ins) == 1 and call.arg(4, "step", 1) == 1:
        dim = call.arg(1, "dim", 0) % len(shape)
        start, stop, _ = slice(call.arg(2, "start"), call.arg(3, "end")).indices(shape[dim])
        return sliced(first, shape, dim, start, stop)
    return Flow(
        bases=_bases(tape, call, activations),
        zeroed_by=_zeroed_by(tape, call),
        activation=first.activation if (call.op.moves or call.op.kind is Kind.POOL) and len(call.ins) == 1 else None,
        normed=_normed(tape, call),
    )


def _bases(tape: Observer, call: Call, activations: Sequence[Flow]) -> dict[int, Base]:
    """Return the bases of the result of a concatenation, of a norm, or of a layer that can be the identity."""
    if call.name == "cat" and len(activations) == len(call.ins):
        return joined(activations, [t.shape for t in call.ins], call.arg(1, "dim", 0) % call.ins[0].ndim)
    norm = _normed(tape, call) if len(activations) == 1 else None
    if norm is not None:
        return normed_again(activations[0], call.ins[0].shape, norm)
    layer = identity_layer(tape, call) if len(activations) == 1 else None
    if layer is None:
        return {}
    activation = next(t for t in call.ins if tape.value(t).params is None)
    return passed(activations[0], activation.shape, layer)


def _normed(tape: Observer, call: Call) -> Normed | None:
    """Return the LayerNorm that an operation is, if its gain, and its shift if any, are parameters; else None."""
    if call.op.kind is not Kind.LAYER_NORM:
        return None
    affine = gain_and_shift(call)
    names = [None if tensor is None else tape.value(tensor).stored for tensor in affine]
    if names[0] is None or any(name is None and affine[i] is not None for i, name in enumerate(names)):
        return None
    norm = (call.name, tuple(call.args[1]), *(tensor is not None for tensor in affine))
    return Normed(norm, frozenset(name for name in names if name is not None))


def scaling(tape: Observer, call: Call) -> tuple[str, Params | None] | None:
    """Return a parameter that scales an activation (LayerScale), with the parameters that zero the activation itself.

    None for any operation that is no product of an activation with one parameter.
    """
    if call.name != "mul" or len(call.ins) != 2:
        return None
    values = [tape.value(tensor) for tensor in call.ins]
    scales = [value.params for value in values if value.params]
    branches = [value.flow.zeroed_by for value in values if value.params is None]
    if len(scales) != 1 or len(branches) != 1 or len(scales[0]) != 1:
        return None
    (scale,) = scales[0]
    return scale, branches[0]


def _moved(layout: Layout, call: Call) -> Layout | None:
    """Return the layout after an operation that only rearranges; None if it cannot be written down."""
    ndim = call.ins[0].ndim
    if call.name == "permute":
        return permuted(layout, call.args[1])
    if call.op.kind in (Kind.PERMUTE, Kind.TRANSPOSE):
        one, other = (call.args[1] % ndim, call.args[2] % ndim) if call.name == "transpose" else (0, ndim - 1)
        order = list(range(ndim))
        order[one], order[other] = other, one
        return permuted(layout, order)
    return reshaped(layout, call.outs[0].shape)


def _zeroed_by(tape: Observer, call: Call) -> Params | None:
    """Return parameters that make the result zero if they are zero; None if none are known.

    Where a weight or an activation can do so, the weight is preferred: the last affine layer on the way.
    """
    if not call.ins:  # torch.div(4, 2)
        return None
    if call.op.affine:
        gain, shift = gain_and_shift(call)
        if gain is None:  # the normalised values remain, whatever the shift is
            return None
        return _all_zero(tape, [gain] if shift is None else [gain, shift])
    if call.op.sums_products:
        bias, operands = _bias_and_operands(call)
        product = _any_zero(tape, operands)
        shift = _all_zero(tape, [bias]) if bias is not None else frozenset[str]()
        return product | shift if product is not None and shift is not None else None
    if call.op.kind is Kind.JOIN:
        return _all_zero(tape, call.ins)
    if call.op.kind is Kind.ADD:
        return _all_zero(tape, call.ins) if len(call.ins) == 2 else None
    if call.name == "mul":
        return _any_zero(tape, call.ins)
    if call.name == "div":
        return _quotient_zeroed_by(tape, call)
    if len(call.ins) == 1 and _keeps_zeros(call):
        return tape.value(call.ins[0]).flow.zeroed_by
    return None


def _quotient_zeroed_by(tape: Observer, call: Call) -> Params | None:
    dividend = tape.value(call.ins[0]).flow.zeroed_by
    for divisor in map(tape.value, call.ins[1:]):
        # 0 / 0: an activation may be zero as well, and so may a parameter that the same zeros reach
        if divisor.params is None or not (dividend or frozenset()).isdisjoint(divisor.flow.zeroed_by or ()):
            return None
    return dividend


def infinite_by(tape: Observer, call: Call) -> Params | None:
    """Return parameters that make the result infinite or NaN if they are zero; None if none do."""
    if call.name == "div" and len(call.ins) == 2:
        return tape.value(call.ins[1]).flow.zeroed_by or None
    zero = tape.value(call.ins[0]).flow.zeroed_by if len(call.ins) == 1 and call.op.pointwise else None
    return zero if zero and not keeps_zero(call) and not is_finite_at_zero(call) else None


def _keeps_zeros(call: Call) -> bool:
    """Return whether an operation of one tensor gives zeros if all values are zero."""
    return (
        is_linear_per_channel(call) or keeps_zero(call) or call.op.kind in _ZERO_OF_ZEROS or call.name in ("max", "min")
    )


def _bias_and_operands(call: Call) -> tuple[Tensor | None, list[Tensor]]:
    """Return the bias of a matrix product or convolution, None without one, and the tensors that are multiplied."""
    if call.op.factors == 1:
        return call.ins[0], list(call.ins[1:])
    if call.op.kind is Kind.CONVOLUTION and len(call.ins) == 3:
        return call.ins[2], list(call.ins[:2])
    return None, list(call.ins)


def _all_zero(tape: Observer, tensors: Sequence[Tensor]) -> Params | None:
    """Return parameters that make all of the tensors zero; None if one cannot be made so."""
    zeroed_by = [tape.value(tensor).flow.zeroed_by for tensor in tensors]
    return None if any(params is None for params in zeroed_by) else frozenset().union(*(p for p in zeroed_by if p))


def _any_zero(tape: Observer, tensors: Sequence[Tensor]) -> Params | None:
    """Return parameters that make one of the tensors zero, preferably a weight; None if none can be made so."""
    weights_first = sorted(tensors, key=lambda tensor: tape.value(tensor).params is None)
    zeroed_by = (tape.value(tensor).flow.zeroed_by for tensor in weights_first)
    return next((params for params in zeroed_by if params is not None), None)
